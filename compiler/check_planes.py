"""Part of ``check.py``: weights, activations and accumulators of the MXM planes."""

import numpy as np

from waterclock.compiler.check_history import History
from waterclock.compiler.check_issues import Group, Ints, Issued, Violations
from waterclock.isa import mxm
from waterclock.isa.config import Config

EMPTY = -1  #: what a buffer, array or accumulator holds at launch


def check_planes(issued: Issued, violations: Violations) -> None:
    """Check what every IW, ABC and ACC finds in its plane."""
    _check_weights(issued, violations)
    _check_activations(issued, violations)
    _check_accumulators(issued, violations)


def _plane(group: Group, issued: Issued) -> Ints:
    """Return the number of each issue's plane, counted over both hemispheres."""
    return group.side * issued.config.planes + group.unit


def _end(issued: Issued) -> int:
    """Return a cycle beyond all that these checks ask about."""
    return (
        int(issued.cycle.max(initial=0)) + mxm.weights_at(issued.config) + issued.config.digits + 1
    )


def _found(held: Ints, mark: Ints) -> Ints:
    """Return what marks left behind, ``EMPTY`` where there was no mark (-1)."""
    return np.append(held, EMPTY)[mark]


def _name(value: int) -> str:
    return "nothing" if value == EMPTY else f"value {value}"


def _check_weights(issued: Issued, violations: Violations) -> None:
    """Follow the buffer of each plane through its LWs; check each IW and the array of each ABC."""
    config, digits = issued.config, issued.config.digits
    load, install, abc = (issued.groups[op] for op in (mxm.LW, mxm.IW, mxm.ABC))
    tiles = np.full(len(install.issue), EMPTY, np.int64)
    for plane in np.unique(_plane(install, issued)).tolist():
        mine = np.flatnonzero(_plane(install, issued) == plane)
        loads = np.flatnonzero(_plane(load, issued) == plane)
        tiles[mine] = _installed(load, loads, install.cycle[mine], config)
    violations.expect(
        tiles != EMPTY,
        install.issue,
        lambda _: (
            f"iw: expected a buffer filled by LW with all {config.vector} vectors of one "
            f"tile in one order, found it incomplete"
        ),
    )
    history = History(_plane(install, issued), install.cycle, _end(issued))
    plane, first = _plane(abc, issued), abc.cycle + mxm.weights_at(config)
    at_first, at_last = (history.before(plane, cycle) for cycle in (first, first + digits - 1))
    array, meant = _found(tiles, at_first), abc.intents["weights"]
    violations.expect(
        array == meant,
        abc.issue,
        lambda i: f"abc weights: expected value {meant[i]}, found {_name(int(array[i]))}",
    )
    violations.expect(
        at_first == at_last,
        abc.issue,
        lambda i: (
            f"abc weights: expected value {meant[i]} for {digits} cycles, found them "
            f"changed by {issued.at(int(install.issue[at_last[i]]))}"
        ),
    )
    order = np.lexsort((abc.cycle, plane))
    near = np.flatnonzero((np.diff(plane[order]) == 0) & (np.diff(abc.cycle[order]) < digits))
    violations.expect(
        np.zeros(len(near), np.bool_),
        abc.issue[order[near + 1]],
        lambda i: (
            f"abc: expected {digits} cycles after the one before, found "
            f"{issued.at(int(abc.issue[order[near[i]]]))}"
        ),
    )


def _installed(load: Group, loads: Ints, cycles: Ints, config: Config) -> Ints:
    """Return the tile in one plane's buffer in each of ``cycles``, ``EMPTY`` if not complete."""
    rows, orders = load.fields["row"][loads].tolist(), load.fields["order"][loads].tolist()
    tiles, times = load.intents["tile"][loads].tolist(), load.cycle[loads].tolist()
    buffer = np.full(config.vector, EMPTY, np.int64)
    found: list[int] = []
    done, order = 0, EMPTY
    for cycle in cycles.tolist():
        while done < len(times) and times[done] < cycle:
            if orders[done] != order:  # rows across columns leave no vector whole
                buffer[:] = EMPTY
                order = orders[done]
            buffer[rows[done] : rows[done] + config.load_streams] = tiles[done]
            done += 1
        found.append(int(buffer[0]) if (buffer == buffer[0]).all() else EMPTY)
    return np.array(found, np.int64)


def _check_activations(issued: Issued, violations: Violations) -> None:
    """Check the activation buffer entry of each ABC; an ABL is seen from the next cycle."""
    load, abc = issued.groups[mxm.ABL], issued.groups[mxm.ABC]

    def place(group: Group) -> Ints:
        return _plane(group, issued) * issued.config.act_entries + group.fields["entry"]

    history = History(place(load), load.cycle, _end(issued))
    found = _found(load.intents["src"], history.before(place(abc), abc.cycle))
    meant = abc.intents["entry"]
    violations.expect(
        found == meant,
        abc.issue,
        lambda i: (
            f"abc entry {abc.fields['entry'][i]}: expected value {meant[i]}, "
            f"found {_name(int(found[i]))}"
        ),
    )


def _check_accumulators(issued: Issued, violations: Violations) -> None:
    """Check what each ABC adds to or keeps, and what each ACC emits."""
    abc, acc = issued.groups[mxm.ABC], issued.groups[mxm.ACC]

    def place(group: Group) -> Ints:
        return _plane(group, issued) * issued.config.acc_entries + group.fields["acc"]

    history = History(place(abc), abc.cycle, _end(issued))
    before = _found(abc.intents["after"], history.before(place(abc), abc.cycle))
    add = abc.fields["add"] == 1
    keeps = add | (abc.fields["window"] == mxm.Window.OUTPUT)
    held, meant = np.where(keeps, before, EMPTY), abc.intents["before"]
    violations.expect(
        (held == meant) & (~add | (held != EMPTY)),
        abc.issue,
        lambda i: (
            f"abc accumulator {abc.fields['acc'][i]}: expected {_name(int(meant[i]))} "
            f"before{', to add to' if add[i] else ''}, found {_name(int(held[i]))}"
            f"{'' if keeps[i] else ' kept'}"
        ),
    )
    # An ACC sees every ABC issued acc_delay cycles before it, or earlier.
    seen = history.before(place(acc), acc.cycle - mxm.acc_delay(issued.config) + 1)
    found, emitted = _found(abc.intents["after"], seen), acc.intents["acc"]
    violations.expect(
        found == emitted,
        acc.issue,
        lambda i: (
            f"acc accumulator {acc.fields['acc'][i]}: expected value {emitted[i]}, "
            f"found {_name(int(found[i]))}"
        ),
    )
