"""`penguin-vl prepare`: what training needs beforehand."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_ros.cli.output import DeviceOption, JsonOption, stderr
from penguin_ros.cli.train import SetOption, StageArgument, print_result

app = typer.Typer(help="Make what training needs: tokenizer, length indexes, tiny teacher.", no_args_is_help=True)
FilesArgument = Annotated[list[Path], typer.Argument(metavar="ANNOTATIONS...", help="JSON or JSONL files.")]
OutputOption = Annotated[Path, typer.Option(help="Folder to write to.")]


@app.command()
def tokenizer(
    files: FilesArgument,
    output: OutputOption,
    vocabulary: Annotated[int, typer.Option(help="Number of tokens, special ones included.")] = 2048,
    as_json: JsonOption = False,
) -> None:
    """Train a byte-level BPE tokenizer on the texts of annotation files."""
    from penguin_training.data.annotations import AnnotationFile
    from penguin_training.data.train_tokenizer import save_tokenizer, train_tokenizer
    from penguin_training.run.checks import check_folder

    check_folder(output)
    trained = train_tokenizer([AnnotationFile(file) for file in files], vocabulary)
    save_tokenizer(trained, output)
    print_result({"output": str(output), "vocabulary": vocabulary}, f"{output}: {vocabulary} tokens", as_json)


@app.command()
def lengths(
    stage: StageArgument,
    overrides: SetOption = None,
    again: Annotated[bool, typer.Option("--again", help="Measure every sample, even if there is an index.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the samples of a stage's annotation files and write indexes next to them.

    If there is an index already, only the samples that could not be used are measured again. A stage that streams its
    data has no index.
    """
    from rich.progress import Progress

    from penguin_models.errors import DataError
    from penguin_training.data.length_index import build_index, index_path, load_index
    from penguin_training.data.open_data import annotation_files, make_reader
    from penguin_training.model.blueprint import make_blueprint
    from penguin_training.settings.stage_file import load_settings

    settings = load_settings(stage, overrides or ())
    if settings.data.streamed:
        print_result({"indexes": []}, f"{stage} streams its data, which needs no index", as_json)
        return
    reader = make_reader(settings, make_blueprint(settings))
    made: list[dict[str, Any]] = []
    lines: list[str] = []
    with Progress(console=stderr, disable=not stderr.is_terminal) as progress:
        for file in annotation_files(settings):
            known = None
            with suppress(DataError):  # missing or outdated
                known = None if again else load_index(file, reader)
            task = progress.add_task(file.path.name, total=len(known.unusable if known else file))
            if known is None or known.unusable:
                build_index(file, reader, settings.data.workers, partial(progress.advance, task), known)
            index, path = load_index(file, reader), str(index_path(file, reader))
            mean = float(index.packed_sizes().sum()) / max(1, len(file) - len(index.unusable))
            left_out = [{"id": name, "reason": reason} for name, reason in index.unusable.values()]
            counts = {"samples": len(file), "unusable": len(left_out), "tokens": mean}
            made.append({"index": path, **counts, "left_out": left_out})
            lines.append(f"{path}: {len(file)} samples, {mean:.0f} tokens on average, {len(left_out)} unusable")
            lines += [f"  left out {sample['id']}: {sample['reason']}" for sample in left_out]
    print_result({"indexes": made}, "\n".join(lines), as_json)
    if useless := [item["index"] for item in made if item["unusable"] == item["samples"]]:
        raise DataError(f"no sample can be used: {', '.join(useless)}")


@app.command()
def teacher(
    files: FilesArgument,
    output: OutputOption,
    steps: Annotated[int, typer.Option(help="Number of optimiser steps.", min=1)] = 2000,
    images: Annotated[int, typer.Option(help="Images per step.", min=1)] = 16,
    hidden_size: Annotated[int, typer.Option(help="Width of the features.", min=64)] = 192,
    rate: Annotated[float, typer.Option(help="Peak learning rate.", min=0)] = 1e-3,
    smallest: Annotated[float, typer.Option(help="Smallest factor that images are scaled by.", min=0.1, max=1)] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and sizes.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Number of processes that read images.", min=0)] = 2,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train the tiny teacher on images and their segmentation masks."""
    from rich.progress import Progress

    from penguin_training.model.train_tiny_teacher import Recipe, train_tiny_teacher
    from penguin_training.run.checks import check_folder

    check_folder(output)
    recipe = Recipe(
        hidden_size=hidden_size, steps=steps, images=images, rate=rate, smallest=smallest, seed=seed, workers=workers
    )
    mean: dict[str, float] = {}
    with Progress(console=stderr, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("teacher", total=steps)

        def report(step: int, now: dict[str, float]) -> None:
            mean.update(now)
            progress.update(task, completed=step, description=f"accuracy {mean['accuracy']:.3f}")
            if progress.disable and step % 100 == 0:
                stderr.out(f"step {step}/{steps} loss {mean['loss']:.4f} accuracy {mean['accuracy']:.3f}")

        train_tiny_teacher(files, recipe, device, report).save_pretrained(output)
    text = f"{output}: {mean['accuracy']:.1%} of patches with an object right, loss {mean['loss']:.4f}"
    print_result({"output": str(output), **mean}, text, as_json)
