"""The board's end of the host link: frames in, accesses of the host port, frames out."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.crc.catalog import CRC16_IBM_3740
from amaranth.lib.wiring import In, Out

from waterclock.fpga.frames import (
    ANSWER,
    CRC_BYTES,
    HEADER,
    MOST_WORDS,
    SILENCE_BYTES,
    SYNC,
    Op,
    Status,
)
from waterclock.fpga.uart import BITS, UARTReceiver, UARTTransmitter
from waterclock.isa import host
from waterclock.isa.config import Config
from waterclock.rtl.host import OKAY, axi_lite

BYTES = host.DATA_BITS // BITS  #: a word
BYTE_TIMES = 10  #: bits of a byte on the line


class HostLink(wiring.Component):
    """A UART that commands an AXI4-Lite subordinate by the frames of ``fpga/frames.py``.

    Parameters
    ----------
    config : Config
        Of the chip: says how many staging registers a row takes.
    divisor : int
        Clock cycles a bit of the serial line, 4 or more.

    Members
    -------
    rx, tx : In(1), Out(1)
        The serial line.
    m_axil_*
        AXI4-Lite manager, for the chip's ``s_axil_*``.

    Timing
    ------
    One request at a time; what arrives before its response is out is not heard.
    """

    def __init__(self, config: Config, divisor: int):
        self.row_words = host.staging_words(config)
        self.divisor = divisor
        flipped = {name: member.flip() for name, member in axi_lite("m_axil").items()}
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), **flipped})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = self._receiver = UARTReceiver(self.divisor)
        m.submodules.transmitter = self._transmitter = UARTTransmitter(self.divisor)
        m.submodules.crc = self._crc = CRC16_IBM_3740().create()
        # Requests in one half, responses in the other, so that a response can be given again.
        m.submodules.words = words = memory.Memory(
            shape=host.DATA_BITS, depth=2 * MOST_WORDS, init=[]
        )
        self._store, self._fetch = words.write_port(), words.read_port()
        m.d.comb += [self._receiver.rx.eq(self.rx), self.tx.eq(self._transmitter.tx)]

        self._header = Signal(HEADER.size * BITS)  # of the request
        self._status = Signal(BITS)
        self._index = Signal(range(MOST_WORDS + 1))  # words done
        self._byte = Signal(range(max(HEADER.size, BYTES)))  # bytes done of a field
        self._word = Signal(host.DATA_BITS)
        op, count = self._header[8:16], self._header[32:40]
        self._carries = Signal()  # the request has words
        m.d.comb += self._carries.eq((op == Op.WRITE) | (op == Op.LOAD))
        self._address = Signal(host.ADDRESS_BITS)
        m.d.comb += [
            self._fetch.addr.eq(self._index),
            self.m_axil_awaddr.eq(self._address),
            self.m_axil_araddr.eq(self._address),
            self.m_axil_wdata.eq(self._word),
            self.m_axil_wstrb.eq((1 << BYTES) - 1),
        ]
        silent = self._silent(m)
        with m.FSM(name="link"):
            self._hear(m, op, count, silent)
            self._obey(m, op, count)
            self._answer(m, count)
        return m

    def _silent(self, m: Module) -> Value:
        """Tell whether the line has been silent for as long as a frame may be."""
        longest = SILENCE_BYTES * BYTE_TIMES * self.divisor
        silence = Signal(range(longest + 1))
        with m.If(self._receiver.valid):
            m.d.sync += silence.eq(0)
        with m.Elif(silence != longest):
            m.d.sync += silence.eq(silence + 1)
        return silence == longest

    def _hear(self, m: Module, op: Value, count: Value, silent: Value) -> None:
        """Take a request; go on to OBEY, or to ANSWER if it was obeyed before."""
        data, valid, crc = self._receiver.data, self._receiver.valid, self._crc

        def field(state: str, size: int) -> Value:
            """Begin a state that takes a field; return whether its last byte is there."""
            ended = Signal(name=f"{state.lower()}_ended")
            with m.If(valid):
                m.d.comb += [crc.data.eq(data), crc.valid.eq(1)]
                m.d.comb += ended.eq(self._byte == size - 1)
                m.d.sync += self._byte.eq(Mux(ended, 0, self._byte + 1))
            with m.If(silent):
                m.next = "HUNT"
            return ended

        with m.State("HUNT"):
            m.d.comb += crc.start.eq(1)
            m.d.sync += [self._byte.eq(0), self._index.eq(0)]
            with m.If(valid & (data == SYNC)):
                m.next = "HEADER"
        with m.State("HEADER"):
            ended = field("HEADER", HEADER.size)
            with m.If(valid):
                m.d.sync += self._header.eq(Cat(self._header[BITS:], data))
            with m.If(ended):
                m.next = "HEADER_CHECK"
        with m.State("HEADER_CHECK"):
            with m.If(op.matches(*Op) & (count != 0) & (count <= MOST_WORDS)):
                m.next = "CRC"
                with m.If(self._carries):
                    m.next = "WORDS"
            with m.Else():
                m.next = "HUNT"
        with m.State("WORDS"):
            ended = field("WORDS", BYTES)
            word = Cat(self._word[BITS:], data)
            with m.If(valid):
                m.d.sync += self._word.eq(word)
            with m.If(ended):
                m.d.comb += [self._store.addr.eq(self._index), self._store.data.eq(word)]
                m.d.comb += self._store.en.eq(1)
                m.d.sync += self._index.eq(self._index + 1)
                with m.If(self._index == count - 1):
                    m.next = "CRC"
        with m.State("CRC"):
            ended = field("CRC", CRC_BYTES)
            with m.If(ended):
                m.next = "CRC_CHECK"
        answered, last = Signal(), Signal.like(self._header)
        with m.State("CRC_CHECK"):
            m.d.sync += self._index.eq(0)
            with m.If(~crc.match_detected):
                m.next = "HUNT"
            with m.Elif(answered & (self._header == last)):
                m.next = "ANSWER"
            with m.Else():
                m.d.sync += [answered.eq(1), last.eq(self._header), self._status.eq(Status.OKAY)]
                m.next = "OBEY"

    def _obey(self, m: Module, op: Value, count: Value) -> None:
        """Access the host port, register after register; go on to ANSWER."""
        # A row takes one access more: the command, after the words of a LOAD, before those of a
        # DUMP.
        step, writing = Signal(range(self.row_words + 1)), Signal()
        by_row = (op == Op.LOAD) | (op == Op.DUMP)
        command = by_row & (step == Mux(self._carries, self.row_words, 0))
        with m.State("OBEY"):  # the word at the index is fetched meanwhile
            m.next = "ACCESS"
            with m.If((self._index == count) & ~(command & self._carries)):
                m.d.sync += [step.eq(0), self._index.eq(0)]
                m.next = "ANSWER"
        with m.State("ACCESS"):
            place = Mux(by_row, step - Mux(self._carries, 0, 1), self._index)
            base = Mux(by_row, host.STAGING.offset, self._header[16:32])
            m.d.sync += [self._address.eq(base + (place << 2)), self._word.eq(self._fetch.data)]
            m.d.sync += writing.eq(self._carries | command)
            with m.If(command):
                way = Mux(self._carries, host.Command.WRITE, host.Command.READ)
                m.d.sync += [self._address.eq(host.COMMAND.offset), self._word.eq(way)]
            m.next = "ISSUE"
        with m.State("ISSUE"):
            with m.If(writing):
                m.d.sync += [self.m_axil_awvalid.eq(1), self.m_axil_wvalid.eq(1)]
            with m.Else():
                m.d.sync += self.m_axil_arvalid.eq(1)
            m.d.sync += [self.m_axil_bready.eq(1), self.m_axil_rready.eq(1)]
            m.next = "WAIT"
        with m.State("WAIT"):
            for channel in ("aw", "w", "ar"):
                with m.If(getattr(self, f"m_axil_{channel}ready")):
                    m.d.sync += getattr(self, f"m_axil_{channel}valid").eq(0)
            done, response = Signal(), Mux(writing, self.m_axil_bresp, self.m_axil_rresp)
            m.d.comb += done.eq(Mux(writing, self.m_axil_bvalid, self.m_axil_rvalid))
            with m.If(done):
                m.d.sync += [self.m_axil_bready.eq(0), self.m_axil_rready.eq(0)]
                m.d.sync += step.eq(Mux(step == self.row_words, 0, step + 1))
                with m.If(response != OKAY):
                    m.d.sync += self._status.eq(Status.REFUSED)
                with m.If(~command):
                    m.d.sync += self._index.eq(self._index + 1)
                with m.If(~writing):
                    m.d.comb += self._store.addr.eq(MOST_WORDS + self._index)
                    m.d.comb += [self._store.data.eq(self.m_axil_rdata), self._store.en.eq(1)]
                m.next = "OBEY"

    def _answer(self, m: Module, count: Value) -> None:
        """Send the response; go on to HUNT."""
        out, crc = self._transmitter, self._crc
        told = Mux(self._carries, 0, count)
        content = Cat(self._header[:BITS], self._status, told)
        crc_sent = Signal(CRC_BYTES * BITS)

        def field(state: str, value: Value, size: int) -> Value:
            """Begin a state that sends a field; return whether its last byte is taken."""
            ended = Signal(name=f"{state.lower()}_ended")
            byte = value.word_select(self._byte, BITS)
            m.d.comb += [out.data.eq(byte), out.valid.eq(1)]
            with m.If(out.ready):
                m.d.comb += [crc.data.eq(byte), crc.valid.eq(1)]
                m.d.comb += ended.eq(self._byte == size - 1)
                m.d.sync += self._byte.eq(Mux(ended, 0, self._byte + 1))
            return ended

        with m.State("ANSWER"):
            m.d.comb += [out.data.eq(SYNC), out.valid.eq(1), crc.start.eq(1)]
            m.d.sync += [self._byte.eq(0), self._index.eq(0)]
            with m.If(out.ready):
                m.next = "ANSWER_HEADER"
        with m.State("ANSWER_HEADER"), m.If(field("ANSWER_HEADER", content, ANSWER.size)):
            m.next = "ANSWER_CRC"
            with m.If(told.any()):
                m.next = "ANSWER_FETCH"
        with m.State("ANSWER_FETCH"):
            m.d.comb += self._fetch.addr.eq(MOST_WORDS + self._index)
            m.next = "ANSWER_WORD"
        with m.State("ANSWER_WORD"):
            # The address holds, and with it the word.
            m.d.comb += self._fetch.addr.eq(MOST_WORDS + self._index)
            with m.If(field("ANSWER_WORD", self._fetch.data, BYTES)):
                m.d.sync += self._index.eq(self._index + 1)
                m.next = "ANSWER_FETCH"
                with m.If(self._index == told - 1):
                    m.next = "ANSWER_CRC"
        with m.State("ANSWER_CRC"):
            m.d.sync += crc_sent.eq(crc.crc)
            m.next = "ANSWER_END"
        with m.State("ANSWER_END"):
            swapped = Cat(crc_sent[BITS:], crc_sent[:BITS])
            with m.If(field("ANSWER_END", swapped, CRC_BYTES)):
                m.next = "HUNT"
