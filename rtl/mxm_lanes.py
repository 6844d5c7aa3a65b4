"""What belongs to the lanes of an MXM plane: activations, accumulators and rounding."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from waterclock.isa.config import Config
from waterclock.isa.mxm import fraction_bits
from waterclock.rtl.mxm_round import coarse, fine, repeated
from waterclock.rtl.mxm_tile import (
    BYTE,
    activation_bits,
    fixed_bits,
    sum_bits,
    tile_size,
    total_of,
)

ACC_BITS = 64
RESULT_STREAMS = 4


def extended(value: Value, bits: int) -> Value:
    """Return a number in two's complement with its sign extended."""
    more = bits - len(value)
    return Cat(value, repeated(value[-1], more)) if more else value


def _negated_if(sign: Value, magnitude: Value, bits: int) -> Value:
    """Return the number, in two's complement of ``bits`` bits."""
    padded = Cat(magnitude, C(0, bits - len(magnitude)))
    return ((padded ^ repeated(sign, bits)) + sign)[:bits]


def _fixed(raw: Value, is_i8: Value, size: int, bits: int) -> Value:
    """Return an activation as an integer of ``size`` bits, sign-extended to ``bits``."""
    fraction, exponent, sign = raw[:10], raw[10:15], raw[15]
    normal = exponent.any()
    magnitude = (Cat(fraction, normal) << (exponent - normal)[:5])[: size - 1]
    return Mux(is_i8, extended(raw[:BYTE], bits), _negated_if(sign, magnitude, bits))


class MXMLanes(wiring.Component):
    """One superlane of a plane: activation buffer, accumulators and rounding of its lanes.

    This one is for whole activations: see ``MXMTurnLanes`` for digits.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    store, store_entry, store_data : In(1), In, In(2 * lanes * 8)
        Write low and high bytes of all lanes into an entry of the activation buffer.
    fetch, fetch_entry, fetch_i8, inside : In(1), In, In(1), In(lanes)
        Take an entry out: its number and format, and the lanes that do not count as zero.
    decode : In(1)
        In the next cycle.
    activations : Out(lanes * activation bits)
        From the cycle after ``decode`` on: whole, or the highest digit; then digit after digit.
    accumulate, acc_entry, add, high, written : In(1), In, In(1), In(1), In(lanes)
        Add ``sums``, times 256 if ``high``, to an accumulator (set it if not ``add``) in the
        lanes of ``written``.
    sums : In(blocks * lanes * sum bits)
        What each block of rows has for these lanes.
    emit, emit_entry, emit_i32 : In(1), In, In(1)
        Take an accumulator out, in this format.
    result : Out(4 * lanes * 8)
        The four bytes of all lanes, ``acc_latency`` - ``superlanes`` cycles later.
    """

    def __init__(self, config: Config):
        self.config = config
        lanes, size = config.lanes, tile_size(config)
        acts, accs = ceil_log2(config.act_entries), ceil_log2(config.acc_entries)
        super().__init__(
            {
                "store": In(1),
                "store_entry": In(acts),
                "store_data": In(2 * lanes * BYTE),
                "fetch": In(1),
                "fetch_entry": In(acts),
                "fetch_i8": In(1),
                "inside": In(lanes),
                "decode": In(1),
                "activations": Out(lanes * activation_bits(config, size)),
                "accumulate": In(1),
                "acc_entry": In(accs),
                "add": In(1),
                "high": In(1),
                "written": In(lanes),
                "sums": In(config.vector // size * lanes * sum_bits(config, size)),
                "emit": In(1),
                "emit_entry": In(accs),
                "emit_i32": In(1),
                "result": Out(RESULT_STREAMS * lanes * BYTE),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._activations(m)
        emitting, i32 = Signal(2), Signal(2)
        m.d.sync += emitting.eq(Cat(self.emit, emitting[0]))
        m.d.sync += i32.eq(Cat(self.emit_i32, i32[0]))
        results = []
        for lane in range(self.config.lanes):
            value = self._accumulator(m, lane)
            results.append(self._rounded(m, lane, value, emitting, i32))
        m.d.comb += self.result.eq(
            Cat(result.word_select(i, BYTE) for i in range(RESULT_STREAMS) for result in results)
        )
        return m

    def _taken(self, m: Module, bits: int) -> tuple[list[list[Value]], Signal]:
        """Add the activation buffer, in banks of 2^``bits`` entries.

        Returns what each bank has for each lane, of which all but one are zero, and the format.
        """
        lanes = self.config.lanes
        is_i8 = Signal()
        with m.If(self.fetch & self.config.integers):
            m.d.sync += is_i8.eq(self.fetch_i8)
        taken: list[list[Value]] = []
        for bank in range(-(-self.config.act_entries >> bits)):
            m.submodules[f"buffer_{bank}"] = buffer = memory.Memory(
                shape=2 * lanes * BYTE,
                depth=min(self.config.act_entries - (bank << bits), 1 << bits),
                init=[],
            )
            write, read = buffer.write_port(), buffer.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(self.store & (self.store_entry[bits:] == bank)),
                write.addr.eq(self.store_entry),
                write.data.eq(self.store_data),
                read.addr.eq(self.fetch_entry),
            ]
            here = self.fetch_entry[bits:] == bank
            pairs = [
                Cat(read.data.word_select(i, BYTE) for i in (lane, lanes + lane))
                for lane in range(lanes)
            ]
            taken.append(
                [Mux(self.inside[lane] & here, pair, 0) for lane, pair in enumerate(pairs)]
            )
        return taken, is_i8

    def _activations(self, m: Module) -> None:
        """Bring what is taken out of the activation buffer to fixed point."""
        (taken,), is_i8 = self._taken(m, ceil_log2(self.config.act_entries))
        width = activation_bits(self.config, tile_size(self.config))
        for lane, value in enumerate(taken):
            raw = Signal(2 * BYTE, name=f"raw_{lane}", reset_less=True)
            m.d.sync += raw.eq(Mux(self.fetch, value, raw))
            activation = Signal(width, name=f"activation_{lane}", reset_less=True)
            new = _fixed(raw, is_i8, fixed_bits(self.config), width)
            m.d.sync += activation.eq(Mux(self.decode, new, activation))
            m.d.comb += self.activations.word_select(lane, width).eq(activation)

    def _accumulator(self, m: Module, lane: int) -> Signal:
        """Add the accumulators of one lane; return the register with what ACC takes out."""
        m.submodules[f"accumulator_{lane}"] = accumulator = memory.Memory(
            shape=ACC_BITS, depth=self.config.acc_entries, init=[]
        )
        write, read = accumulator.write_port(), accumulator.read_port(domain="comb")
        taken = accumulator.read_port(domain="comb")
        bits = sum_bits(self.config, tile_size(self.config))
        total = Signal(ACC_BITS, name=f"total_{lane}")
        places = range(lane * bits, len(self.sums), self.config.lanes * bits)
        blocks = [extended(self.sums[low : low + bits], ACC_BITS) for low in places]
        before = Mux(self.add, read.data, 0)
        m.d.comb += [
            total.eq(total_of(blocks, ACC_BITS)),
            write.data.eq(Mux(self.high, Cat(C(0, BYTE), total[:-BYTE]), total) + before),
            read.addr.eq(self.acc_entry),
            write.addr.eq(self.acc_entry),
            write.en.eq(self.accumulate & self.written[lane]),
            taken.addr.eq(self.emit_entry),
        ]
        value = Signal(ACC_BITS, name=f"value_{lane}", reset_less=True)
        m.d.sync += value.eq(Mux(self.emit, taken.data, value))
        return value

    def _rounded(
        self, m: Module, lane: int, value: Signal, emitting: Signal, i32: Signal
    ) -> Signal:
        """Return the register with the 32 bits of a result, two cycles after its ``value``."""
        sign = Signal(name=f"sign_{lane}", reset_less=True)
        rounded, shifts = coarse(m, value, str(lane))
        # The low bits for I32, or else the highest bits, to be shifted by less than 8.
        held = Signal(len(rounded), name=f"held_{lane}", reset_less=True)
        held_shifts = Signal(len(shifts), name=f"shifts_{lane}", reset_less=True)
        with m.If(emitting[0]):
            m.d.sync += [
                held.eq(Mux(i32[0], value[: len(held)], rounded)),
                held_shifts.eq(shifts),
                sign.eq(value[-1]),
            ]
        f32 = fine(m, held, held_shifts, sign, fraction_bits(self.config), str(lane))
        result = Signal(32, name=f"result_{lane}", reset_less=True)
        m.d.sync += result.eq(Mux(emitting[1], Mux(i32[1], held[:32], f32), result))
        return result
