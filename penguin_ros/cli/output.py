"""Output and options that commands share: results go to standard output, progress to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 160)  # rich would wrap a pipe at 80 columns
stderr = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def existing_model(context: typer.Context, model: str | None) -> str | None:
    """Checks an option that names a model before the command begins its work; the callback of such options.

    Raises:
        CheckpointError: There is no such model.
    """
    if model is not None:
        from penguin_engine.runtimes.loading import check_model

        check_model(model, context.params.get("revision"))
    return model


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="Checkpoint folder, exported folder, or owner/name on the model hub.", callback=existing_model
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit of a model on the hub. [default: main]",
        is_eager=True,  # `existing_model` needs it
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Device of the model: cpu, cuda, cuda:1, ...; auto is cuda if there is a GPU. The onnx runtime also takes "
        "tensorrt and tensorrt-rtx."
    ),
]
DtypeOption = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option(help="Type of the weights. [default: as stored, or float32 on a CPU that would emulate it]"),
]
EncoderDtypeOption = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option("--dtype", help="Type of the weights. [default: float32 on a CPU, else as stored]"),
]
RuntimeOption = Annotated[
    Literal["torch", "onnx", "tensorrt"],
    typer.Option(help="Runtime of the model; onnx and tensorrt take a folder made by `penguin-vl export`."),
]


def print_json(value: Any) -> None:
    """Prints a value as JSON on one line."""
    stdout.out(json.dumps(value))


def print_note(text: str) -> None:
    """Prints a sentence about what is unusual on standard error."""
    stderr.out(f"note: {text}")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows a spinner with this text while the block runs, if standard error is a terminal."""
    with stderr.status(what, spinner="line"):  # in ASCII
        yield


@contextmanager
def bad_usage(option: str | None = None) -> Iterator[None]:
    """Makes an error of the block one of the command line, with the exit code 2 and the option's name."""
    from penguin_models.errors import PenguinError

    try:
        yield
    except PenguinError as err:
        raise typer.BadParameter(str(err), param_hint=option) from err
