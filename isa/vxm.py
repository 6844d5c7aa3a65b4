"""Instructions of the VXM: one queue for each ALU and one for the lane reduction.

An ALU takes up to two values of 32 bits a lane, sampled at issue from streams of the VXM's
column, from the result bus of any ALU, or from the immediate. Its result stands on its result
bus for one cycle, ``latency`` cycles after issue, and in the same cycle in a stream register of
the VXM's column if it has a target. So operations chain without memory: the consumer issues in
the very cycle in which the result stands on the bus.

Sources and targets narrower than 32 bits take fewer streams: an i8 any one stream, an f16 two.
A move takes one cycle, the operations of ``SIMPLE`` features take ``simple_cycles`` of the
configuration, the others ``alu_cycles``: a clock that is to be fast on an FPGA needs more of them.
Two results of one ALU must not fall into one cycle. Where two lanes take turns at a unit (``turns``
of the configuration, ours), whatever is no move takes a cycle more, and an ALU issues the next such
operation two cycles later. The reducer then works at one pair of neighbours after the other.
Without ``reduce_streams`` (ours) the reducer takes values from buses only and drives no streams,
without ``b_streams`` (ours) the second operand of an ALU is one of the ``LOWEST`` streams.

The arithmetic is defined, to the bit, by the functions of ``isa/numerics.py`` that have the names
of the mnemonics.
"""

from waterclock.isa.config import Config
from waterclock.isa.spec import Instruction, Role, instruction, operand
from waterclock.isa.streams import SOURCE_ALU, SOURCE_BITS, TARGET_BITS, number_of

IMM_BITS = 32

#: Features whose operations are not pipelined.
SIMPLE = "ibh"

#: Streams of each direction that every operand can take.
LOWEST = 4

#: Cycles of each level of a reduction by fp32 addition.
SUM_CYCLES = 4


def move_latency(_: Config) -> int:
    """Return the cycles of a move: of one, a compiler can make operands meet at any distance."""
    return 1


def simple_latency(config: Config) -> int:
    """Return the cycles of an operation that is neither a move nor arithmetic.

    Of more than one, the first ends when the operands are registered; of three, the second ends
    when the result is.
    """
    return config.simple_cycles + config.turns - 1


def pipelined_latency(config: Config) -> int:
    """Return the cycles of arithmetic that is pipelined."""
    return config.alu_cycles + config.turns - 1


def registers_operands(config: Config) -> bool:
    """Tell whether all operations but moves find their operands in registers, a cycle later."""
    return config.simple_cycles > 1


def takes_turns(op: type[Instruction]) -> bool:
    """Tell whether lanes take turns at what does an operation: at all but moves."""
    return op.kind == "reduce" or bool(FEATURE.get(op))


def busy_cycles(config: Config, op: type[Instruction]) -> int:
    """Return the cycles until a queue may issue another operation that takes turns."""
    if config.turns > 1 and op.kind == "reduce":
        times = sum_times(config)
        return 1 + (times[-1][-1] if op is REDUCTIONS["rsum"] else times[0][-1])
    return config.turns if takes_turns(op) else 1


def sum_times(config: Config) -> list[list[int]]:
    """Return when the one adder of a reducer that takes turns adds each pair of each level.

    Cycles are counted from the first pair on. Neighbours follow each other; of the next level, a
    pair is added as soon as its second half is there.
    """
    times = [list(range(config.vector // 2))]
    while len(times[-1]) > 1:
        times.append([time + SUM_CYCLES for time in times[-1][1::2]])
    return times


def partial_sums(config: Config) -> int:
    """Return how many sums take turns at an adder when vectors come one a cycle.

    The order is part of the numerics: of k vectors, the last n = min(k, partial sums) are the last
    of the sums 0 to n - 1, and each n-th vector before belongs to the same; then neighbours are
    added until one is left, an odd last one passing.
    """
    # A sum comes out of the adder when its next item goes in.
    return pipelined_latency(config) // config.turns


def reduce_latency(config: Config) -> int:
    """Return the cycles of a reduction by comparison, and of crossing the superlanes.

    One a level; where lanes take turns, one a pair of neighbours, and one more for the last.
    """
    compared = config.levels if config.turns == 1 else len(sum_times(config)[0]) + 1
    return config.superlanes - 1 + compared + config.simple_cycles - 1


def reduce_sum_latency(config: Config) -> int:
    """Return the cycles of a reduction by fp32 addition, and of crossing the superlanes."""
    last = SUM_CYCLES * (config.levels - 1) if config.turns == 1 else sum_times(config)[-1][-1]
    return config.superlanes - 1 + last + SUM_CYCLES + config.simple_cycles - 1


#: Which feature of an ALU (see ``config.ALU_FEATURES``) an operation needs; "" for none.
FEATURE: dict[type[Instruction], str] = {}
#: Number of values that an operation takes: 1 (a) or 2 (a and b).
ARITY: dict[type[Instruction], int] = {}
#: Operations by mnemonic.
OPS: dict[str, type[Instruction]] = {}


def _declare(
    opcode: int, mnemonic: str, doc: str, *, arity: int, feature: str, a: int = 4, out: int = 4
) -> None:
    """Enter one ALU operation; ``a`` and ``out`` are the streams of source a and target."""
    fields: dict[str, object] = {
        "__doc__": doc,
        "__module__": __name__,
        "__annotations__": {"a": int, "b": int, "dst": int, "imm": int},
        "a": operand(SOURCE_BITS, Role.READS, kind="source", streams=a, doc="first value"),
        "b": operand(SOURCE_BITS, Role.READS, kind="source", streams=4, doc="second value"),
        "dst": operand(TARGET_BITS, Role.WRITES, kind="target", streams=out, doc="result"),
        "imm": operand(IMM_BITS, kind="hex", doc="immediate value, raw bits"),
    }
    name = "".join(part.capitalize() for part in mnemonic.split("_"))
    latency = move_latency
    if feature:
        latency = simple_latency if feature in SIMPLE else pipelined_latency
    cls = instruction("alu", opcode, latency=latency, mnemonic=mnemonic)(
        type(name, (Instruction,), fields)
    )
    FEATURE[cls], ARITY[cls], OPS[mnemonic] = feature, arity, cls


_declare(8, "mov", "The 32 bits of a.", arity=1, feature="")
_declare(9, "iadd", "a + b modulo 2^32.", arity=2, feature="i")
_declare(10, "isub", "a - b modulo 2^32.", arity=2, feature="i")
_declare(11, "imax", "The larger of two signed integers.", arity=2, feature="i")
_declare(12, "imin", "The smaller of two signed integers.", arity=2, feature="i")
_declare(13, "and", "Bitwise and.", arity=2, feature="b")
_declare(14, "or", "Bitwise or.", arity=2, feature="b")
_declare(15, "xor", "Bitwise exclusive or.", arity=2, feature="b")
_declare(16, "shl", "a shifted left by the low five bits of b.", arity=2, feature="h")
_declare(
    17, "shr", "a shifted right by the low five bits of b, zeros entering.", arity=2, feature="h"
)
_declare(
    18, "sar", "a shifted right by the low five bits of b, the sign entering.", arity=2, feature="h"
)
_declare(19, "igt", "1 where a > b as signed integers, else 0.", arity=2, feature="i")
_declare(20, "ieq", "1 where a = b, else 0.", arity=2, feature="i")
_declare(21, "fmax", "a where a >= b, else b; NaN when either is.", arity=2, feature="i")
_declare(22, "fmin", "a where a <= b, else b; NaN when either is.", arity=2, feature="i")
_declare(23, "fgt", "1 where a > b as fp32, else 0.", arity=2, feature="i")
_declare(24, "fge", "1 where a >= b as fp32, else 0.", arity=2, feature="i")
_declare(25, "feq", "1 where a = b as fp32, else 0.", arity=2, feature="i")
_declare(26, "select", "b where a is not zero (any bit), else the immediate.", arity=2, feature="i")
_declare(27, "i8_to_i32", "The low byte of a, its sign extended.", arity=1, feature="h", a=1)
_declare(28, "i32_to_i8", "a saturated to -128 .. 127, as one byte.", arity=1, feature="h", out=1)
_declare(32, "fadd", "a + b in fp32.", arity=2, feature="a")
_declare(33, "fsub", "a - b in fp32.", arity=2, feature="a")
_declare(34, "fmul", "a * b in fp32.", arity=2, feature="m")
_declare(35, "imul", "a * b modulo 2^32.", arity=2, feature="n")
_declare(36, "f32_to_f16", "a rounded to f16, saturated.", arity=1, feature="c", out=2)
_declare(37, "f16_to_f32", "The f16 in the low half of a.", arity=1, feature="c", a=2)
_declare(38, "f32_to_i32", "a rounded to an integer, saturated.", arity=1, feature="c")
_declare(39, "i32_to_f32", "The signed integer a rounded to fp32.", arity=1, feature="c")
_declare(40, "f32_to_i8", "a rounded to an integer, saturated to i8.", arity=1, feature="c", out=1)
_declare(41, "exp2", "2 to the power a.", arity=1, feature="s")
_declare(42, "recip", "1 / a.", arity=1, feature="s")
_declare(43, "rsqrt", "1 / sqrt(a).", arity=1, feature="s")
_declare(44, "fmul_f16", "a * b in fp32, rounded to f16.", arity=2, feature="r", out=2)
_declare(45, "exp2_f16", "2 to the power a in fp32, rounded to f16.", arity=1, feature="r", out=2)

#: Operations that round to f16 what others give in fp32, by those.
ROUNDED = {OPS["fmul"]: OPS["fmul_f16"], OPS["exp2"]: OPS["exp2_f16"]}

#: Operations whose operands may change places, to the bit; equal zeros of a maximum have an order.
COMMUTES = tuple(
    OPS[x] for x in ("iadd", "and", "or", "xor", "ieq", "fadd", "fmul", "imul", "fmul_f16")
)


def takes_stream(config: Config, name: str, code: int) -> bool:
    """Tell whether an ALU's operand may be the source with a code (ours: ``b_streams``)."""
    few = name == "b" and not config.b_streams and code < SOURCE_ALU
    return not few or number_of(code) < LOWEST


#: Reductions by mnemonic.
REDUCTIONS: dict[str, type[Instruction]] = {}


def _declare_reduction(opcode: int, mnemonic: str, doc: str, op: str) -> None:
    """Enter one lane reduction, the tree of ALU operation ``op``."""
    fields: dict[str, object] = {
        "__doc__": f"{doc} Pairwise tree of {op} over neighbouring lanes; every lane gets it.",
        "__module__": __name__,
        "__annotations__": {"a": int, "dst": int},
        "a": operand(SOURCE_BITS, Role.READS, kind="source", streams=4, doc="value"),
        "dst": operand(TARGET_BITS, Role.WRITES, kind="target", streams=4, doc="result"),
    }
    latency = reduce_sum_latency if op == "fadd" else reduce_latency
    cls = instruction("reduce", opcode, latency=latency, ours=True, mnemonic=mnemonic)(
        type(mnemonic.capitalize(), (Instruction,), fields)
    )
    REDUCTIONS[mnemonic] = cls


_declare_reduction(8, "rsum", "Sum of all lanes, fp32.", "fadd")
_declare_reduction(9, "rmax", "Maximum of all lanes, fp32.", "fmax")
_declare_reduction(10, "rmin", "Minimum of all lanes, fp32.", "fmin")
_declare_reduction(11, "rimax", "Maximum of all lanes, signed integers.", "imax")
_declare_reduction(12, "rimin", "Minimum of all lanes, signed integers.", "imin")
