"""Part of ``check.py``: are the operands of every issue legal, whatever the other issues do?"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from waterclock.compiler.check_history import spread
from waterclock.compiler.check_issues import Bools, Group, Ints, Issued, Violations
from waterclock.isa import mem, mxm, sxm, vxm
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.spec import Operand, Role
from waterclock.isa.streams import (
    ID_BITS,
    SOURCE_ALU,
    SOURCE_IMM,
    STREAM_BITS,
    TARGET_NONE,
    TARGET_STREAM,
    source_text,
    stream_text,
    target_text,
)

#: Columns of intents that speak of the operand of the same name.
OPERANDS = ("src", "map", "a", "b")
#: What a MEM slice does with a row, and its stream.
ROWS = ((mem.Read, "dst"), (mem.Gather, "dst"), (mem.Write, "src"), (mem.Scatter, "src"))


@dataclasses.dataclass(frozen=True)
class Use:
    """A stream operand of a group, one entry a stream: (entries,) int64."""

    spec: Operand
    which: Ints  #: place of the issue in its group
    offset: Ints  #: which of the operand's streams
    code: Ints  #: stream code


def uses(group: Group, role: Role, config: Config) -> Iterator[Use]:
    """Go through the operands of a group that read or drive streams. They must be legal."""
    for spec in group.op.operands:
        if spec.role is role:
            used = is_stream(group, spec)
            which, offset = spread(np.where(used, spans(group, spec, config), 0))
            code = group.fields[spec.name][which] & (1 << STREAM_BITS) - 1
            yield Use(spec, which, offset, code + offset)


def is_stream(group: Group, spec: Operand) -> Bools:
    """Return where an operand is a stream: not a bus, an immediate or nothing."""
    code = group.fields[spec.name]
    if spec.kind == "target":
        return (code & TARGET_STREAM) != 0
    return (code < SOURCE_ALU) & takes(group, spec.name)


def takes(group: Group, name: str) -> bool:
    """Tell whether an instruction takes its operand: ``b`` only when it takes two values."""
    return name != "b" or vxm.ARITY[group.op] == 2


def spans(group: Group, spec: Operand, config: Config) -> Ints:
    """Return how many streams an operand spans in each issue."""
    sizes = np.zeros(len(group.issue), np.int64)
    # The span of Rotate depends on its count, all others on the configuration alone.
    count = group.fields["count"] if group.op is sxm.Rotate else sizes
    for value in np.unique(count).tolist():
        where = np.flatnonzero(count == value)
        example = {name: int(field[where[0]]) for name, field in group.fields.items()}
        sizes[where] = spec.span(group.op(**example), config)
    return sizes


def check_operands(issued: Issued, violations: Violations) -> None:
    """Check every field of every issue against the configuration."""
    config = issued.config
    below = {
        "addr": config.depth,
        "lane": mem.map_lanes(config),
        "row": config.vector - config.load_streams + 1,
        "entry": config.act_entries,
        "acc": config.acc_entries,
    }
    for group in issued.groups.values():
        for spec in group.op.operands:
            limit = len(spec.names) or below.get(spec.name)
            if limit is not None:
                _expect_below(group, spec, limit, violations)
            if spec.kind in ("stream", "source", "target"):
                _check_streams(group, spec, config, violations)
        _check_absent(group, violations)
    _check_features(issued, violations)
    _check_turns(issued, violations)
    _check_map_paths(issued, violations)
    if config.wide:
        _check_wide_paths(issued, violations)
    _check_rows(issued, violations)
    if not config.reduce_streams:
        _check_reductions(issued, violations)
    if not config.b_streams:
        _check_second_operands(issued, violations)
    if not config.integers:
        _check_formats(issued, violations)
    rotate, abc = issued.groups[sxm.Rotate], issued.groups[mxm.ABC]
    count = rotate.fields["count"]
    violations.expect(
        (count >= 2) & (count <= 4),
        rotate.issue,
        lambda i: f"rotate count: expected 2, 3 or 4, found {count[i]}",
    )
    window, first, last = (abc.fields[name] for name in ("window", "first", "last"))
    violations.expect(
        (window == mxm.Window.ALL) | (first <= last) & (last < config.vector),
        abc.issue,
        lambda i: (
            f"abc window: expected lanes within 0 to {config.vector - 1}, "
            f"found {first[i]} to {last[i]}"
        ),
    )


def _expect_below(group: Group, spec: Operand, limit: int, violations: Violations) -> None:
    value = group.fields[spec.name]
    violations.expect(
        value < limit,
        group.issue,
        lambda i: f"{group.op.mnemonic} {spec.name}: expected below {limit}, found {value[i]}",
    )


def _check_streams(group: Group, spec: Operand, config: Config, violations: Violations) -> None:
    """Check that an operand names streams, buses or nothing that exist, aligned and outward."""
    field, span = group.fields[spec.name], spans(group, spec, config)
    code = field & (1 << STREAM_BITS) - 1
    number = code & (1 << ID_BITS) - 1
    stream = is_stream(group, spec)
    what = f"{group.op.mnemonic} {spec.name}"
    unit = spec.unit(group.op, config)
    violations.expect(
        ~stream | (number + span <= config.streams),
        group.issue,
        lambda i: (
            f"{what}: expected {span[i]} of {config.streams} streams, "
            f"found {stream_text(int(code[i]))} and up"
        ),
    )
    violations.expect(
        ~stream | (number % unit == 0),
        group.issue,
        lambda i: f"{what}: expected a multiple of {unit}, found {stream_text(int(code[i]))}",
    )
    if spec.kind == "source" and takes(group, spec.name):
        # The lane reduction has a bus too, after those of the ALUs, but no immediate.
        bus = (field >= SOURCE_ALU) & (field <= SOURCE_ALU + len(config.alus))
        legal = stream | bus | (field == SOURCE_IMM) & (group.op.kind == "alu")
        violations.expect(
            legal,
            group.issue,
            lambda i: (
                f"{what}: expected a stream, one of {len(config.alus)} ALUs or an "
                f"immediate that exists, found {source_text(int(field[i]))} (code {field[i]:#x})"
            ),
        )
    if spec.kind == "target":
        violations.expect(
            stream | (field == TARGET_NONE),
            group.issue,
            lambda i: (
                f"{what}: expected a stream or none, found {target_text(int(field[i]))} "
                f"(code {field[i]:#x})"
            ),
        )
    # So are the operands of MXM, and what MEM samples where streams share paths.
    samples = group.op.kind in ("mem_read", "mem_write") and spec.role is Role.READS
    if group.op.kind.startswith("mxm") or (samples and mem.map_path(config) is not None):
        outward = np.array([int(side.outward) for side in Hemisphere])[group.side]
        right = outward if spec.role is Role.READS else 1 - outward
        violations.expect(
            code >> ID_BITS == right,
            group.issue,
            lambda i: (
                f"{what}: expected a stream that flows "
                f"{'out' if spec.role is Role.READS else 'in'}ward, "
                f"found {stream_text(int(code[i]))}"
            ),
        )


def _check_absent(group: Group, violations: Violations) -> None:
    """Check that intents name a value exactly where the instruction takes or drives one."""
    specs = {spec.name: spec for spec in group.op.operands}
    for name, value in group.intents.items():
        present = np.ones(len(group.issue), np.bool_)
        may_be_absent = False
        if name in OPERANDS:
            present &= name in specs and takes(group, name)
            if name in specs and specs[name].kind == "source":
                present &= group.fields[name] != SOURCE_IMM
        elif name == "out" and specs["dst"].kind == "target":
            present = is_stream(group, specs["dst"])
            may_be_absent = True
        elif name == "before":
            continue
        violations.expect(
            np.where(present, value >= 0, (value == -1) | may_be_absent),
            group.issue,
            lambda i, name=name, value=value, present=present: (
                f"{group.op.mnemonic} intent {name}: expected "
                f"{'a value' if present[i] else 'none (-1)'}, found {value[i]}"
            ),
        )


def _check_map_paths(issued: Issued, violations: Violations) -> None:
    """Check that maps come by the paths that lead to the addresses."""
    path = mem.map_path(issued.config)
    if path is None:
        return
    for op in (mem.Gather, mem.Scatter):
        group = issued.groups[op]
        found = mem.path(issued.config, group.fields["map"])
        violations.expect(
            found == path,
            group.issue,
            lambda i, op=op, found=found: (
                f"{op.mnemonic} map: expected a stream of path {path}, found one of {found[i]}"
            ),
        )


def _check_turns(issued: Issued, violations: Violations) -> None:
    """Check that an ALU, or the reducer, issues nothing while lanes take turns at what it did."""
    kinds = [*issued.of_kind("alu"), *issued.of_kind("reduce")]
    groups = [group for group in kinds if vxm.takes_turns(group.op)]
    issue = np.concatenate([group.issue for group in groups])
    unit = np.concatenate([group.unit for group in groups])
    order = np.lexsort((issued.cycle[issue], unit))
    unit, cycle = unit[order], issued.cycle[issue[order]]
    busy = [np.full(len(g.issue), vxm.busy_cycles(issued.config, g.op)) for g in groups]
    least = np.concatenate(busy)[order][:-1]
    gap = np.where(unit[1:] == unit[:-1], cycle[1:] - cycle[:-1], least)
    violations.expect(
        gap >= least,
        issue[order][1:],
        lambda i: f"expected {least[i]} cycles from an operation to the next, found {gap[i]}",
    )


def _check_wide_paths(issued: Issued, violations: Violations) -> None:
    """Check that streams of wide slices take paths that lead to them."""
    config = issued.config
    for op, name in ROWS:
        group = issued.groups[op]
        found = mem.path(config, group.fields[name])
        leads = np.array(
            [
                [path in mem.wide_paths(op, number) for path in range(config.paths)]
                for number in range(config.group)
            ]
        )
        violations.expect(
            leads[group.unit % config.group, found],
            group.issue,
            lambda i, op=op, name=name, found=found: (
                f"{op.mnemonic} {name}: expected a path that leads to the slice, found {found[i]}"
            ),
        )


def _check_rows(issued: Issued, violations: Violations) -> None:
    """Check that LW begins at a row at which it may."""
    group, step = issued.groups[mxm.LW], mxm.row_step(issued.config)
    row = group.fields["row"]
    violations.expect(
        row % step == 0,
        group.issue,
        lambda i: f"lw row: expected a multiple of {step}, found {row[i]}",
    )


def _check_second_operands(issued: Issued, violations: Violations) -> None:
    """Check that second operands are streams that these can be."""
    for group in issued.of_kind("alu"):
        (spec,) = (spec for spec in group.op.operands if spec.name == "b")
        stream, field = is_stream(group, spec), group.fields["b"]
        violations.expect(
            ~stream | ((field & (1 << ID_BITS) - 1) < vxm.LOWEST),
            group.issue,
            lambda i, group=group, field=field: (
                f"{group.op.mnemonic} b: expected one of the lowest {vxm.LOWEST} streams, "
                f"found {stream_text(int(field[i]))}"
            ),
        )


def _check_reductions(issued: Issued, violations: Violations) -> None:
    """Check that a reducer without streams is asked for none."""
    for group in issued.of_kind("reduce"):
        for spec in group.op.operands:
            violations.expect(
                ~is_stream(group, spec),
                group.issue,
                lambda i, group=group, spec=spec: (
                    f"{group.op.mnemonic} {spec.name}: expected no stream, "
                    f"found {stream_text(int(group.fields[spec.name][i]) & (1 << STREAM_BITS) - 1)}"
                ),
            )


def _check_formats(issued: Issued, violations: Violations) -> None:
    """Check that planes without integers are asked for none."""
    for op, name, right in (
        (mxm.ABC, "activation", mxm.Activation.F16),
        (mxm.ACC, "result", mxm.Result.F32),
    ):
        group = issued.groups[op]
        violations.expect(
            group.fields[name] == right,
            group.issue,
            lambda i, op=op, name=name, right=right: (
                f"{op.mnemonic} {name}: expected {right.name}, as the planes have no integers"
            ),
        )


def _check_features(issued: Issued, violations: Violations) -> None:
    """Check that each ALU has the feature that its operation needs."""
    alus = issued.config.alus
    for group in issued.of_kind("alu"):
        need = vxm.FEATURE[group.op]
        has = np.array([need in features for features in alus])
        violations.expect(
            has[group.unit],
            group.issue,
            lambda i, group=group, need=need: (
                f"{group.op.mnemonic}: expected an ALU with feature {need!r}, "
                f"found {alus[group.unit[i]]!r}"
            ),
        )
