"""Instructions of an MXM plane [I20d, Table I]: five queues, so that all may work every cycle.

A plane holds three things: a weight buffer and the installed array, each vector x vector bytes
with rows k (contraction) and columns n (results); an activation buffer of ``act_entries``
vectors of 16 bits; and ``acc_entries`` accumulators, vectors of 64-bit integers.

In cycle numbers of one plane: LW and ABL take effect at the end of their cycle, so an IW or ABC
issued in the next cycle sees them. An IW issued in cycle t serves every ABC issued in t - 1 or
later: ABC samples the array ``weights_at(config)`` cycles after issue, 2 or more. An ABC issued
in cycle t has its sum in the accumulator for any ACC issued in t + ``acc_delay(config)`` or later.
"""

import enum

from waterclock.isa.config import Config
from waterclock.isa.numerics import F16_FRACTION
from waterclock.isa.spec import Instruction, Role, instruction, operand
from waterclock.isa.streams import STREAM_BITS

ENTRY_BITS = 6
LANE_BITS = 9
INTEGER_BITS = 17  #: of an f16 activation: |x| < 2^17, its exponent field 31 included
DIGIT_BITS = 17  #: of an activation in two digits: an 18-bit multiplier's input, its sign aside


class Order(enum.IntEnum):
    """How LW lays the vectors that arrive into the buffer."""

    ROWS = 0  #: vector i is row ``row + i``: its lane n is weight (row + i, n)
    COLUMNS = 1  #: vector i is column ``row + i``: its lane k is weight (k, row + i); ours


class Activation(enum.IntEnum):
    """Format of an activation."""

    F16 = 0  #: in units of 2^-24, of 2^-17 where there are digits: ``fraction_bits``
    I8 = 1  #: the low byte, signed; only with ``integers`` of the configuration


class Weight(enum.IntEnum):
    """How the bytes of the array count; the last two are the digits of a 16-bit weight (ours)."""

    I8 = 0  #: signed
    LOW = 1  #: unsigned: low byte of a 16-bit weight
    HIGH = 2  #: signed, times 256: high byte of a 16-bit weight


class Window(enum.IntEnum):
    """Which lanes ``first`` to ``last`` restrict (ours)."""

    ALL = 0  #: nothing is restricted
    INPUT = 1  #: activations outside count as zero
    OUTPUT = 2  #: accumulator lanes outside keep their value


class Result(enum.IntEnum):
    """Format in which ACC emits an accumulator."""

    F32 = 0  #: accumulator in the units of f16 activations, rounded once to nearest even
    I32 = 1  #: the low 32 bits; only with ``integers`` of the configuration


def names(kind: type[enum.IntEnum]) -> tuple[str, ...]:
    """Return the member names of an enumeration in the order of their values."""
    return tuple(member.name for member in kind)


def _rows(config: Config) -> int:
    return config.vector - config.load_streams + 1


def row_step(config: Config) -> int:
    """Return what ``row`` of LW is a multiple of: where slices are wide, no vector is turned."""
    return config.load_streams if config.wide else 1


def _lanes(config: Config) -> int:
    return config.vector


def _act_entries(config: Config) -> int:
    return config.act_entries


def _acc_entries(config: Config) -> int:
    return config.acc_entries


def stream_unit(op: type[Instruction], config: Config) -> int:
    """Return what the number of the stream of LW, ABL or ACC is a multiple of."""
    (spec,) = (spec for spec in op.operands if spec.kind == "stream")
    return spec.unit(op, config)


def fraction_bits(config: Config) -> int:
    """Return how many bits of an activation count fractions of 1.

    Whole activations have all of f16's, 24. Two digits have room for 17; less is rounded down.
    """
    return F16_FRACTION if config.digits == 1 else config.digits * DIGIT_BITS - INTEGER_BITS


def weights_at(config: Config) -> int:
    """Return the cycles from an ABC to the first in which it multiplies with the array.

    With activations in digits, lanes take turns to be brought to fixed point.
    """
    return 2 if config.digits == 1 else config.digits + 2


def acc_delay(config: Config) -> int:
    """Return the cycles from an ABC to the first ACC that sees its sum.

    With activations in digits, lanes take turns to be accumulated, and sums are rounded by then.
    """
    return 4 if config.digits == 1 else 3 * config.digits + 6


def acc_latency(config: Config) -> int:
    """Return the cycles from ACC to its result on the streams; it crosses the superlanes."""
    return config.superlanes + (3 if config.digits == 1 else 1)


@instruction("mxm_lw", 8)
class LW(Instruction):
    """Load ``load_streams`` vectors of weights into the buffer, from as many streams.

    Vector i comes from stream ``src`` + i, flowing outward. Where slices are wide, ``row`` is a
    multiple of ``load_streams``.
    """

    row: int = operand(
        LANE_BITS, Role.ADDRESS, below=_rows, doc="first row or column that is filled"
    )
    src: int = operand(
        STREAM_BITS,
        Role.READS,
        kind="stream",
        streams=lambda _, config: config.load_streams,
        first_only=True,
        doc="first of load_streams streams",
    )
    order: int = operand(1, kind="order", names=names(Order), doc="rows or columns")


@instruction("mxm_iw", 9)
class IW(Instruction):
    """Install the buffer in the array."""


@instruction("mxm_abl", 10, ours=True)
class ABL(Instruction):
    """Load an arriving activation vector (two streams, outward) into the activation buffer."""

    entry: int = operand(
        ENTRY_BITS, Role.ADDRESS, below=_act_entries, doc="entry of the activation buffer"
    )
    src: int = operand(
        STREAM_BITS, Role.READS, kind="stream", streams=2, first_only=True, doc="first of two"
    )


@instruction("mxm_abc", 11, latency=acc_delay)
class ABC(Instruction):
    """Multiply one activation vector with the array; set or add to an accumulator, exactly.

    Takes ``digits`` cycles of the array; two ABC are at least that far apart. Sums are integers
    modulo 2^64 and are exact below (contractions up to 8,192 with 8-bit weights). To a stride,
    entry and accumulator are one number: 1 steps the entry, 64 the accumulator, 65 both.
    """

    entry: int = operand(
        ENTRY_BITS, Role.ADDRESS, below=_act_entries, doc="entry of the activation buffer"
    )
    acc: int = operand(ENTRY_BITS, Role.ADDRESS, below=_acc_entries, doc="accumulator")
    add: int = operand(1, doc="1 to add to the accumulator, 0 to set it (lanes of the window)")
    activation: int = operand(1, kind="activation", names=names(Activation), doc="format")
    weight: int = operand(2, kind="weight", names=names(Weight), doc="format")
    window: int = operand(2, kind="window", names=names(Window), doc="what lanes restrict")
    first: int = operand(LANE_BITS, below=_lanes, doc="first lane of the window")
    last: int = operand(LANE_BITS, below=_lanes, doc="last lane of the window")


@instruction("mxm_acc", 12, latency=acc_latency)
class ACC(Instruction):
    """Emit an accumulator as four streams, inward."""

    acc: int = operand(ENTRY_BITS, Role.ADDRESS, below=_acc_entries, doc="accumulator")
    dst: int = operand(
        STREAM_BITS, Role.WRITES, kind="stream", streams=4, first_only=True, doc="first of four"
    )
    result: int = operand(1, kind="result", names=names(Result), doc="format")
