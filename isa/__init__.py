"""The machine said once: configuration, floor plan, formats, instructions, latencies.

Importing this package fills the instruction table ``ISA``.
"""

from waterclock.isa import icu, mem, mxm, sxm, vxm
from waterclock.isa.config import PRESETS, Config, load_config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import Hemisphere, Queue, queues
from waterclock.isa.spec import ISA, Instruction, Role, decode
from waterclock.isa.streams import Direction

__all__ = [
    "ISA",
    "PRESETS",
    "Config",
    "Direction",
    "Hemisphere",
    "Instruction",
    "Queue",
    "Role",
    "UserError",
    "decode",
    "icu",
    "load_config",
    "mem",
    "mxm",
    "queues",
    "sxm",
    "vxm",
]
