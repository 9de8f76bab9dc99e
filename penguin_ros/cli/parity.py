"""`penguin-vl parity`: is this the authors' model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penguin_ros.cli.output import JsonOption, print_json, stdout


def parity(
    folder: Annotated[Path, typer.Argument(help="Reference vectors: checkpoint, media and expected numbers.")],
    as_json: JsonOption = False,
) -> None:
    """Compare with numbers of the authors' implementation; exit code 0 only when all are within tolerance."""
    from rich.table import Table

    from penguin_engine.bench.parity import TOLERANCES, absent_files, run_parity

    rows = list(run_parity(folder))
    absent = absent_files(folder)
    passed = all(row.passed for row in rows)
    if as_json:
        print_json(
            {
                "passed": passed,
                "not_compared": absent,
                "tolerances": TOLERANCES,
                "cases": [row.to_dict() for row in rows],
            }
        )
        raise typer.Exit(0 if passed else 1)
    table = Table(
        "case", *TOLERANCES, "equal", "", box=None, title="largest absolute differences", title_justify="left"
    )
    for row in rows:
        equal = f"{sum(row.equal.values())} of {len(row.equal)}"
        different = [name for name, same in row.equal.items() if not same]
        errors = [f"{row.errors[name]:.1e}" if name in row.errors else "" for name in TOLERANCES]
        verdict = "ok" if row.passed else "differs: " + (", ".join(different[:3]) or "numbers")
        table.add_row(row.case, *errors, equal, verdict)
    stdout.print(table)
    stdout.out("tolerances: " + ", ".join(f"{name} {limit:g}" for name, limit in TOLERANCES.items()))
    for row in rows:
        if row.note:
            stdout.out(f"{row.case}: {row.note}")
    if absent:
        stdout.out(f"not in this folder, not compared: {', '.join(absent)}")
    stdout.out(
        "all within tolerance" if passed else f"{sum(not row.passed for row in rows)} of {len(rows)} cases differ"
    )
    raise typer.Exit(0 if passed else 1)
