"""The memory in simulation: reads, writes, preload and trace, under Verilator."""

import os
import random
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from waterclock.rtl.sram import sram_image, sram_verilog
from waterclock.sim import verilator

WIDTH, DEPTH, LOADED, ACCESSES = 38, 24, 17, 3000
ID = 5
PERIOD = 10

TOP = f"""
module top(input clk, input en, input we, input [4:0] addr, input [{WIDTH - 1}:0] wdata,
           output [{WIDTH - 1}:0] rdata, other);
  waterclock_sram #(.WIDTH({WIDTH}), .DEPTH({DEPTH})) memory
    (.clk, .en, .we, .addr, .wdata, .rdata, .id(16'd{ID}));
  waterclock_sram #(.WIDTH({WIDTH}), .DEPTH({DEPTH})) unloaded
    (.clk, .en, .we(1'b0), .addr, .wdata, .rdata(other), .id(16'd{ID + 1}));
endmodule
"""


def loaded_words() -> list[int]:
    """Return what the preload file of this test holds."""
    rng = random.Random(20)
    return [rng.getrandbits(WIDTH) for _ in range(LOADED)]


@cocotb.test()
async def memory_behaves(dut) -> None:
    """Random accesses from the very first clock edge on; prints what was written and when."""
    loaded = loaded_words() if "LOADED" in os.environ else []
    memory = loaded + [0] * (DEPTH - len(loaded))
    expected = None
    Clock(dut.clk, PERIOD, unit="ns").start(start_high=False)  # edges at PERIOD / 2 + n * PERIOD
    for cycle in range(ACCESSES):
        en, we = random.random() < 0.8, random.random() < 0.4
        addr, wdata = random.randrange(DEPTH), random.getrandbits(WIDTH)
        dut.en.value, dut.we.value, dut.addr.value, dut.wdata.value = en, we, addr, wdata
        await FallingEdge(dut.clk)
        if en and we:
            memory[addr] = wdata
            print(f"wrote {cycle} {ID} {addr} {wdata:0{-(-WIDTH // 4)}x}")
        elif en:
            expected = memory[addr]
        if expected is not None:
            assert dut.rdata.value.to_unsigned() == expected, cycle
        assert dut.other.value.to_unsigned() == 0


def simulator() -> Path:
    return verilator.build({"sram.sv": sram_verilog(), "top.sv": TOP}, "top")


def save_preload(folder: Path) -> None:
    words = np.array(loaded_words(), "<u8").view(np.uint8).reshape(LOADED, 8)
    (folder / f"{ID}.bin").write_bytes(sram_image(words[:, : -(-WIDTH // 8)]))


@pytest.mark.parametrize("trace", ["trace", "watch"])
def test_a_memory_is_preloaded_and_each_write_is_traced(trace: str, tmp_path: Path) -> None:
    save_preload(tmp_path)
    if trace == "watch":
        (tmp_path / f"{ID}.watch").touch()
    plusargs = [f"+waterclock={tmp_path}", f"+waterclock_{trace}", f"+waterclock_period={PERIOD}"]
    log = verilator.run(
        simulator(),
        "test_sram",
        directory=tmp_path,
        plusargs=plusargs,
        extra_env={"LOADED": "1"},
    )
    written = [line[6:] for line in log.splitlines() if line.startswith("wrote ")]
    assert len(written) > ACCESSES / 5
    assert (tmp_path / "writes.txt").read_text().splitlines() == written


def test_what_is_not_watched_is_not_traced(tmp_path: Path) -> None:
    plusargs = [f"+waterclock={tmp_path}", "+waterclock_watch"]
    verilator.run(simulator(), "test_sram", directory=tmp_path, plusargs=plusargs)
    assert not (tmp_path / "writes.txt").read_text()


def test_nothing_is_loaded_or_traced_without_arguments(tmp_path: Path) -> None:
    save_preload(tmp_path)
    verilator.run(simulator(), "test_sram", directory=tmp_path)
    assert not (tmp_path / "writes.txt").exists()
