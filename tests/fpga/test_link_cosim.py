"""The host link in Verilator: the real client, a line that loses and bends bytes, a host port."""

import os
import random
from pathlib import Path

import cocotb
import pytest
from cocotb.task import bridge, resume
from cocotb.triggers import FallingEdge, Timer
from faults import KINDS, Faults

from waterclock.fpga.client import LinkClient
from waterclock.fpga.link import HostLink
from waterclock.isa import host
from waterclock.isa.config import load_config
from waterclock.isa.errors import UserError
from waterclock.rtl.emit import convert
from waterclock.rtl.host import HostPort
from waterclock.sim import verilator

CONFIG = load_config("nano")
DIVISOR = 4  # cycles a bit
PERIOD = 2  # time units a cycle
BYTE = 10 * DIVISOR * PERIOD
TIMEOUT = 2.0  # of the client, in thousands of bytes on the line
LIMIT = 400_000_000  # cycles a test may take
SEED = "COCOTB_RANDOM_SEED"
FAULTS = "WATERCLOCK_FAULTS"

BENCH = """
module bench;
  reg clk = 0, rst = 1, rx = 1;
  always #1 clk = ~clk;
  wire tx, launch, running_;
  wire write, read, space;
  wire [15:0] unit, address;
  wire [63:0] write_data;
  wire [11:0] awaddr, araddr;
  wire [2:0] awprot, arprot;
  wire [31:0] wdata, rdata;
  wire [3:0] wstrb;
  wire awvalid, awready, wvalid, wready, bvalid, bready, arvalid, arready, rvalid, rready;
  wire [1:0] bresp, rresp;
  integer launches = 0, cut = 0;
  host_link link (
    .clk, .rst, .rx, .tx,
    .m_axil_awaddr(awaddr), .m_axil_awprot(awprot), .m_axil_awvalid(awvalid),
    .m_axil_awready(awready), .m_axil_wdata(wdata), .m_axil_wstrb(wstrb), .m_axil_wvalid(wvalid),
    .m_axil_wready(wready), .m_axil_bresp(bresp), .m_axil_bvalid(bvalid), .m_axil_bready(bready),
    .m_axil_araddr(araddr), .m_axil_arprot(arprot), .m_axil_arvalid(arvalid),
    .m_axil_arready(arready), .m_axil_rdata(rdata), .m_axil_rresp(rresp), .m_axil_rvalid(rvalid),
    .m_axil_rready(rready));
  reg [7:0] run = 0;
  host_port port (
    .clk, .rst, .s_axil_awaddr(awaddr), .s_axil_awprot(awprot), .s_axil_awvalid(awvalid),
    .s_axil_awready(awready), .s_axil_wdata(wdata), .s_axil_wstrb(wstrb), .s_axil_wvalid(wvalid),
    .s_axil_wready(wready), .s_axil_bresp(bresp), .s_axil_bvalid(bvalid), .s_axil_bready(bready),
    .s_axil_araddr(araddr), .s_axil_arprot(arprot), .s_axil_arvalid(arvalid),
    .s_axil_arready(arready), .s_axil_rdata(rdata), .s_axil_rresp(rresp), .s_axil_rvalid(rvalid),
    .s_axil_rready(rready), .launch, .start(), .running(|run), .settling(1'b0),
    .signature_value(32'd0), .errors(5'd0), .space, .unit,
    .address, .write, .read, .write_data, .read_data(answer[5]), .done(), .cycles());
  always @(posedge clk) begin
    run <= launch ? 100 : run - (|run);
    launches <= launches + 32'(launch);
  end
  reg [63:0] memory [0:32767];
  wire [14:0] place = {space, unit[1:0], address[11:0]};
  reg [63:0] answer [0:5];
  always @(posedge clk) begin
    if (write) memory[place] <= write_data;
    answer[0] <= memory[place];
    for (int i = 1; i < 6; i++) answer[i] <= answer[i - 1];
  end
endmodule
"""


class FaultyLine:
    """The serial line bit by bit, with its faults; called from the client's thread."""

    name = "line"

    def __init__(self, dut, rng: random.Random):
        self.dut, self.faults = dut, Faults(rng, 0.0)
        self.heard = bytearray()
        cocotb.start_soon(self._listen())

    async def _listen(self) -> None:
        """Take the bytes that the board sends."""
        while True:
            await FallingEdge(self.dut.tx)
            await Timer(DIVISOR * PERIOD // 2, "ns")
            byte = 0
            for bit in range(8):
                await Timer(DIVISOR * PERIOD, "ns")
                byte |= int(self.dut.tx.value) << bit
            await Timer(DIVISOR * PERIOD, "ns")
            assert self.dut.tx.value == 1, "no stop bit"
            self.heard.append(byte)

    @resume
    async def write(self, data: bytes) -> None:
        for byte in self.faults.spoil(data):
            for bit in (0, *(byte >> bit & 1 for bit in range(8)), 1):
                self.dut.rx.value = bit
                await Timer(DIVISOR * PERIOD, "ns")

    @resume
    async def read(self, timeout: float) -> bytes:
        waited = 0
        while not self.heard and waited < timeout * 1000:
            await Timer(BYTE, "ns")
            waited += 1
        while True:  # until the board pauses, so that a response is spoilt as a whole
            size = len(self.heard)
            await Timer(2 * BYTE, "ns")
            if len(self.heard) == size:
                break
        data, self.heard = bytes(self.heard), bytearray()
        return self.faults.spoil(data) if data else b""


def _session(client: LinkClient, rng: random.Random, enough) -> tuple[int, int]:
    """Use the board at random and compare with a model; return (accesses, launches)."""
    client.connect()
    rows: dict[tuple[int, int, int], list[int]] = {}
    accesses = launches = 0
    while not enough():
        accesses += 1
        kind = rng.choice(["load", "dump", "register", "launch", "cycles"])
        place = rng.choice(list(host.Space)), rng.randrange(4), rng.randrange(400)
        if kind == "load":
            words = [rng.randrange(1 << 32) for _ in range(2 * rng.choice([1, 2, 3, 70]))]
            client.load(*place, words)
            for row in range(len(words) // 2):
                rows[place[0], place[1], place[2] + row] = words[2 * row : 2 * row + 2]
        elif kind == "dump" and rows:
            space, unit, row = rng.choice(list(rows))
            count = rng.choice([1, 2, 66])
            found = client.dump(space, unit, row, count)
            for index in range(count):
                expected = rows.get((space, unit, row + index))
                assert expected in (None, found[2 * index : 2 * index + 2]), (space, unit, row)
        elif kind == "register":
            value = rng.randrange(1 << 16)
            client.write(host.START.offset, value)
            assert client.read(host.START.offset) == (value,)
        elif kind == "launch":
            client.write(host.CONTROL.offset, 1)
            launches += 1
            while not client.read(host.STATUS.offset)[0] & 4:
                pass
            assert client.read(host.CYCLES_LOW.offset, 2) == (100, 0)
    assert client.read(host.ERROR.offset) == (0,)
    return accesses, launches


@cocotb.test(timeout_time=LIMIT * PERIOD, timeout_unit="ns")
async def every_access_happens_once_whatever_the_line_does(dut):
    rng = random.Random(int(os.environ[SEED]))
    dut._log.info("seed %s", os.environ[SEED])
    await Timer(20, "ns")
    dut.rst.value = 0
    line = FaultyLine(dut, rng)
    client = LinkClient(line, CONFIG, TIMEOUT)
    quiet = iter(range(30))
    accesses, launches = await bridge(_session)(client, rng, lambda: next(quiet, None) is None)
    assert accesses == 30
    assert client.repeats == 0
    faults = line.faults
    faults.share, wanted = 0.1, int(os.environ[FAULTS])
    more, again = await bridge(_session)(client, rng, lambda: faults.counts.total() >= wanted)
    dut._log.info("%d accesses, %d repeats, faults %s", more, client.repeats, dict(faults.counts))
    assert int(dut.launches.value) == launches + again  # not one twice, not one lost
    assert faults.counts.total() >= wanted
    assert min(faults.counts[kind] for kind in KINDS) > 0


@cocotb.test(timeout_time=LIMIT * PERIOD, timeout_unit="ns")
async def a_line_without_a_board_is_one_clear_error(dut):
    line = FaultyLine(dut, random.Random(0))
    dut.rst.value = 1
    message = ""
    try:
        await bridge(LinkClient(line, CONFIG, 0.01).connect)()
    except UserError as error:
        message = str(error)
    assert message.startswith("line: no answer to 8 requests"), message


def build() -> Path:
    link, port = HostLink(CONFIG, DIVISOR), HostPort(CONFIG)
    files = {
        "host_link.v": convert(link, "host_link"),
        "host_port.v": convert(port, "host_port"),
        "bench.sv": BENCH,
    }
    return verilator.build(files, "bench", extra_args=("--timing", "-Wno-lint"))


@pytest.mark.parametrize("faults", [100, pytest.param(1_000, marks=pytest.mark.long)])
def test_link_survives_faults_of_the_line(faults: int):
    verilator.run(build(), "test_link_cosim", seed=faults, extra_env={FAULTS: str(faults)})
