"""The reducer of the VXM: trees over the lanes of all superlanes."""

import itertools

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, word_bits
from waterclock.isa.streams import TARGET_BITS
from waterclock.isa.vxm import (
    REDUCTIONS,
    SUM_CYCLES,
    busy_cycles,
    registers_operands,
    sum_times,
)
from waterclock.rtl.fp import STAGES
from waterclock.rtl.part import needed
from waterclock.rtl.vxm_alu import gated_clock, later
from waterclock.rtl.vxm_simple import Comparison, one_of

VALUE_BITS = 32


def _is(opcode: Value, *mnemonics: str) -> Value:
    return one_of(opcode, (REDUCTIONS[mnemonic] for mnemonic in mnemonics))


def _kind(opcode: Value) -> Value:
    """Return what ``_extreme`` has to know: whether floats are compared, and the smaller wins."""
    return Cat(_is(opcode, "rmax", "rmin"), _is(opcode, "rmin", "rimin"))


def _extreme(m: Module, name: str, active: Value, kind: Value, a: Value, b: Value) -> Signal:
    """Return the larger or smaller of values side by side."""
    found = Signal(len(a), name=f"extreme_{name}")
    comparison = Comparison(m, active, kind[0], a, b, f"compare_{name}")
    with m.If(needed(m, f"extreme_{name}", active)):
        m.d.comb += found.eq(comparison.extreme(smaller=kind[1]))
    return found


_Found = tuple[Value, Value, Value]  #: whether there is a result, its target, and it


class VXMReducer(wiring.Component):
    """Sum, maximum and minimum over all lanes of the chip, by a tree over neighbouring lanes.

    Operands of superlane k wait superlanes - 1 - k cycles for the last one; a tree of adders
    (``SUM_CYCLES`` a level; one adder for all where lanes take turns) and one of comparators (one
    cycle a level) follow; the result for superlane k waits k cycles.

    Parameters
    ----------
    config : Config
        Uses ``superlanes`` and ``lanes``.

    Members
    -------
    word_{k} : In(word bits)
        Instruction issued in this cycle by the tile of superlane k (its ``reduce_out``).
    operand_{k} : In(lanes * 32)
        Its operand.
    valid_{k}, target_{k}, result_{k} : Out(1), Out(TARGET_BITS), Out(32)
        What enters the reducer's bus of superlane k at the end of this cycle.
    error : Out(1)
        Two results met in the cycle before.

    Timing
    ------
    A result enters the bus ``latency`` cycles after issue, superlane by superlane.
    """

    def __init__(self, config: Config):
        self.config = config
        ports: dict[str, In | Out] = {}
        for k in range(config.superlanes):
            ports[f"word_{k}"] = In(word_bits("reduce"))
            ports[f"operand_{k}"] = In(config.lanes * VALUE_BITS)
            ports[f"valid_{k}"] = Out(1)
            ports[f"target_{k}"] = Out(TARGET_BITS)
            ports[f"result_{k}"] = Out(VALUE_BITS)
        super().__init__(ports | {"error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        words, operands = self._operands(m)
        word = words[-1]
        (spec,) = (spec for spec in REDUCTIONS["rsum"].operands if spec.name == "dst")
        target, opcode = word[spec.low : spec.low + spec.bits], word[:OPCODE_BITS]
        if not self.config.reduce_streams:
            target = C(0, TARGET_BITS)
        vector = self._collect(m, words, operands)
        if self.config.turns > 1:
            sums, extremes = self._in_turn(m, opcode, target, vector)
        else:
            self._hasty: Value = C(0, 1)
            sums = self._sums(m, _is(opcode, "rsum"), target, vector)
            extremes = self._extremes(m, opcode, target, vector)

        # (valid, target), and the result, for superlane 0 now, for the next one cycle later.
        control, result = Signal(1 + TARGET_BITS), Signal(VALUE_BITS)
        for valid, found_target, found in (sums, extremes):
            with m.If(valid):
                m.d.comb += control.eq(Cat(C(1, 1), found_target))
                m.d.comb += result.eq(found)
        if self.config.simple_cycles > 2:
            control, result = later(m, "found", control, result)
        for k in range(self.config.superlanes):
            m.d.comb += Cat(getattr(self, f"valid_{k}"), getattr(self, f"target_{k}")).eq(control)
            m.d.comb += getattr(self, f"result_{k}").eq(result)
            if k < self.config.superlanes - 1:
                control, result = later(m, f"superlane_{k}", control, result)
        double = sums[0] & extremes[0]
        m.d.sync += Assert(~double, "VXM reduce: two results in one cycle")
        m.d.sync += Assert(~self._hasty, "VXM reduce: lanes of another sum take their turn")
        m.d.sync += self.error.eq(double | self._hasty)
        return m

    def _operands(self, m: Module) -> tuple[list[Value], list[Value]]:
        """Return instructions and operands of all superlanes, in registers if the ISA says so."""
        every = range(self.config.superlanes)
        words, operands = (
            [getattr(self, f"{name}_{k}") for k in every] for name in ("word", "operand")
        )
        if not registers_operands(self.config):
            return words, operands
        for k in every:
            word = Signal(len(words[k]), name=f"registered_word_{k}")
            operand = Signal(len(operands[k]), name=f"registered_operand_{k}", reset_less=True)
            m.d.sync += word.eq(words[k])
            with m.If(needed(m, f"operand_{k}", words[k].any())):
                m.d.sync += operand.eq(operands[k])
            words[k], operands[k] = word, operand
        return words, operands

    def _collect(self, m: Module, words: list[Value], operands: list[Value]) -> Signal:
        """Return the operands of all superlanes when the last one has its own."""
        held: Value = C(0, 0)
        for k in range(self.config.superlanes - 1):
            arrived = Cat(held, operands[k])
            waiting = Signal(len(arrived), name=f"waiting_{k}", reset_less=True)
            with m.If(words[k].any()):
                m.d.sync += waiting.eq(arrived)
            held = waiting
        vector = Signal(self.config.vector * VALUE_BITS)
        with m.If(needed(m, "vector", words[-1].any())):
            m.d.comb += vector.eq(Cat(held, operands[-1]))
        return vector

    def _sums(self, m: Module, start: Value, target: Value, vector: Value) -> _Found:
        """Add the tree of adders; return valid, target and result for superlane 0."""
        config = self.config
        depth = SUM_CYCLES * config.levels - 1  # registers; the bus is the last one
        assert SUM_CYCLES == STAGES + 1
        valid = Signal(depth)
        since = Cat(start, valid)  # bit i: it began i cycles ago
        m.d.sync += valid.eq(since)
        for level in range(config.levels):
            first = SUM_CYCLES * level  # stage of the whole pipeline from which the operands come
            stages = since[first : first + STAGES + 1]
            vector = self._level(m, level, stages, vector)
            if level < config.levels - 1:
                held = Signal(len(vector), name=f"level_sum_{level}", reset_less=True)
                with m.If(needed(m, f"level_sum_{level}", stages[-1])):
                    m.d.sync += held.eq(vector)
                vector = held
        return valid[-1], self._targets(m, since, target, "rsum"), vector

    def _targets(self, m: Module, since: Value, target: Value, name: str) -> Value:
        """Return the target of what began ``len(since) - 1`` cycles ago."""
        bits = (len(since) - 1) * TARGET_BITS
        targets = Signal(bits, name=f"{name}_targets", reset_less=True)
        with m.If(since.any()):
            m.d.sync += targets.eq(Cat(target, targets))
        return targets[-TARGET_BITS:]

    def _in_turn(self, m: Module, opcode: Value, target: Value, vector: Value) -> list[_Found]:
        """Add one adder for the whole tree, see ``sum_times``, and two comparators."""
        adds = _is(opcode, "rsum")
        compares = _is(opcode, "rmax", "rmin", "rimax", "rimin")
        # Neighbours that have not had their turn.
        pair = 2 * VALUE_BITS
        rest = Signal(len(vector) - pair, name="rest", reset_less=True)
        m.d.sync += rest.eq(Mux(adds | compares, vector[pair:], rest[pair:]))
        operands = Signal(pair, name="pair")
        m.d.comb += operands.eq(Mux(adds | compares, vector[:pair], rest[:pair]))
        found, busy = [], []
        for start, mnemonic, cycles, unit in (
            (adds, "rsum", sum_times(self.config)[-1][-1] + STAGES, self._adder),
            (compares, "rmax", len(vector) // pair, self._comparators),
        ):
            valid = Signal(cycles, name=f"{mnemonic}_valid")
            since = Cat(start, valid)  # bit i: it began i cycles ago
            m.d.sync += valid.eq(since)
            busy.append(valid[: busy_cycles(self.config, REDUCTIONS[mnemonic]) - 1].any())
            result = unit(m, since, opcode, operands)
            found.append((valid[-1], self._targets(m, since, target, mnemonic), result))
        self._hasty = (adds | compares) & Cat(busy).any()
        return found

    def _adder(self, m: Module, since: Value, _: Value, operands: Value) -> Value:
        times = sum_times(self.config)
        # The newest sum and those before it.
        sums = [
            Signal(VALUE_BITS, name=f"sum_before_{index}", reset_less=True)
            for index in range(1 + (1 << max(len(times) - 2, 0)))
        ]
        chosen = Signal(len(operands), name="added")
        m.d.comb += chosen.eq(operands)
        for level, cycles in enumerate(times[1:]):
            with m.If(Cat(since[cycle] for cycle in cycles).any()):
                m.d.comb += chosen.eq(Cat(sums[1 << level], sums[0]))
        stages = Cat(
            Cat(since[cycle + step] for cycle in itertools.chain(*times)).any()
            for step in range(STAGES)
        )
        result = self._level(m, 0, stages, chosen)
        with m.If(needed(m, "sums", since.any())):
            m.d.sync += Cat(sums).eq(Cat(result, *sums[:-1]))
        return result

    def _comparators(self, m: Module, since: Value, opcode: Value, operands: Value) -> Value:
        kind, kept = Signal(2, name="compared_kind"), Signal(2, name="kept_kind")
        m.d.comb += kind.eq(kept)
        with m.If(since[0]):
            m.d.comb += kind.eq(_kind(opcode))
        m.d.sync += kept.eq(kind)
        # First a pair's, then what is left of it and all before.
        result: Value = Signal(VALUE_BITS, name="kept_extreme", reset_less=True)
        newest = Signal(VALUE_BITS, name="pair_extreme", reset_less=True)
        pairs = len(since) - 1
        a, b = operands[:VALUE_BITS], operands[VALUE_BITS:]
        m.d.sync += newest.eq(_extreme(m, "pair", since[:pairs].any(), kind, a, b))
        both = _extreme(m, "kept", since[2:].any(), kept, result, newest)
        found = Signal(VALUE_BITS, name="found_extreme")
        m.d.comb += found.eq(Mux(since[1], newest, both))
        m.d.sync += result.eq(found)
        return found

    def _level(self, m: Module, level: int, stages: Value, vector: Value) -> Signal:
        """Add a level of adders, whose stages take something when bits of ``stages`` tell."""
        enable = Signal(STAGES, name=f"enable_{level}")
        m.d.comb += enable.eq(stages[:STAGES])
        clock = gated_clock(m, f"sum_{level}", enable.any())
        count = len(vector) // VALUE_BITS
        result = Signal((count + 1) // 2 * VALUE_BITS, name=f"sum_{level}")
        for node in range(count // 2):
            m.submodules[f"sum_{level}_{node}"] = Instance(
                "vxm_add",
                i_clk=clock,
                i_rst=C(0, 1),
                i_enable=enable,
                i_subtract=C(0, 1),
                i_a=vector.word_select(2 * node, VALUE_BITS),
                i_b=vector.word_select(2 * node + 1, VALUE_BITS),
                o_result=result.word_select(node, VALUE_BITS),
            )
        if count % 2:
            passing = vector.word_select(count - 1, VALUE_BITS)
            for step in range(STAGES):
                later = Signal(VALUE_BITS, name=f"pass_{level}_{step}", reset_less=True)
                with m.If(needed(m, f"pass_{level}_{step}", enable[step])):
                    m.d.sync += later.eq(passing)
                passing = later
            m.d.comb += result.word_select(count // 2, VALUE_BITS).eq(passing)
        return result

    def _extremes(self, m: Module, opcode: Value, target: Value, vector: Value) -> _Found:
        """Add the tree of comparators; return valid, target and result for superlane 0."""
        active: Value = _is(opcode, "rmax", "rmin", "rimax", "rimin")
        control: Value = Cat(_kind(opcode), target)
        for level in range(self.config.levels):
            count = len(vector) // VALUE_BITS
            words = [vector.word_select(index, VALUE_BITS) for index in range(count)]
            pairs = Signal(count // 2 * VALUE_BITS, name=f"extreme_{level}")
            a, b = Cat(words[0 : count - 1 : 2]), Cat(words[1::2])
            m.d.comb += pairs.eq(_extreme(m, str(level), active, control[:2], a, b))
            result: Value = Cat(pairs, *words[count - count % 2 :])
            if level < self.config.levels - 1:
                values = Signal(len(result), name=f"level_{level}", reset_less=True)
                later = Signal(name=f"active_{level}")
                fields = Signal(len(control), name=f"control_{level}", reset_less=True)
                m.d.sync += later.eq(active)
                with m.If(active):
                    m.d.sync += [values.eq(result), fields.eq(control)]
                result, active, control = values, later, fields
            vector = result
        return active, control[2:], vector
