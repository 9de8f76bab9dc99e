"""`penguin-vl parity`: whether this is the authors' model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from penguin_ros.cli.output import JsonOption, print_json, stdout


def parity(
    folder: Annotated[Path, typer.Argument(help="Reference vectors: checkpoint, media and expected numbers.")],
    device: Annotated[str, typer.Option(help="Device of the model: cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(help="Type of the weights. In 16 bits, tolerances are larger and generated tokens not compared."),
    ] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Compare with the authors' numbers; exit code 0 only if all are within tolerance."""
    from penguin_engine.bench.parity import missing_files, run_parity, tolerances

    limits = tolerances(dtype)
    rows, missing = list(run_parity(folder, device, dtype)), missing_files(folder)
    failed = sum(not row.passed for row in rows)
    if as_json:
        cases = [row.to_dict() for row in rows]
        print_json({"passed": not failed, "not_compared": missing, "tolerances": limits, "cases": cases})
        raise typer.Exit(failed > 0)
    table = Table("case", *limits, "equal", "", box=None, title="largest absolute differences", title_justify="left")
    for row in rows:
        different = [name for name, same in row.equal.items() if not same]
        errors = [f"{row.errors[name]:.1e}" if name in row.errors else "" for name in limits]
        verdict = "ok" if row.passed else "differs: " + (", ".join(different[:3]) or "numbers")
        table.add_row(row.case, *errors, f"{sum(row.equal.values())} of {len(row.equal)}", verdict)
    stdout.print(table)
    stdout.out("tolerances: " + ", ".join(f"{name} {limit:g}" for name, limit in limits.items()))
    for row in rows:
        if row.note:
            stdout.out(f"{row.case}: {row.note}")
    if missing:
        stdout.out(f"not in this folder, not compared: {', '.join(missing)}")
    stdout.out(f"{failed} of {len(rows)} cases differ" if failed else "all within tolerance")
    raise typer.Exit(failed > 0)
