"""`penguin-vl evaluate tabletop`: scores on simulated scenes that are never trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from penguin_ros.cli.evaluate_output import ProgressBar
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RuntimeOption,
    print_json,
    stdout,
)
from penguin_ros.cli.tabletop import SizeOption, parse_size, parse_weights

if TYPE_CHECKING:
    from penguin_ros.evaluation.tabletop.scenes import AskedTurn


def tabletop(
    model: ModelOption,
    seed: Annotated[int, typer.Option(help="Seed of the scenes within the test split.", min=0)] = 0,
    scenes: Annotated[int, typer.Option(help="Number of scenes.", min=1)] = 200,
    mixture: Annotated[
        str, typer.Option(help="Weights of single images, pairs of before and after, and clips.")
    ] = "image=6,pair=1,clip=3",
    size: SizeOption = "168x168",
    policy: Annotated[Literal["novelty", "reference"], typer.Option(help="Keyframe policy for clips.")] = "novelty",
    max_tokens: Annotated[
        int | None, typer.Option(help="Visual token budget; default: the checkpoint's.", min=1)
    ] = None,
    answers: Annotated[
        typer.FileTextWrite | None,
        typer.Option(help="File for all questions and answers, as JSON lines.", encoding="utf-8", lazy=False),
    ] = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about scenes of the simulated table-top, from seeds that are never trained on, and score the answers."""
    from penguin_engine.runtimes.loading import open_runtime
    from penguin_ros.evaluation.tabletop.scenes import TabletopRun, evaluate_tabletop
    from penguin_tabletop.dataset import Mixture

    run = TabletopRun(
        seed, scenes, Mixture(**parse_weights(mixture)), size=parse_size(size), policy=policy, max_tokens=max_tokens
    )
    opened, processor = open_runtime(runtime, model, device, dtype)
    with ProgressBar(show=not as_json) as bar:
        bar.set_total(scenes)

        def write(asked: Sequence[AskedTurn]) -> None:
            if answers is not None:
                answers.writelines(json.dumps(asdict(turn)) + "\n" for turn in asked)
                answers.flush()
            bar.add()

        scores = evaluate_tabletop(opened, processor, run, write)
    if as_json:
        fields = ("value", "low", "high", "answers")
        values = {name: {field: getattr(score, field) for field in fields} for name, score in scores.items()}
        print_json({"seed": seed, "scenes": scenes, "scores": values})
        return
    table = Table("score", "value", "95 % interval", "answers", box=None)
    for score in scores.values():
        interval = "" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
        table.add_row(score.title, f"{score.value:.3f}", interval, str(score.answers))
    stdout.print(table)
    stdout.out(f"{scenes} scenes of the test split, seed {seed}; bootstrap intervals over scenes")
