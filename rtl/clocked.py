"""Registers of emitted Verilog in the customary form, next-value logic in the clocked block.

The emission computes each register's next value in a block of its own and copies it at the
clock edge. A simulator then moves every bit of every register in every cycle, whether it changes
or not. Written as ``if (enable) q <= d`` a register that keeps its value costs one test, and the
text is what a reader expects.
"""

import re
from collections import Counter

#: A name that the emission made up. An escaped name ends with a space.
_NAME = re.compile(r"\\\$\d+ ")
_FLOP = re.compile(r"  always @\(posedge (\S+)\)\n    (\S+ ?) <= (\\\$\d+ );\n")
_LOGIC = re.compile(r"  always @\* begin\n    if \(\S+ \) begin end\n(.*?)\n  end\n", re.DOTALL)
_ASSIGNMENT = re.compile(r"(\s+)(\S+ ?)(\[[^\]]*\] )? ?= (.*)")


def clocked(verilog: str) -> str:
    """Return the text of a module with its next-value logic in clocked blocks.

    Only logic that nothing but one register uses is moved; the rest of the text stays as it is.
    """
    flops = {match[3]: match for match in _FLOP.finditer(verilog)}
    uses = Counter(_NAME.findall(verilog))
    moved: set[str] = set()

    def move(logic: re.Match[str]) -> str:
        lines = logic[1].split("\n")
        assignments = [_ASSIGNMENT.fullmatch(line) for line in lines]
        targets = {found[2] for found in assignments if found}
        name = targets.pop()
        # Declared, assigned here, and copied by the register: no other use.
        count = 2 + sum(found is not None for found in assignments)
        if targets or name not in flops or uses[name] != count:
            return logic[0]
        moved.add(name)
        clock, register = flops[name][1], flops[name][2]
        body = [
            line if found is None else f"{found[1]}{register} {found[3] or ''}<= {found[4]}"
            for line, found in zip(lines, assignments, strict=True)
            if found is None or (found[3], found[4]) != (None, f"{register};")
        ]
        return "\n".join([f"  always @(posedge {clock}) begin", *body, "  end\n"])

    verilog = _LOGIC.sub(move, verilog)
    verilog = _FLOP.sub(lambda flop: "" if flop[3] in moved else flop[0], verilog)
    declared = re.compile(r"  reg (?:\[[^\]]*\] )?(\\\$\d+ );\n")
    return declared.sub(lambda reg: "" if reg[1] in moved else reg[0], verilog)
