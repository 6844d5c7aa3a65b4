"""Waterclock: an open Tensor Streaming Processor, from a checkpoint to text on RTL.

>>> import waterclock
>>> program = waterclock.compiled("path/of/a/model", preset="small")
>>> result = waterclock.run(program, waterclock.encode_prompt(program, "Once"), 20, "golden")
>>> result.text, result.exact, result.cycles_measured
"""

from waterclock.api import ENGINES, Result, compiled, encode_prompt, loaded, run, story
from waterclock.isa.config import PRESETS, Config, load_config
from waterclock.isa.errors import UserError
from waterclock.isa.program import Program, load_program, save_program

__all__ = [
    "ENGINES",
    "PRESETS",
    "Config",
    "Program",
    "Result",
    "UserError",
    "compiled",
    "encode_prompt",
    "load_config",
    "load_program",
    "loaded",
    "run",
    "save_program",
    "story",
]
