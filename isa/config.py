"""The machine's configuration: a frozen object loaded from a YAML preset."""

import dataclasses
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from waterclock.isa.errors import UserError

PRESETS = ("nano", "small", "medium", "tsp1")

#: What an ALU may be able to do besides ``mov``, which it can always do.
ALU_FEATURES = {
    "a": "fp add",
    "m": "multiply",
    "c": "convert",
    "s": "special functions",
    "i": "integer add and comparison",
    "b": "bitwise logic",
    "h": "shifts and bytes",
    "n": "integer multiply",
    "r": "products and powers rounded to f16",
}

#: Features that a chip may lack: no program that we compile needs them, and they are dear.
OPTIONAL_FEATURES = "hnr"

WIDTH = 4  #: slices that act as one where they are wide

#: Lanes whose sums one adder can take turns at, see ``vxm.sum_times``.
SUMMED = (2, 4, 8)

#: Architectural widths of instruction fields bound every configuration (see ``isa/spec.py``).
LIMITS: dict[str, tuple[int, int]] = {
    "superlanes": (1, 32),
    "lanes": (2, 16),
    "streams": (4, 32),
    "slices": (1, 64),
    "group": (1, 8),
    "rows": (16, 32768),
    "planes": (1, 4),
    "load_streams": (1, 32),
    "act_entries": (1, 64),
    "acc_entries": (1, 64),
    "digits": (1, 2),
    "imem_words": (64, 65536),
    "paths": (4, 64),
    "loops": (0, 2),
    "alu_cycles": (4, 9),
    "simple_cycles": (1, 3),
    "turns": (1, 2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Geometry of one chip. Counts are plain numbers; one vector is ``superlanes * lanes`` bytes.

    Source
    ------
    [I20] for the parameters' meaning and the ``tsp1`` values (docs/papers.md).
    """

    name: str
    superlanes: int  #: rows of tiles; an instruction ripples through them, one a cycle
    lanes: int  #: lanes a superlane, one byte each
    streams: int  #: streams a direction
    slices: int  #: MEM slices a hemisphere
    group: int  #: MEM slices that share one stream register column
    rows: int  #: vectors a bank; a slice has two banks
    planes: int  #: MXM planes a hemisphere, each vector x vector
    load_streams: int  #: weight vectors that one LW takes from as many streams
    act_entries: int  #: vectors in a plane's activation buffer
    acc_entries: int  #: vectors in a plane's accumulators
    digits: int  #: passes of an ABC: 1 multiplies an activation whole, 2 in 17-bit digits
    integers: bool  #: whether MXM planes take i8 activations and emit i32 results
    sxm: bool  #: whether there are SXMs, a column each
    alus: tuple[str, ...]  #: features of each VXM ALU, letters of ``ALU_FEATURES``
    simple_cycles: int  #: cycles of a VXM operation that is not arithmetic, see ``isa/vxm.py``
    alu_cycles: int  #: cycles of an arithmetic VXM operation
    b_streams: bool  #: whether the second operand of an ALU takes all streams, or the lowest four
    reduce_streams: bool  #: whether the lane reduction takes and drives streams, or only has buses
    turns: int  #: lanes that take turns at one of the VXM's units, each a cycle
    imem_words: int  #: words of instruction memory a queue
    imem_words_of: tuple[tuple[str, int], ...]  #: kinds of queues that have more, and how many
    loops: int  #: levels of Loop that queues know, 0 for none
    two_port: bool  #: whether the banks of a slice are one memory with a read and a write port
    paths: int  #: ways between a column and its MEM slices, see ``isa/mem.py``
    wide: bool  #: whether the slices of a group share two queues, see ``isa/mem.py``
    source: dataclasses.InitVar[str | None] = None  #: file or preset, for errors

    def __post_init__(self, source: str | None) -> None:
        check(self, source or f"configuration {self.name}")

    @cached_property
    def vector(self) -> int:
        """Lanes (bytes) of a vector."""
        return self.superlanes * self.lanes

    def words_of(self, kind: str) -> int:
        """Return the words of instruction memory of each queue of a kind."""
        return dict(self.imem_words_of).get(kind, self.imem_words)

    @cached_property
    def groups(self) -> int:
        """Stream register columns of the MEM slices of one hemisphere."""
        return self.slices // self.group

    @cached_property
    def depth(self) -> int:
        """Vectors a slice: both banks."""
        return 2 * self.rows

    @cached_property
    def sram_bytes(self) -> int:
        """Bytes of SRAM on the chip."""
        return 2 * self.slices * self.depth * self.vector

    @cached_property
    def levels(self) -> int:
        """Levels of a binary tree over all lanes."""
        return (self.vector - 1).bit_length()

    @cached_property
    def stream_bytes(self) -> int:
        """Bytes a cycle that the streams of both hemispheres bring to the MXMs."""
        return 2 * self.streams * self.vector


def check(config: Config, source: str) -> None:
    """Raise ``UserError`` when the geometry is impossible; ``source`` names the file."""

    def fail(field: str, found: object, right: str) -> None:
        raise UserError(f"{source}: {field}: found {found}, expected {right}")

    for field, (low, high) in LIMITS.items():
        value = getattr(config, field)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            fail(field, repr(value), f"an integer from {low} to {high}")
    if config.streams % 4:
        fail("streams", config.streams, "a multiple of 4 (a 32-bit value takes 4 streams)")
    every = 2 * config.streams
    if config.paths != every and (config.paths & (config.paths - 1) or every // 2 % config.paths):
        fail("paths", config.paths, f"{every}, or a power of two that divides {every // 2}")
    if config.slices % config.group:
        fail("slices", config.slices, f"a multiple of group ({config.group})")
    if config.wide and config.group != WIDTH:
        fail("group", config.group, f"{WIDTH}, as the slices are wide")
    if config.wide and config.planes != 1:
        fail("planes", config.planes, "1, as the slices are wide")
    if config.wide and config.load_streams != WIDTH:
        fail("load_streams", config.load_streams, f"{WIDTH}, as the slices are wide")
    if config.wide and config.paths != WIDTH:
        fail("paths", config.paths, f"{WIDTH}, as the slices are wide")
    if config.slices < 4:
        fail("slices", config.slices, "4 or more (a 32-bit value takes 4 slices)")
    if config.rows & (config.rows - 1) and not config.two_port:
        fail("rows", config.rows, "a power of two, or two_port")
    low, high = LIMITS["imem_words"]
    for kind, words in config.imem_words_of:
        if not isinstance(words, int) or not low <= words <= high:
            fail(f"imem_words_of.{kind}", repr(words), f"an integer from {low} to {high}")
    if config.load_streams > config.streams:
        fail("load_streams", config.load_streams, f"at most streams ({config.streams})")
    if config.streams % config.load_streams:
        fail("load_streams", config.load_streams, f"a divisor of streams ({config.streams})")
    if config.load_streams > config.slices:
        fail("load_streams", config.load_streams, f"at most slices ({config.slices})")
    if config.vector % config.load_streams:
        fail("load_streams", config.load_streams, f"a divisor of the vector ({config.vector})")
    if config.simple_cycles > 1 and config.alu_cycles == LIMITS["alu_cycles"][0]:
        fail("alu_cycles", config.alu_cycles, "one more, as simple_cycles is more than 1")
    if config.turns > 1 and config.simple_cycles == 1:
        fail("simple_cycles", 1, "more than 1, as turns is")
    if config.lanes % config.turns:
        fail("turns", config.turns, f"a divisor of lanes ({config.lanes})")
    if config.turns > 1 and config.vector not in SUMMED:
        fail("turns", config.turns, f"1, as the vector is {config.vector}, none of {SUMMED}")
    if (config.alu_cycles + config.turns - 1) % config.turns:
        # Running sums take turns at an adder, each back in it when its next item comes.
        fail("alu_cycles", config.alu_cycles, f"odd, as turns is {config.turns}")
    for field in ("b_streams", "integers", "reduce_streams", "sxm", "two_port", "wide"):
        if not isinstance(getattr(config, field), bool):
            fail(field, repr(getattr(config, field)), "true or false")
    if not config.alus or len(config.alus) > 31:
        fail("alus", len(config.alus), "1 to 31 ALUs")
    for index, features in enumerate(config.alus):
        if set(features) - set(ALU_FEATURES) or len(set(features)) != len(features):
            fail(f"alus[{index}]", repr(features), "letters of " + "".join(ALU_FEATURES))
        if "n" in features and "m" not in features:
            fail(f"alus[{index}]", repr(features), "'m' beside 'n'")
        if "r" in features and (not {"m", "s"} <= set(features) or "n" in features):
            fail(f"alus[{index}]", repr(features), "'m' and 's' but no 'n' beside 'r'")
    for letter, what in ALU_FEATURES.items():
        found = any(letter in features for features in config.alus)
        if not found and letter not in OPTIONAL_FEATURES:
            fail("alus", list(config.alus), f"at least one ALU with {letter!r} ({what})")


def load_config(preset: str | Path) -> Config:
    """Load a configuration.

    Parameters
    ----------
    preset : str or Path
        A name in ``PRESETS``, or the path of a YAML file (anything that ends in .yaml).

    Raises
    ------
    UserError
        For an unknown preset, an unreadable file, unknown or missing fields, and an impossible
        geometry.
    """
    if str(preset) in PRESETS:
        source = f"preset {preset}"
        text = resources.files("waterclock.isa").joinpath(f"presets/{preset}.yaml").read_text()
    elif str(preset).endswith((".yaml", ".yml")):
        source = str(preset)
        try:
            text = Path(preset).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read: {error}") from None
    else:
        raise UserError(f"preset {preset!r} is unknown: use {', '.join(PRESETS)} or a .yaml file")
    try:
        fields: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    return config_from_dict(fields, source)


def config_from_dict(fields: Any, source: str) -> Config:
    """Make a configuration of plain data; ``source`` names the file in errors."""
    names = [field.name for field in dataclasses.fields(Config)]
    if not isinstance(fields, dict):
        raise UserError(f"{source}: found {type(fields).__name__}, expected fields {names}")
    for name in fields:
        if name not in names:
            raise UserError(f"{source}: {name}: unknown field, expected one of {', '.join(names)}")
    for name in names:
        if name not in fields:
            raise UserError(f"{source}: {name}: missing field")
    alus = fields["alus"]
    if not isinstance(alus, (list, tuple)) or not all(isinstance(alu, str) for alu in alus):
        raise UserError(f"{source}: alus: found {alus!r}, expected a list of feature letters")
    more = fields["imem_words_of"]
    if not isinstance(more, (dict, list, tuple)):
        raise UserError(f"{source}: imem_words_of: found {more!r}, expected words by kind of queue")
    pairs = more.items() if isinstance(more, dict) else more
    changed = {
        "name": str(fields["name"]),
        "alus": tuple(alus),
        "imem_words_of": tuple((str(kind), words) for kind, words in pairs),
        "source": source,
    }
    return Config(**{**fields, **changed})
