"""The host port: an AXI4-Lite subordinate in front of the chip."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from waterclock.isa import host
from waterclock.isa.config import Config
from waterclock.isa.floorplan import queues
from waterclock.isa.host import Access, Command, Space

OKAY, SLVERR = 0, 2
BYTES = host.DATA_BITS // 8
CYCLES_BITS = 2 * host.DATA_BITS


def axi_lite(prefix: str) -> dict[str, Member]:
    """Return the ports of an AXI4-Lite subordinate."""
    address, strobes = In(host.ADDRESS_BITS), In(BYTES)
    ports = {
        "aw": {"addr": address, "prot": In(3)},
        "w": {"data": In(host.DATA_BITS), "strb": strobes},
        "b": {"resp": Out(2)},
        "ar": {"addr": address, "prot": In(3)},
        "r": {"data": Out(host.DATA_BITS), "resp": Out(2)},
    }
    members: dict[str, Member] = {}
    for channel, payload in ports.items():
        away = channel in ("b", "r")
        members[f"{prefix}_{channel}valid"] = Out(1) if away else In(1)
        members[f"{prefix}_{channel}ready"] = In(1) if away else Out(1)
        members |= {f"{prefix}_{channel}{name}": member for name, member in payload.items()}
    return members


class HostPort(wiring.Component):
    """Registers of ``isa/host.py`` behind AXI4-Lite, and the bus to the chip's memories.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    s_axil_*
        AXI4-Lite. Address and data of a write may come in either order. Protection is ignored,
        and so are the two lowest bits of addresses.
    launch, start : Out(1), Out(16)
        All queues begin at word ``start``; ``launch`` is high for one cycle.
    running : In(1)
        The chip works. Must rise some time after ``launch``, and falls when the run has ended.
    settling : In(1)
        The chip works, or what it did is still on its way: what the host reads may change. Falls
        after ``running``, or with it.
    signature_value : In(32)
        What SIGNATURE tells.
    errors : In(5)
        Broken promises in this cycle, in the order of ``host.Error``.
    space, unit, address : Out
        Memory of a ``write`` or ``read``, see ``host.SELECT`` and ``host.ADDRESS``.
    write, read : Out(1)
        High for one cycle; the next is at least ``host.READ_LATENCY`` cycles later.
    write_data : Out(window bits)
        Row or word to store, valid with ``write``.
    read_data : In(window bits)
        Row or word, ``host.READ_LATENCY`` cycles after ``read``.
    done : Out(1)
        A run has ended since the last launch.
    cycles : Out(64)
        Cycles of the last or current run in which ``running`` was high.

    Timing
    ------
    A write that starts a command is answered when the command is over, so that what follows it
    (a launch, say) finds the memory written.
    """

    def __init__(self, config: Config):
        self.config = config
        window = host.window_bits(config)
        super().__init__(
            axi_lite("s_axil")
            | {
                "launch": Out(1),
                "start": Out(host.PC_BITS),
                "running": In(1),
                "settling": In(1),
                "signature_value": In(host.DATA_BITS),
                "errors": In(host.CAUSES),
                "space": Out(1),
                "unit": Out(host.UNIT_BITS),
                "address": Out(host.ROW_BITS),
                "write": Out(1),
                "read": Out(1),
                "write_data": Out(window),
                "read_data": In(window),
                "done": Out(1),
                "cycles": Out(CYCLES_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._busy, self._sticky = Signal(), Signal(host.CAUSES + 1)
        self._staging = Signal(host.staging_words(self.config) * host.DATA_BITS)
        m.d.comb += self.write_data.eq(self._staging)
        refused, clear = Signal(), Signal(len(self._sticky))
        # An error of this very cycle is not lost to a clear.
        m.d.sync += self._sticky.eq(self._sticky & ~clear | Cat(self.errors, refused))
        self._run(m)
        moved = self._window(m)
        self._write(m, refused, clear, moved)
        self._read(m)
        return m

    def _run(self, m: Module) -> None:
        """Follow the run: from launch until ``running`` and ``settling`` fall."""
        active, before = self.running | self.settling, Signal()
        m.d.sync += [self.launch.eq(0), before.eq(active)]
        with m.If(self.running):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        with m.If(before & ~active):
            m.d.sync += [self._busy.eq(0), self.done.eq(1)]

    def _window(self, m: Module) -> Signal:
        """Finish what a strobe began; return a signal that is high in the last cycle of it."""
        moved, reading = Signal(), Signal()
        countdown = Signal(range(host.READ_LATENCY + 1))
        m.d.comb += moved.eq(countdown == 1)
        m.d.sync += [self.write.eq(0), self.read.eq(0)]
        with m.If(self.write | self.read):
            m.d.sync += [self.address.eq(self.address + 1), reading.eq(self.read)]
            m.d.sync += countdown.eq(host.READ_LATENCY)
        with m.Elif(countdown.any()):
            m.d.sync += countdown.eq(countdown - 1)
        with m.If(moved & reading):
            m.d.sync += self._staging.eq(self.read_data)
        return moved

    def _in_range(self) -> Value:
        """Tell whether the selected memory has the address."""
        config = self.config
        rows = (self.unit < 2 * config.slices) & (self.address < config.depth)
        most = max(config.words_of(queue.kind) for queue in queues(config))
        words = (self.unit < len(queues(config))) & (self.address < most)
        return Mux(self.space == Space.IMEM, words, rows)

    def _write(self, m: Module, refused: Signal, clear: Signal, moved: Signal) -> None:
        """Take a write, do what it says, and answer it."""
        address, data = Signal(host.ADDRESS_BITS), Signal(host.DATA_BITS)
        strobes, has_address, has_data, waiting = Signal(BYTES), Signal(), Signal(), Signal()
        m.d.comb += [self.s_axil_awready.eq(~has_address), self.s_axil_wready.eq(~has_data)]
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [address.eq(self.s_axil_awaddr), has_address.eq(1)]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [data.eq(self.s_axil_wdata), strobes.eq(self.s_axil_wstrb)]
            m.d.sync += has_data.eq(1)
        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(moved):
            m.d.sync += [waiting.eq(0), self.s_axil_bvalid.eq(1)]
        with m.If(has_address & has_data & ~self.s_axil_bvalid & ~waiting):
            m.d.sync += [has_address.eq(0), has_data.eq(0)]
            m.d.sync += [self.s_axil_bvalid.eq(1), self.s_axil_bresp.eq(OKAY)]
            mask = Cat(strobe.replicate(8) for strobe in strobes)
            value = data & mask
            launch, space = host.CONTROL.field("launch").low, host.SELECT.field("space").low

            def store(target: Value, word: Value) -> None:
                m.d.sync += target.eq(target & ~mask[: len(target)] | word & mask[: len(target)])

            with m.Switch(address[2:]):
                with m.Case(host.CONTROL.offset >> 2), m.If(value[launch]):
                    m.d.comb += refused.eq(self._busy)
                    with m.If(~self._busy):
                        m.d.sync += [self.launch.eq(1), self._busy.eq(1)]
                        m.d.sync += [self.done.eq(0), self.cycles.eq(0)]
                with m.Case(host.START.offset >> 2):
                    store(self.start, data)
                with m.Case(host.ERROR.offset >> 2):
                    m.d.comb += clear.eq(value)
                with m.Case(host.SELECT.offset >> 2):
                    store(self.unit, data)
                    with m.If(mask[space]):
                        m.d.sync += self.space.eq(data[space])
                with m.Case(host.ADDRESS.offset >> 2):
                    store(self.address, data)
                with m.Case(host.COMMAND.offset >> 2):
                    ready = ~self._busy & self._in_range()
                    known = (value == Command.WRITE) | (value == Command.READ)
                    with m.If(known & ready):
                        m.d.sync += self.write.eq(value == Command.WRITE)
                        m.d.sync += self.read.eq(value == Command.READ)
                        m.d.sync += [waiting.eq(1), self.s_axil_bvalid.eq(0)]
                    with m.Else():
                        m.d.comb += refused.eq(value.any())
                for word in range(host.staging_words(self.config)):
                    with m.Case((host.STAGING.offset >> 2) + word):
                        store(self._staging.word_select(word, host.DATA_BITS), data)
                with m.Default():
                    m.d.sync += self.s_axil_bresp.eq(SLVERR)

    def _read(self, m: Module) -> None:
        """Take a read and answer it."""
        address, has_address = Signal(host.ADDRESS_BITS), Signal()
        high = Signal(host.DATA_BITS)
        m.d.comb += self.s_axil_arready.eq(~has_address)
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += [address.eq(self.s_axil_araddr), has_address.eq(1)]
        with m.If(self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(has_address & ~self.s_axil_rvalid):
            m.d.sync += [has_address.eq(0), self.s_axil_rvalid.eq(1)]
            m.d.sync += [self.s_axil_rresp.eq(OKAY), self.s_axil_rdata.eq(0)]
            with m.Switch(address[2:]):
                for offset, value in self._readable(high):
                    with m.Case(offset >> 2):
                        m.d.sync += self.s_axil_rdata.eq(value)
                        if offset == host.CYCLES_LOW.offset:
                            m.d.sync += high.eq(self.cycles[host.DATA_BITS :])
                with m.Default():
                    m.d.sync += self.s_axil_rresp.eq(SLVERR)

    def _readable(self, high: Signal) -> list[tuple[int, Value | int]]:
        """Return offsets of registers, and what a read of them gives."""
        status = {
            "idle": ~self._busy,
            "running": self._busy,
            "done": self.done,
            "error": self._sticky.any(),
        }
        state: dict[str, Value] = {
            host.START.name: self.start,
            host.STATUS.name: Cat(status[field.name] for field in host.STATUS.fields),
            host.ERROR.name: self._sticky,
            host.CYCLES_LOW.name: self.cycles[: host.DATA_BITS],
            host.CYCLES_HIGH.name: high,
            host.SIGNATURE.name: self.signature_value,
            host.SELECT.name: Cat(self.unit, self.space),
            host.ADDRESS.name: self.address,
        }
        found: list[tuple[int, Value | int]] = []
        for register in host.REGISTERS:
            if register is host.STAGING:
                for word in range(host.staging_words(self.config)):
                    value = self._staging.word_select(word, host.DATA_BITS)
                    found.append((register.offset + 4 * word, value))
            elif register.access is Access.WRITE:
                found.append((register.offset, 0))
            else:
                constant = register.value(self.config)
                found.append((register.offset, state.get(register.name, constant)))
        return found
