"""What memories hold at power-on: a program's memory image and instructions as block RAM.

The units of a chip are synthesised once and instanced, so all instances have the same contents.
Those of each memory are put into the netlist afterwards: yosys maps the memories alone, once more,
each with its own contents, and the cells of the netlist get the initial values of those cells.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waterclock.fpga.top import CHIP
from waterclock.fpga.yosys import synthesise
from waterclock.isa.floorplan import Hemisphere, queues
from waterclock.isa.program import Program
from waterclock.rtl.icu import stored_bits
from waterclock.rtl.mem import tile_id
from waterclock.rtl.sram import IMEM_ID, sram_verilog
from waterclock.sim.preload import write_memories

CELL = "DP16KD"
INITIAL = "INITVAL_"  #: parameters of a cell that hold its contents
TOP = "memories"

#: Ports of the memories' modules beside clock and number.
PORTS = {
    "waterclock_sram": ["en", "we", "addr", "wdata", "rdata"],
    "waterclock_sram_two_port": ["read", "read_addr", "write", "write_addr", "wdata", "rdata"],
}

#: Parameters that name files with their contents: the second for words beyond a power of two.
FILES = {"waterclock_sram": ["INIT"], "waterclock_sram_two_port": ["INIT", "REST"]}

_MEMORY = re.compile(r"(m\d+)(\..*)")


@dataclasses.dataclass(frozen=True)
class Memory:
    """A memory of the chip: where it is, its shape, and what it holds."""

    path: str  #: of its instance
    module: str
    width: int
    depth: int
    images: list[bytes]  #: files of ``write_memories``, one a bank

    def hexadecimal(self) -> list[str]:
        """Return the contents as ``$readmemh`` takes them, a text for each of ``FILES``."""
        size, lines = -(-self.width // 8), []
        for image in self.images:
            rows = [image[at : at + size].hex() for at in range(0, len(image), size)]
            lines += rows + ["0"] * (self.depth // len(self.images) - len(rows))
        two = len(FILES[self.module]) > 1
        whole = 1 << self.depth.bit_length() - 1
        parts = [lines[:whole], lines[whole:]] if two else [lines]
        return ["".join(f"{line}\n" for line in part) for part in parts]

    def verilog(self, name: str) -> str:
        """Return declarations and instance for a module with a port for each of its ports."""
        bits = dict.fromkeys(PORTS[self.module], 1)
        address = (self.depth - 1).bit_length()
        bits |= dict.fromkeys((x for x in bits if x.endswith("addr")), address)
        bits |= dict.fromkeys(("wdata", "rdata"), self.width)
        lines = [
            f"  {'output' if port == 'rdata' else 'input'} [{size - 1}:0] {name}_{port};"
            for port, size in bits.items()
        ]
        values = {"WIDTH": self.width, "DEPTH": self.depth}
        values |= {
            file: f'"{name}_{file}.hex"'
            for file, text in zip(FILES[self.module], self.hexadecimal(), strict=True)
            if text
        }
        nets = {"clk": "clk", "id": "16'd0"} | {port: f"{name}_{port}" for port in bits}
        settings, wires = (
            ", ".join(f".{key}({value})" for key, value in pairs.items())
            for pairs in (values, nets)
        )
        return "\n".join([*lines, f"  {self.module} #({settings}) {name} ({wires});"])


def memories(program: Program) -> list[Memory]:
    """Return the memories of a chip for which a program has contents."""
    config, found = program.config, []
    with tempfile.TemporaryDirectory(prefix="waterclock-") as name:
        write_memories(program, Path(name))
        images = {int(path.stem): path.read_bytes() for path in Path(name).glob("*.bin")}
    for side, index in sorted({place[:2] for place in program.memory}):
        group, slice_index = divmod(index, config.group)
        letter = Hemisphere(side).name[0].lower()
        for k in range(config.superlanes):
            path = f"{CHIP}.mem_{letter}{group}_{k}.slice_{slice_index}"
            number = 2 * tile_id(config, k, side, index)
            banks = [images[number], images[number + 1]]
            width = config.lanes * 8
            if config.two_port:
                module = "waterclock_sram_two_port"
                found.append(Memory(f"{path}.banks.memory", module, width, config.depth, banks))
            else:
                found += [
                    Memory(
                        f"{path}.bank_{bank}.memory", "waterclock_sram", width, config.rows, [image]
                    )
                    for bank, image in enumerate(banks)
                ]
    for queue in queues(config):
        if image := images.get(IMEM_ID + queue.index):  # a follower has none
            path = f"{CHIP}.{queue.name.replace('.', '_').lower()}.memory.memory"
            width = stored_bits(queue.kind, config).bit_count()
            found.append(
                Memory(path, "waterclock_sram", width, config.words_of(queue.kind), [image])
            )
    return found


def put_contents(
    netlist: Path, program: Program, progress: Callable[[str], None] | None = None
) -> int:
    """Put a program into the block RAMs of a chip's netlist; return how many have contents.

    Raises
    ------
    ToolError
        When yosys fails.
    """
    values = _initial_values(memories(program), netlist.with_suffix(".memories"), progress)
    design = json.loads(netlist.read_text())
    (top,) = (m for m in design["modules"].values() if int(m["attributes"].get("top", "0"), 2))
    for path, cell in values.items():
        parameters = top["cells"][path]["parameters"]
        shape = _shape(parameters)
        if shape != _shape(cell):
            raise RuntimeError(f"{path}: mapped as {shape}, alone as {_shape(cell)}")
        parameters.update({name: x for name, x in cell.items() if name.startswith(INITIAL)})
    netlist.write_text(json.dumps(design))
    return len(values)


def _shape(parameters: dict[str, str]) -> dict[str, str]:
    return {name: x for name, x in parameters.items() if "WIDTH" in name or "MODE" in name}


def _initial_values(
    found: list[Memory], netlist: Path, progress: Callable[[str], None] | None
) -> dict[str, dict[str, Any]]:
    """Map memories alone; return the parameters of each cell by its path in the chip."""
    names = {f"m{index}": memory for index, memory in enumerate(found)}
    ports = [f"{name}_{port}" for name, memory in names.items() for port in PORTS[memory.module]]
    lines = [f"module {TOP} ({', '.join(['clk', *ports])});", "  input clk;"]
    lines += [memory.verilog(name) for name, memory in names.items()]
    files = {"sram.sv": sram_verilog(), f"{TOP}.v": "\n".join([*lines, "endmodule\n"])}
    files |= {
        f"{name}_{file}.hex": text
        for name, memory in names.items()
        for file, text in zip(FILES[memory.module], memory.hexadecimal(), strict=True)
    }
    synthesise(files, TOP, [], progress, netlist)
    cells = json.loads(netlist.read_text())["modules"][TOP]["cells"]
    netlist.unlink()
    values = {}
    for cell, about in cells.items():
        if about["type"] == CELL and (place := _MEMORY.match(cell)):
            values[names[place[1]].path + place[2]] = about["parameters"]
    return values
