"""Lanes of an MXM plane that take turns, for activations in digits.

An ABC takes ``digits`` cycles of the array then, so as many lanes share what adds to their
accumulators. They share the rounding as well: every sum is rounded on its way to the accumulator,
and what ACC reads are copies of the rounded value, and of the low bits where there are integers.

Lanes are brought together without multiplexers: each has registers that are zero out of its turn,
and what they hold is combined by an or.
"""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import memory

from waterclock.isa.mxm import DIGIT_BITS, fraction_bits
from waterclock.isa.numerics import F16_FRACTION
from waterclock.rtl.mxm_lanes import ACC_BITS, RESULT_STREAMS, MXMLanes, extended
from waterclock.rtl.mxm_round import RESULT_BITS, coarse, fine, repeated
from waterclock.rtl.mxm_tile import BYTE, sum_bits, tile_size, total_of
from waterclock.rtl.part import any_of, gated

#: Of an entry in a bank of the activation buffer: as deep as an FPGA's lookup tables.
BANK_BITS = 4
SIGNED_BITS = 12  #: of an activation before its exponent shifts it, in two's complement
SHIFTED_BITS = SIGNED_BITS + DIGIT_BITS - 1  #: after a shift by less than a digit


class MXMTurnLanes(MXMLanes):
    """One superlane of a plane whose ABCs take ``digits`` cycles; members as in ``MXMLanes``.

    Timing
    ------
    ``acc_entry``, ``add``, ``high`` and ``written`` are held for ``digits`` cycles. A sum is seen
    by an ``emit`` 3 + ``digits`` cycles after ``accumulate``, or later; the result is there in the
    cycle after ``emit``.
    """

    def elaborate(self, platform):
        m = Module()
        self._activations(m)
        turns = self.config.digits
        # Bit i: an accumulation began i cycles ago.
        since = Signal(turns + 3)
        m.d.comb += since[0].eq(self.accumulate)
        m.d.sync += since[1:].eq(since)
        # Where the sums of all lanes go, and then their copies.
        ports = {name: getattr(self, name) for name in ("acc_entry", "high", "written")}
        adding = _held(m, since[0], ports, "adding")
        copying = _held(m, since[turns], adding, "copying")
        results: list[Value] = []
        for first in range(0, self.config.lanes, turns):
            lanes = range(first, min(first + turns, self.config.lanes))
            total = self._total(m, lanes, since, adding)
            copies = self._rounded_total(m, lanes, total, since)
            results += [
                self._copy(m, lane, copy, since[-1], copying)
                for lane, copy in zip(lanes, copies, strict=True)
            ]
        m.d.comb += self.result.eq(
            Cat(result.word_select(i, BYTE) for i in range(RESULT_STREAMS) for result in results)
        )
        return m

    def _activations(self, m: Module) -> None:
        """Bring what is taken out of the activation buffer to fixed point, digit by digit."""
        taken, is_i8 = self._taken(m, BANK_BITS)
        turns, lost = self.config.digits, F16_FRACTION - fraction_bits(self.config)
        # Bit i: something was taken out i cycles ago.
        since = Signal(turns + 1)
        m.d.comb += since[0].eq(self.fetch)
        m.d.sync += since[1:].eq(since)
        # Bit i: digit i is chosen in this cycle.
        place = Signal(turns)
        m.d.comb += place[0].eq(self.decode)
        m.d.sync += place[1:].eq(place)
        for first in range(0, self.config.lanes, turns):
            lanes = range(first, min(first + turns, self.config.lanes))
            raws: list[Value] = []
            for turn, lane in enumerate(lanes):
                for bank, values in enumerate(taken):
                    value, name = values[lane], f"{lane}_{bank}"
                    if turn:
                        value = Signal(2 * BYTE, name=f"taken_{name}", reset_less=True)
                        with m.If(self.fetch):
                            m.d.sync += value.eq(values[lane])
                    raws.append(gated(m, since[turn], value, f"raw_{name}"))
            raw = Signal(2 * BYTE, name=f"raws_{first}")
            m.d.comb += raw.eq(any_of(raws))
            # The last turn's is there when all lanes take theirs; the others wait.
            shifted: list[Value] = [Cat(*_shifted(m, raw, is_i8, lost, str(first)))]
            for turn in range(turns - 1):
                waiting = Signal(len(shifted[0]), name=f"shifted_{first}_{turn}", reset_less=True)
                with m.If(since.any()):
                    m.d.sync += waiting.eq(shifted[0])
                shifted.insert(0, waiting)
            for lane, value in zip(lanes, shifted, strict=False):
                held = Signal(len(value), name=f"activation_{lane}", reset_less=True)
                with m.If(since[-1]):
                    m.d.sync += held.eq(value)
                digit = Signal(DIGIT_BITS + 1, name=f"digit_{lane}", reset_less=True)
                with m.If(place.any()):
                    m.d.sync += digit.eq(_digit(m, held, place, str(lane)))
                m.d.comb += self.activations.word_select(lane, len(digit)).eq(digit)

    def _total(
        self, m: Module, lanes: Sequence[int], since: Signal, adding: dict[str, Signal]
    ) -> Signal:
        """Add the accumulators of some lanes; return their new sums, one lane a cycle."""
        name, bits = str(lanes[0]), sum_bits(self.config, tile_size(self.config))
        places = range(0, len(self.sums), self.config.lanes * bits)
        sums: list[Value] = []
        before: list[Value] = []
        total = Signal(ACC_BITS, name=f"total_{name}")
        for turn, lane in enumerate(lanes):
            value: Value = Cat(self.sums[low + lane * bits :][:bits] for low in places)
            if turn:
                # The sums are there in the first cycle only.
                waiting = Signal(len(value), name=f"waiting_{lane}", reset_less=True)
                with m.If(since[0]):
                    m.d.sync += waiting.eq(value)
                value = waiting
            m.submodules[f"accumulator_{lane}"] = accumulator = memory.Memory(
                shape=ACC_BITS, depth=self.config.acc_entries, init=[]
            )
            write, read = accumulator.write_port(), accumulator.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(self.acc_entry),
                write.addr.eq(adding["acc_entry"]),
                write.data.eq(total),
                write.en.eq(since[turn + 1] & adding["written"][lane]),
            ]
            sums.append(gated(m, since[turn], value, f"sums_{lane}"))
            before.append(gated(m, since[turn] & self.add, read.data, f"before_{lane}"))
        blocks = Signal(len(sums[0]), name=f"blocks_{name}")
        product, high = Signal(ACC_BITS, name=f"product_{name}"), adding["high"]
        parts = [extended(blocks.word_select(i, bits), ACC_BITS) for i in range(len(places))]
        m.d.comb += [
            blocks.eq(any_of(sums)),
            product.eq(total_of(parts, ACC_BITS)),
            total.eq(Mux(high, Cat(C(0, BYTE), product[:-BYTE]), product) + any_of(before)),
        ]
        return total

    def _rounded_total(
        self, m: Module, lanes: Sequence[int], total: Signal, since: Signal
    ) -> list[Value]:
        """Return what each lane's copies get in the cycle for it: rounded value and low bits."""
        name = str(lanes[0])
        value = Signal(ACC_BITS, name=f"value_{name}", reset_less=True)
        shifted, shifts = coarse(m, value, name)
        held = Signal(len(shifted), name=f"held_{name}", reset_less=True)
        held_shifts = Signal(len(shifts), name=f"shifts_{name}", reset_less=True)
        sign = Signal(name=f"sign_{name}", reset_less=True)
        copies: list[Value] = [fine(m, held, held_shifts, sign, fraction_bits(self.config), name)]
        if self.config.integers:
            low = Signal(RESULT_BITS, name=f"low_{name}", reset_less=True)
            with m.If(since.any()):
                m.d.sync += low.eq(value)
            copies = [Cat(copies[0], low)]
        # The last turn's is just being rounded in that cycle; the others wait.
        for turn in range(self.config.digits - 1):
            waiting = Signal(len(copies[0]), name=f"copy_{name}_{turn}", reset_less=True)
            with m.If(since.any()):
                m.d.sync += waiting.eq(copies[0])
            copies.insert(0, waiting)
        with m.If(since.any()):
            m.d.sync += [
                value.eq(total),
                held.eq(shifted),
                held_shifts.eq(shifts),
                sign.eq(value[-1]),
            ]
        return copies[: len(lanes)]

    def _copy(
        self, m: Module, lane: int, copy: Value, write_now: Value, copying: dict[str, Signal]
    ) -> Value:
        """Add the copies of one lane; return the 32 bits of a result."""
        m.submodules[f"copy_{lane}"] = copies = memory.Memory(
            shape=len(copy), depth=self.config.acc_entries, init=[]
        )
        write, read = copies.write_port(), copies.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(copying["acc_entry"]),
            write.data.eq(copy),
            write.en.eq(write_now & copying["written"][lane]),
            read.addr.eq(self.emit_entry),
        ]
        rounded, low = read.data[:RESULT_BITS], read.data[RESULT_BITS:]
        if not self.config.integers:
            return gated(m, self.emit, rounded, f"rounded_{lane}")
        return any_of(
            [
                gated(m, self.emit & self.emit_i32, low, f"low_{lane}"),
                gated(m, self.emit & ~self.emit_i32, rounded, f"rounded_{lane}"),
            ]
        )


def _held(m: Module, take: Value, values: dict[str, Signal], name: str) -> dict[str, Signal]:
    """Return registers that take ``values`` in a cycle."""
    found = {
        key: Signal.like(value, name=f"{name}_{key}", reset_less=True)
        for key, value in values.items()
    }
    with m.If(take):
        m.d.sync += [register.eq(values[key]) for key, register in found.items()]
    return found


def _shifted(m: Module, raw: Value, is_i8: Value, lost: int, name: str) -> tuple[Value, Value]:
    """Return an activation as a number of ``SHIFTED_BITS`` bits, and how many digits it is up.

    Digits are counted from one below the units, where ``lost`` bits of f16's smallest are.
    """
    # The lowest exponent is that of subnormals too; integers get the one that leaves them alone.
    exponent = Signal(5, name=f"exponent_{name}")
    m.d.comb += exponent.eq(Mux(is_i8, lost + 1, raw[10:15]))
    negative = raw[15] & ~is_i8
    high = Mux(is_i8, repeated(raw[BYTE - 1], 4), Cat(raw[BYTE:10], raw[10:15].any(), 0))
    number = ((Cat(raw[:BYTE], high) ^ repeated(negative, SIGNED_BITS)) + negative)[:SIGNED_BITS]
    shift, up = Signal(range(DIGIT_BITS), name=f"shift_{name}"), Signal(2, name=f"up_{name}")
    with m.Switch(exponent):
        for value in range(32):
            with m.Case(value):
                places = divmod(max(value - 1, 0) + DIGIT_BITS - lost, DIGIT_BITS)
                m.d.comb += [up.eq(places[0]), shift.eq(places[1])]
    placed = Signal(signed(SHIFTED_BITS), name=f"placed_{name}")
    m.d.comb += placed.eq((number.as_signed() << shift)[:SHIFTED_BITS])
    return placed, up


def _digit(m: Module, held: Value, place: Value, name: str) -> Value:
    """Return digit i, if ``place[i]``, of what ``_shifted`` returned; only the last has a sign."""
    number, up = held[:SHIFTED_BITS], held[SHIFTED_BITS:]
    sign = number[-1]
    low, high = number[:DIGIT_BITS], extended(number[DIGIT_BITS:], DIGIT_BITS)
    # Which of the number's digits the one in this place is: the low one, the high one, or above.
    at = Signal(3, name=f"at_{name}")
    with m.Switch(up):
        for digits in range(len(place) + 1):
            with m.Case(digits):
                m.d.comb += at.eq(Cat(C(0, 1), place)[digits:])
    # One function of two bits, and two that say which.
    low_or_ones = Cat(at[0] | (at[2] & sign), at[1] | (at[2] & sign))
    bits = Cat(
        Mux(low_or_ones[0], a | low_or_ones[1], b & low_or_ones[1])
        for a, b in zip(low, high, strict=True)
    )
    return Cat(bits, place[-1] & sign)
