"""`penguin-vl tabletop`: pictures, clips and conversations of the simulated table-top."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout

if TYPE_CHECKING:
    from penguin_models.types import Size, UInt8Array
    from penguin_tabletop.dataset import Sample

app = typer.Typer(help="Write or show scenes of the simulated table-top.", no_args_is_help=True)

SizeOption = Annotated[str, typer.Option(help="Width and height of the pictures in pixels, as 224x224, or one number.")]
TurnsOption = Annotated[int, typer.Option(help="Largest number of questions about the same pictures.", min=1)]
_FAMILIES = ("image", "pair", "clip", "chart", "text")
_COLUMNS = 4


@app.command()
def write(
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")],
    scenes: Annotated[int, typer.Option(help="Number of samples.", min=1)],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Splits never share a seed.")] = "train",
    seed: Annotated[int, typer.Option(help="Number of a separate family of scenes within the split.", min=0)] = 0,
    size: SizeOption = "168x168",
    turns: TurnsOption = 4,
    fps: Annotated[float, typer.Option(help="Frames per second of clips.", min=1.0)] = 2.0,
    mixture: Annotated[
        str | None, typer.Option(help="Weights of the families, such as image=3,clip=1; the others get none.")
    ] = None,
    drills: Annotated[float, typer.Option(help="Share of texts that are only to be repeated.", min=0, max=1)] = 0.0,
    images: Annotated[Literal["jpg", "png"], typer.Option(help="Format of images and frames.")] = "jpg",
    masks: Annotated[bool, typer.Option(help="Also write the class of every pixel.")] = False,
    jobs: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Write conversations in the annotation format, with images, clips, masks and their ground truth."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from penguin_models.errors import TabletopError
    from penguin_tabletop import files
    from penguin_tabletop.dataset import Mixture, TabletopSettings
    from penguin_tabletop.seeds import Split

    weights = Mixture() if mixture is None else Mixture(**parse_weights(mixture))
    samples = TabletopSettings(Split[split.upper()], seed, parse_size(size), turns, fps, mixture=weights, drills=drills)
    settings = files.WriterSettings(samples, images, masks)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise TabletopError(f"--out {out} cannot be created ({err.strerror}); choose another folder") from err
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("", total=scenes)
        files.write(out, settings, scenes, jobs, lambda done, total: progress.update(task, completed=done))
    result = {"annotations": str(out / "annotations.jsonl"), "scenes": str(out / "scenes.jsonl"), "samples": scenes}
    if as_json:
        print_json(result)
    else:
        stdout.out(f"{scenes} samples in {result['annotations']}; their ground truth in {result['scenes']}")


@app.command()
def show(
    seed: Annotated[int, typer.Option(help="Number of the scene in the test split.", min=0)],
    out: Annotated[Path, typer.Option(help="Picture to write, with the boxes drawn into it.")],
    family: Annotated[
        Literal["image", "pair", "clip", "chart", "text"], typer.Option(help="Kind of sample; text has no picture.")
    ] = "image",
    size: SizeOption = "448x448",
    turns: TurnsOption = 6,
    as_json: JsonOption = False,
) -> None:
    """Draw one sample with its boxes, and print its conversation."""
    from penguin_ros.overlay import check_writable, save_overlay
    from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
    from penguin_tabletop.seeds import Split

    check_writable(out)
    only = Mixture(**parse_weights(f"{family}=1"))
    dataset = TabletopDataset(TabletopSettings(Split.TEST, size=parse_size(size), turns=turns, fps=1.0, mixture=only))
    sample = dataset[seed]
    if sample.frames:
        save_overlay(out, _draw_frames(sample), [])
    if as_json:
        print_json(sample.truth() | sample.annotation())
        return
    for event in sample.events:
        stdout.out(f"{event.start_s:6.1f} s to {event.end_s:4.1f} s  {event.label} {event.kind} {event.where}".rstrip())
    for turn in sample.turns:
        stdout.out(f"\n[{turn.task}]\n  {turn.question}\n  {turn.answer}")


def _draw_frames(sample: Sample) -> UInt8Array:
    """Returns all frames with their boxes as one picture, a few per row."""
    import numpy as np

    from penguin_ros.overlay import draw_objects

    boxes = [[item.grounded for item in truth.objects] for truth in sample.truths] or [[] for _ in sample.frames]
    drawn = [draw_objects(frame, objects) for frame, objects in zip(sample.frames, boxes, strict=True)]
    columns = min(len(drawn), _COLUMNS)
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % columns)
    return np.vstack([np.hstack(drawn[start : start + columns]) for start in range(0, len(drawn), columns)])


def parse_size(text: str) -> Size:
    """Returns the size in pixels given by "224x160" (width, height), or by one number for both."""
    from penguin_models.types import Size

    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size such as 224x224", param_hint="--size")
    return Size(int(match[2] or match[1]), int(match[1]))


def parse_weights(text: str) -> dict[str, float]:
    """Returns the weights of all families given by "image=3,clip=1"."""
    weights = dict.fromkeys(_FAMILIES, 0.0)
    for item in text.split(","):
        name, _, value = item.partition("=")
        if name not in weights or not re.fullmatch(r"\d+(\.\d+)?", value):
            known = ", ".join(_FAMILIES)
            raise typer.BadParameter(f"{item!r} is not a weight such as image=3 ({known})", param_hint="--mixture")
        weights[name] = float(value)
    return weights
