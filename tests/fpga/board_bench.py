"""A board in simulation behind a pseudo-terminal: chip, host link, and a line with faults.

The chip and its link run in Verilator; cocotb carries bytes between them and the terminal. The
host program on the other side is the real one.
"""

import contextlib
import json
import os
import random
import tempfile
import threading
import time
import tty
from pathlib import Path

import cocotb
from cocotb.triggers import Timer
from faults import Faults

from waterclock.fpga.link import HostLink
from waterclock.isa.config import Config
from waterclock.isa.program import Program
from waterclock.rtl.emit import convert
from waterclock.sim import verilator
from waterclock.sim.preload import write_memories
from waterclock.sim.rtl_engine import cached_verilog

DIVISOR = 4  # cycles a bit
PERIOD = 2  # time units a cycle
BYTE = 10 * DIVISOR * PERIOD
CHUNK = 64  # bytes that are sent at a time
HEARD = 1024  # bytes that wait for the host
POLL = 20 * BYTE  # the host is looked after so often
REST = 4 * POLL  # the simulation stands still when nothing has happened for so long
LIMIT = 400_000_000  # cycles of a session
JOB = "WATERCLOCK_BOARD"

BENCH = """
module bench;
  reg clk = 0, rst = 1, rx = 1;
  always #1 clk = ~clk;
  wire tx, running;
  wire [11:0] awaddr, araddr;
  wire [2:0] awprot, arprot;
  wire [31:0] wdata, rdata;
  wire [3:0] wstrb;
  wire awvalid, awready, wvalid, wready, bvalid, bready, arvalid, arready, rvalid, rready;
  wire [1:0] bresp, rresp;
  host_link link (
    .clk, .rst, .rx, .tx,
    .m_axil_awaddr(awaddr), .m_axil_awprot(awprot), .m_axil_awvalid(awvalid),
    .m_axil_awready(awready), .m_axil_wdata(wdata), .m_axil_wstrb(wstrb), .m_axil_wvalid(wvalid),
    .m_axil_wready(wready), .m_axil_bresp(bresp), .m_axil_bvalid(bvalid), .m_axil_bready(bready),
    .m_axil_araddr(araddr), .m_axil_arprot(arprot), .m_axil_arvalid(arvalid),
    .m_axil_arready(arready), .m_axil_rdata(rdata), .m_axil_rresp(rresp), .m_axil_rvalid(rvalid),
    .m_axil_rready(rready));
  waterclock chip (
    .clk, .rst, .running, .error(), .s_axil_awaddr(awaddr), .s_axil_awprot(awprot),
    .s_axil_awvalid(awvalid),
    .s_axil_awready(awready), .s_axil_wdata(wdata), .s_axil_wstrb(wstrb), .s_axil_wvalid(wvalid),
    .s_axil_wready(wready), .s_axil_bresp(bresp), .s_axil_bvalid(bvalid), .s_axil_bready(bready),
    .s_axil_araddr(araddr), .s_axil_arprot(arprot), .s_axil_arvalid(arvalid),
    .s_axil_arready(arready), .s_axil_rdata(rdata), .s_axil_rresp(rresp), .s_axil_rvalid(rvalid),
    .s_axil_rready(rready));

  // The host's end of the line, a few bytes at a time.
  reg [8 * CHUNK - 1:0] to_send;
  reg [15:0] count = 0;
  reg send = 0;
  always @(posedge send)
    for (int i = 0; i < 32'(count); i++) begin
      rx = 0;
      for (int bit_ = 0; bit_ < 8; bit_++) #BIT rx = to_send[8 * i + bit_];
      #BIT rx = 1;
      #BIT;
    end

  reg [7:0] heard [0:HEARD - 1], shift;
  reg [31:0] told = 0, spoilt = 0;
  always @(negedge tx) begin
    #(BIT / 2);
    for (int bit_ = 0; bit_ < 8; bit_++) #BIT shift[bit_] = tx;
    #BIT if (!tx) spoilt = spoilt + 1;
    heard[told % HEARD] = shift;
    told = told + 1;
  end
endmodule
"""


@cocotb.test(timeout_time=LIMIT * PERIOD, timeout_unit="ns")
async def serve(dut):
    """Carry bytes until the folder of the job holds a file ``end``."""
    job = json.loads(os.environ[JOB])
    dut._log.info("seed %d", job["seed"])
    folder, faults = Path(job["folder"]), Faults(random.Random(job["seed"]), job["share"])
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    await Timer(10 * PERIOD, "ns")
    dut.rst.value = 0
    # Moved there whole, for somebody waits for it.
    (folder / "part").write_text(os.ttyname(theirs))
    (folder / "part").rename(folder / "port")
    before = taken = quiet = 0
    while not (folder / "end").exists():
        request = _read(ours)
        await _send(dut, faults.spoil(request) if request else b"")
        await Timer(POLL, "ns")
        told = int(dut.told.value)
        if taken < told == before:  # the board pauses: its answer is whole
            answer = bytes(int(dut.heard[at % HEARD].value) for at in range(taken, told))
            with contextlib.suppress(BlockingIOError):  # nobody takes it
                os.write(ours, faults.spoil(answer))
            taken = told
        quiet = 0 if request or told != before else quiet + POLL
        before = told
        if quiet > REST:
            time.sleep(0.001)
    (folder / "faults.json").write_text(json.dumps(faults.counts))
    assert int(dut.spoilt.value) == 0, "a byte of the board without a stop bit"


def _read(terminal: int) -> bytes:
    """Return what the host sent since the last time."""
    try:
        return os.read(terminal, 4096)
    except BlockingIOError:
        return b""


async def _send(dut, data: bytes) -> None:
    """Put bytes on the board's line."""
    for first in range(0, len(data), CHUNK):
        part = data[first : first + CHUNK]
        dut.to_send.value = int.from_bytes(part, "little")
        dut.count.value, dut.send.value = len(part), 1
        await Timer(len(part) * BYTE, "ns")
        dut.send.value = 0
        await Timer(2 * PERIOD, "ns")


class SimulatedBoard:
    """A board at a pseudo-terminal, as a context.

    Parameters
    ----------
    config : Config
        Of its chip.
    share : float
        Of the frames that the line spoils.
    program : Program, optional
        What its memories hold from the beginning.

    Attributes
    ----------
    port : str
        Name of the terminal.
    faults : dict
        How many there were of each kind, when the board is off.
    """

    def __init__(
        self, config: Config, share: float = 0.0, seed: int = 1, program: Program | None = None
    ):
        self.share, self.seed, self.program = share, seed, program
        self.faults: dict[str, int] = {}
        bench = BENCH.replace("BIT", str(DIVISOR * PERIOD)).replace("CHUNK", str(CHUNK))
        files = {
            **cached_verilog(config),
            "host_link.v": convert(HostLink(config, DIVISOR), "host_link"),
            "bench.sv": bench.replace("HEARD", str(HEARD)),
        }
        self._simulator = verilator.build(files, "bench", extra_args=("--timing", "-Wno-lint"))
        self._failure: list[BaseException] = []

    def __enter__(self) -> "SimulatedBoard":
        self._temporary = tempfile.TemporaryDirectory(prefix="waterclock-")
        folder = self._folder = Path(self._temporary.name)
        if self.program is not None:
            write_memories(self.program, folder)
        job = json.dumps({"folder": str(folder), "share": self.share, "seed": self.seed})

        def simulate() -> None:
            try:
                verilator.run(
                    self._simulator,
                    "board_bench",
                    directory=folder,
                    seed=self.seed,
                    plusargs=[f"+waterclock={folder}"],
                    extra_env={JOB: job},
                )
            except BaseException as error:  # handed to the thread that waits
                self._failure.append(error)

        self._thread = threading.Thread(target=simulate, daemon=True)
        self._thread.start()
        while not (folder / "port").exists():
            if not self._thread.is_alive():
                raise self._failure[0]
            time.sleep(0.01)
        self.port = (folder / "port").read_text()
        return self

    def __exit__(self, *_: object) -> None:
        (self._folder / "end").touch()
        self._thread.join()
        if self._failure:
            raise self._failure[0]
        self.faults = json.loads((self._folder / "faults.json").read_text())
        self._temporary.cleanup()
