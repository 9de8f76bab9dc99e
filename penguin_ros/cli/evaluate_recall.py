"""`penguin-vl evaluate recall`: scores by the age of the evidence, on long simulated recordings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from penguin_ros.cli.evaluate_output import ProgressBar
from penguin_ros.cli.output import (
    DeviceOption,
    JsonOption,
    RuntimeOption,
    bad_usage,
    existing_model,
    print_json,
    stdout,
)
from penguin_ros.shipped import MODEL

if TYPE_CHECKING:
    from penguin_ros.evaluation.recall.run import Reply


def recall(
    model: Annotated[
        str,
        typer.Option(
            help="Checkpoint or exported folder, or owner/name on the hub; default: penguin-tiny.",
            show_default=False,
            callback=existing_model,
        ),
    ] = str(MODEL),
    seed: Annotated[int, typer.Option(help="Seed of the recordings within the test split.", min=0)] = 0,
    lengths: Annotated[
        str, typer.Option(help="Lengths of the recordings in seconds, 10 to 14400.")
    ] = "60,300,1800,7200",
    recordings: Annotated[int, typer.Option(help="Number of recordings of each length.", min=1)] = 16,
    budget: Annotated[int, typer.Option(help="Visual tokens that every method may use.", min=1)] = 1024,
    plot: Annotated[Path | None, typer.Option(help="Plot of score against age, .png or .svg.", dir_okay=False)] = None,
    answers: Annotated[
        Path | None, typer.Option(help="File for all questions and answers, as JSON lines.", dir_okay=False)
    ] = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Type of the weights; default: as stored, but float32 on CPUs, for the same scores on all."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what happened in long recordings of the simulated table-top, and score the answers by the evidence's age."""
    lengths_s = _lengths_s(lengths)  # refuses them before imports that take seconds
    from penguin_engine.runtimes.loading import open_runtime
    from penguin_models.atomic_write import atomic_write
    from penguin_ros.evaluation.recall.methods import Model
    from penguin_ros.evaluation.recall.run import RecallRun, evaluate_recall
    from penguin_ros.evaluation.recall.summary import summarise
    from penguin_ros.evaluation.tabletop.keyframe_clips import check_plot

    with bad_usage():
        run = RecallRun(seed, lengths_s, recordings, token_budget=budget)
    if plot is not None:
        with bad_usage("--plot"):
            check_plot(plot)
    if runtime == "torch" and dtype is None and _is_cpu(device):
        dtype = "float32"
    opened, processor = open_runtime(runtime, model, device, dtype)
    output = nullcontext() if answers is None else atomic_write(answers)
    with output as file, ProgressBar(show=not as_json) as bar:
        bar.set_total(len(run.lengths_s) * recordings)

        def write(replies: Sequence[Reply]) -> None:
            if file is not None:
                file.writelines(json.dumps(asdict(reply)) + "\n" for reply in replies)
            bar.add()

        replies = evaluate_recall(Model(opened, processor, budget), run, write)
    summary = summarise(replies, run)
    summary["settings"] |= {"model": model, "dtype": opened.info.dtype, "device": opened.info.device}
    if plot is not None:
        from penguin_ros.evaluation.recall.plot import draw_recall

        draw_recall(plot, summary)
    if as_json:
        print_json(summary)
    else:
        _print(summary)


def _lengths_s(text: str) -> tuple[float, ...]:
    """Returns the lengths given by "60,300"."""
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        message = f"{text!r} is not a list of seconds such as 60,300"
        raise typer.BadParameter(message, param_hint="--lengths") from None


def _is_cpu(device: str) -> bool:
    """Returns whether a model that runs with torch would be on the CPU."""
    import torch

    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def _print(summary: Mapping[str, Any]) -> None:
    scored = {**summary["scores"], "evidence shown": summary["shown"], **summary["guesses"]}
    keys = {"evidence shown": "shown"}
    bands = list(dict.fromkeys(band for row in scored.values() for band in row))
    table = Table("right answers by age", *bands, "visual tokens", "first token (s)", box=None)
    for name, row in scored.items():
        costs = [
            f"{value:{form}}" if (value := summary[cost].get(keys.get(name, name))) is not None else ""
            for cost, form in _COSTS.items()
        ]
        table.add_row(name, *(_cell(row.get(band)) for band in bands), *costs)
    counts = next(iter(scored.values()))
    table.add_row("answers of each", *(str(counts[band]["answers"]) if band in counts else "" for band in bands))
    stdout.print(table)
    differences = Table("difference", *bands, box=None)
    for name, row in summary["differences"].items():
        differences.add_row(name, *(_cell(row.get(band), "+") for band in bands))
    stdout.print(differences)
    settings = summary["settings"]
    lengths = ", ".join(f"{length:g}" for length in settings["lengths_s"])
    stdout.out(
        f"{settings['recordings']} recordings of each of {lengths} s of the test split, seed {settings['seed']}, "
        f"{settings['token_budget']} visual tokens; 95 % bootstrap intervals over recordings"
    )


_COSTS = {"visual_tokens": ".0f", "first_token_s": ".3f"}


def _cell(score: Mapping[str, Any] | None, sign: str = "") -> str:
    if score is None:
        return ""
    interval = "" if score["low"] is None else f"\n{score['low']:{sign}.2f} to {score['high']:{sign}.2f}"
    return f"{score['value']:{sign}.2f}{interval}"
