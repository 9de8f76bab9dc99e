"""`penguin-vl evaluate example`: the bags that ship, scored from end to end; what `make evaluate` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_ros.cli.evaluate_output import Bar, print_results
from penguin_ros.cli.output import DeviceOption, DtypeOption, JsonOption
from penguin_ros.shipped import EXAMPLE, MODEL, require_shipped

PARAMETERS: dict[str, Any] = {"token_budget": 512, "answer.max_new_tokens": 64}
"""What the model was trained with; a clip has 2.25 times as many at full size, so that the memory must make room."""


def example(
    out: Annotated[Path, typer.Option(help="Folder of the results; made anew.")] = Path("build/evaluation"),
    model: Annotated[Path, typer.Option(help="Checkpoint; the one that ships if not given.")] = MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score the model that ships on the bags that ship, beside both baselines."""
    from penguin_ros.evaluation.bags.run import RunOptions, run_bags
    from penguin_ros.evaluation.question_file import read_questions
    from penguin_ros.evaluation.records import ModelSpec, RunSettings
    from penguin_ros.evaluation.report.page import write_report

    require_shipped(model, EXAMPLE)
    bags = sorted(path.parent for path in EXAMPLE.glob("*/metadata.yaml"))
    asked = read_questions(EXAMPLE / "questions.jsonl")
    # A page that is shown to others need not tell where the clone lies.
    named = model.relative_to(Path.cwd()) if model.is_relative_to(Path.cwd()) else model
    spec = ModelSpec(path=str(named), dtype=dtype, device=device)
    settings = RunSettings(methods=["memory", "last-4", "offline"], parameters=PARAMETERS)
    options = RunOptions(out, title=f"{model.name} on two clips of the table-top", overwrite=True)
    with Bar(show=not as_json) as bar:
        results = run_bags(bags, asked, spec, settings, options, bar.start, bar.advance)
    print_results(results, out / "results.json", write_report(out / "report.html", [results], [out]), as_json)
