"""Speed of the three engines on the embedded model, and the cycles of its schedules.

Run by ``make bench``. Rates depend on the machine; the last column compares engines of one run.
"""

import time

from rich.console import Console
from rich.table import Table

from waterclock import compiled, run
from waterclock.isa.config import load_config

TOKENS = {"tensor": 250, "golden": 20, "rtl": 250}


def main() -> None:
    """Print the tables."""
    console = Console()
    begin = time.perf_counter()
    program = compiled(preset=load_config("small"))
    seconds = time.perf_counter() - begin
    table = Table(
        "context", "cycles a token", "limit", "ratio", title=f"compiled in {seconds:.1f} s"
    )
    for schedule in program.schedules:
        limit = program.limit_cycles
        table.add_row(
            str(schedule.context),
            f"{schedule.cycles:,}",
            f"{limit:,}",
            f"{schedule.cycles / limit:.2f}",
        )
    console.print(table)
    table = Table("engine", "tokens", "cycles/s", "tokens/s", "exact", "of rtl")
    results = {name: run(program, [1], count, name) for name, count in TOKENS.items()}
    for name, result in results.items():
        table.add_row(
            name,
            str(len(result.ids)),
            f"{result.cycles_per_second:,.0f}",
            f"{len(result.ids) / result.wall_seconds:.1f}",
            "yes" if result.exact else "NO",
            f"{result.cycles_per_second / results['rtl'].cycles_per_second:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
