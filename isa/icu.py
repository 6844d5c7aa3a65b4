"""Instructions of the ICU: they steer a queue and reach no unit. Every queue has them.

A queue reads one word a cycle. A unit's instruction takes one cycle and is issued in it.
"""

from waterclock.isa.config import LIMITS, Config
from waterclock.isa.spec import Instruction, instruction, operand

MOST_LEVELS = LIMITS["loops"][1]


def _levels(config: Config) -> int:
    return max(1, config.loops)


def still_operand() -> int:
    """Declare the operand of a unit's instruction that says which Loops leave its address alone."""
    return operand(
        MOST_LEVELS,
        default=0,
        below=lambda config: 1 << config.loops,
        doc="bit l: Loops of level l do not move the address",
    )


def notify_latency(_: Config) -> int:
    """Return the cycles from Notify to the first word after a Sync."""
    return 4


@instruction("icu", 0, ours=True)
class Halt(Instruction):
    """Stop the queue until the next launch. Memory that was never loaded reads as Halt."""


@instruction("icu", 1, mnemonic="nop")
class NOP(Instruction):
    """Issue nothing for ``count`` cycles. Zero counts as one."""

    count: int = operand(12, doc="cycles")


@instruction("icu", 2)
class Repeat(Instruction):
    """Issue the instruction before it ``count`` more times, ``distance`` cycles apart.

    The k-th time adds k * ``stride`` to its address. If the instruction was issued in cycle t,
    it is issued again in t + distance, t + 2 * distance, ...; Repeat takes count * distance
    cycles. The word before it must be a unit's instruction.
    """

    distance: int = operand(8, doc="cycles between two issues, 1 or more")
    count: int = operand(11, doc="times, 1 or more")
    stride: int = operand(12, signed=True, doc="added to the address each time")


@instruction("icu", 3, ours=True)
class Loop(Instruction):
    """Go through the ``length`` words before it ``count`` more times.

    In the k-th repetition k * ``stride`` is added to every address of the block, on top of the
    strides of Repeat, but to those of instructions that are ``still`` for its level. Loop takes
    one cycle whenever it is met, the last time included. A block of level 1 may hold Loops of
    level 0 with their blocks, and no block holds others; it holds no Sync, Notify or Halt. How
    many levels a chip knows is ``loops``.
    """

    length: int = operand(12, doc="words of the block, 1 or more")
    count: int = operand(6, doc="repetitions, 1 or more")
    level: int = operand(
        (MOST_LEVELS - 1).bit_length(), default=0, below=_levels, doc="how many levels it may hold"
    )
    stride: int = operand(16, signed=True, doc="added to addresses each repetition")


@instruction("icu", 4, latency=notify_latency)
class Sync(Instruction):
    """Park the queue until a Notify; the next word follows ``notify latency`` cycles after it.

    The queue must have reached the Sync no later than the cycle of the Notify.
    """


@instruction("icu", 5, latency=notify_latency)
class Notify(Instruction):
    """Release every parked queue of the chip; the issuing queue goes on in the next cycle."""
