"""`penguin-vl evaluate tabletop`: scores on simulated scenes that nothing was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from penguin_models.errors import EvaluationError
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RuntimeOption,
    print_json,
    stderr,
    stdout,
)
from penguin_ros.cli.tabletop import SizeOption, parse_size, parse_weights

if TYPE_CHECKING:
    from penguin_ros.evaluation.tabletop.scenes import AskedTurn, Score


def tabletop(
    model: ModelOption,
    seed: Annotated[int, typer.Option(help="A family of scenes of its own in the test split.", min=0)] = 0,
    scenes: Annotated[int, typer.Option(help="How many scenes.", min=1)] = 200,
    mixture: Annotated[
        str, typer.Option(help="Weights of single pictures, pairs of before and after, and clips.")
    ] = "image=6,pair=1,clip=3",
    size: SizeOption = "168x168",
    policy: Annotated[
        Literal["novelty", "reference"], typer.Option(help="What makes a key frame of a clip.")
    ] = "novelty",
    max_tokens: Annotated[
        int | None, typer.Option(help="Budget of visual tokens; the checkpoint's if not given.", min=1)
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Write every question with its answer, as JSON lines; FILE.part until the end."),
    ] = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about scenes of the simulated table-top, from seeds that nothing was trained on, and score the answers."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from penguin_engine.runtimes.loading import open_runtime
    from penguin_ros.evaluation.tabletop.scenes import TabletopRun, evaluate_tabletop, to_dict
    from penguin_tabletop.dataset import Mixture

    run = TabletopRun(
        seed, scenes, Mixture(**parse_weights(mixture)), size=parse_size(size), policy=policy, max_tokens=max_tokens
    )
    opened, processor = open_runtime(runtime, model, device, dtype)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        _written(answers) as write,
        Progress(*columns, console=stderr, disable=as_json or not stderr.is_terminal) as progress,
    ):
        task = progress.add_task("", total=scenes)
        scores, _ = evaluate_tabletop(
            opened, processor, run, lambda done: progress.update(task, completed=done), on_answers=write
        )
    if as_json:
        print_json(to_dict(scores, run))
    else:
        _print(scores, run.scenes, run.seed)


@contextmanager
def _written(file: Path | None) -> Iterator[Callable[[Sequence[AskedTurn]], None]]:
    """Writes answers beside a file, scene by scene, and at the end in its place; where there is none, nowhere."""
    if file is None:
        yield lambda asked: None
        return
    is_special = file.exists() and not file.is_file()  # a pipe or a device cannot be replaced
    part = file if is_special else file.with_name(f"{file.name}.part")
    try:
        lines = part.open("w", encoding="utf-8")
    except OSError as err:
        raise EvaluationError(f"answers {part} cannot be written: {err.strerror}") from err
    with lines:

        def write(asked: Sequence[AskedTurn]) -> None:
            lines.writelines(json.dumps(asdict(turn)) + "\n" for turn in asked)
            lines.flush()

        yield write
    if not is_special:
        part.replace(file)


def _print(scores: dict[str, Score], scenes: int, seed: int) -> None:
    from rich.table import Table

    table = Table("score", "value", "95 % interval", "answers", box=None)
    for score in scores.values():
        interval = "" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
        table.add_row(score.title, f"{score.value:.3f}", interval, str(score.answers))
    stdout.print(table)
    stdout.out(f"{scenes} scenes of the test split, seed {seed}; intervals by drawing scenes anew")
