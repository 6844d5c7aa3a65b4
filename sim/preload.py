"""Memory files for the simulation: what ``rtl/sram.v`` loads at the first clock edge."""

from pathlib import Path

import numpy as np

from waterclock.isa.floorplan import queues
from waterclock.isa.program import Program
from waterclock.rtl.icu import imem_image
from waterclock.rtl.mem import tile_id
from waterclock.rtl.sram import IMEM_ID, sram_image


def write_memories(program: Program, folder: Path) -> None:
    """Write the program's memory image and all its instruction words into ``folder``."""
    config = program.config
    lanes, rows = config.lanes, config.rows
    contents: dict[tuple[int, int], np.ndarray] = {}
    for (side, index, row), data in program.memory.items():
        whole = contents.setdefault(
            (side, index), np.zeros((config.depth, config.vector), np.uint8)
        )
        whole[row : row + len(data)] = data
    for (side, index), whole in contents.items():
        for superlane in range(config.superlanes):
            part = whole[:, superlane * lanes : (superlane + 1) * lanes]
            number = 2 * tile_id(config, superlane, side, index)
            for bank in range(2):
                bank_rows = part[bank * rows : (bank + 1) * rows]
                (folder / f"{number + bank}.bin").write_bytes(sram_image(bank_rows))
    for queue in queues(config):
        if queue.leader is not None:
            continue
        image = imem_image(queue.kind, config, program.queue_words(queue.index))
        (folder / f"{IMEM_ID + queue.index}.bin").write_bytes(image)
