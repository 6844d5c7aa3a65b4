"""A UART of eight bits without parity: the board's USB bridge on the other side."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

BITS = 8


class UARTReceiver(wiring.Component):
    """Turns a serial line into bytes.

    Parameters
    ----------
    divisor : int
        Clock cycles a bit, 4 or more.

    Members
    -------
    rx : In(1)
        The line, from outside the clock domain; high while idle.
    data, valid : Out(8), Out(1)
        A byte, and one cycle in which it is there. A byte without a stop bit is dropped.
    """

    rx: In(1, init=1)
    data: Out(BITS)
    valid: Out(1)

    def __init__(self, divisor: int):
        if divisor < 4:
            raise ValueError(f"divisor is {divisor}, expected 4 or more")
        self.divisor = divisor
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        line, busy = Signal(init=1), Signal()
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        left, timer = Signal(range(BITS + 2)), Signal(range(self.divisor))
        m.d.sync += self.valid.eq(0)
        with m.If(~busy), m.If(~line):
            # To the middle of the start bit, less the cycle in which it is noticed.
            m.d.sync += [busy.eq(1), left.eq(BITS + 1), timer.eq(self.divisor // 2 - 1)]
        with m.Elif(timer.any()):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1)]
            with m.If((left == BITS + 1) & line):
                m.d.sync += busy.eq(0)  # a glitch, no start bit
            with m.Elif(left == 0):
                m.d.sync += [busy.eq(0), self.valid.eq(line)]
            with m.Else():
                m.d.sync += self.data.eq(Cat(self.data[1:], line))
        return m


class UARTTransmitter(wiring.Component):
    """Turns bytes into a serial line.

    Parameters
    ----------
    divisor : int
        Clock cycles a bit.

    Members
    -------
    data, valid, ready : In(8), In(1), Out(1)
        A byte is taken in a cycle in which both are high.
    tx : Out(1)
        The line; high while idle.
    """

    data: In(BITS)
    valid: In(1)
    ready: Out(1)
    tx: Out(1, init=1)

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        shift, timer = Signal(BITS + 1), Signal(range(self.divisor))
        m.d.comb += self.ready.eq(~shift.any() & (timer == 0))
        with m.If(self.ready), m.If(self.valid):
            # The stop bit marks the end: what is left of the byte is never zero before it.
            m.d.sync += [shift.eq(Cat(self.data, C(1, 1))), self.tx.eq(0)]
            m.d.sync += timer.eq(self.divisor - 1)
        with m.Elif(timer.any()):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [self.tx.eq(shift[0]), shift.eq(shift >> 1)]
            m.d.sync += timer.eq(self.divisor - 1)
        return m
