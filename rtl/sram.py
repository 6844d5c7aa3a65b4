"""The memories of the chip: wrappers around the Verilog of ``rtl/sram.v`` and its neighbour."""

from importlib import resources

import numpy as np
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

ID_BITS = 16

#: Number of the first queue's instruction memory; the numbers below are those of MEM banks.
IMEM_ID = 1 << ID_BITS - 1


def sram_verilog() -> str:
    """Return the Verilog that every emission which contains an ``SRAM`` needs.

    It begins with a package for simulation; synthesis sees only the modules.
    """
    folder = resources.files("waterclock.rtl")
    names = ("sim_package.sv", "sram.v", "sram_two_port.v")
    return "\n".join(folder.joinpath(name).read_text() for name in names)


def sram_image(rows: NDArray[np.uint8]) -> bytes:
    """Return the content of a preload file.

    Parameters
    ----------
    rows : (n, ceil(width / 8)) uint8
        The words from address 0 on, least significant byte (lane 0) first.
    """
    return np.ascontiguousarray(rows[:, ::-1]).tobytes()


class SRAM(wiring.Component):
    """Single-port memory with a synchronous read.

    Parameters
    ----------
    width : int
        Bits a word.
    depth : int
        Words.

    Members
    -------
    en : In(1)
        Access in this cycle.
    we : In(1)
        The access is a write; ignored without ``en``.
    addr : In(ceil_log2(depth))
    wdata : In(width)
    rdata : Out(width)
    id : In(16)
        A constant that names the memory in simulation (preload, trace).

    Timing
    ------
    A word read in cycle t is in ``rdata`` from t + 1 until the next read. A write in cycle t is
    seen by a read in t + 1.
    """

    def __init__(self, width: int, depth: int):
        self.width, self.depth = width, depth
        super().__init__(
            {
                "en": In(1),
                "we": In(1),
                "addr": In(ceil_log2(depth)),
                "wdata": In(width),
                "rdata": Out(width),
                "id": In(ID_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = Instance(
            "waterclock_sram",
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            i_clk=ClockSignal(),
            i_en=self.en,
            i_we=self.we,
            i_addr=self.addr,
            i_wdata=self.wdata,
            o_rdata=self.rdata,
            i_id=self.id,
        )
        return m


class TwoPortSRAM(wiring.Component):
    """Two banks as one memory that reads and writes in a cycle, never in one bank.

    Parameters
    ----------
    width : int
        Bits a word.
    depth : int
        Words of both banks.

    Members
    -------
    read, write : In(1)
        Access in this cycle.
    read_addr, write_addr : In(ceil_log2(depth))
    wdata : In(width)
    rdata : Out(width)
    id : In(16)
        A constant that names the lower bank in simulation; the upper one follows.

    Timing
    ------
    As ``SRAM``.
    """

    def __init__(self, width: int, depth: int):
        self.width, self.depth = width, depth
        super().__init__(
            {
                "read": In(1),
                "read_addr": In(ceil_log2(depth)),
                "write": In(1),
                "write_addr": In(ceil_log2(depth)),
                "wdata": In(width),
                "rdata": Out(width),
                "id": In(ID_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = Instance(
            "waterclock_sram_two_port",
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            i_clk=ClockSignal(),
            i_read=self.read,
            i_read_addr=self.read_addr,
            i_write=self.write,
            i_write_addr=self.write_addr,
            i_wdata=self.wdata,
            o_rdata=self.rdata,
            i_id=self.id,
        )
        return m
