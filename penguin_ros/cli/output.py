"""How commands speak: results on standard output (people or JSON), progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

# Where the output is no terminal, lines are as long as they need to be.
stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
stderr = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
ModelOption = Annotated[str, typer.Option("--model", help="Checkpoint folder, or owner/name on the model hub.")]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit of a model on the hub; its default branch if not given."),
]
DeviceOption = Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:1, ...; auto is cuda if there is one.")]
DtypeOption = Annotated[
    Literal["float32", "float16", "bfloat16"] | None, typer.Option(help="Type of the weights; as stored if not given.")
]


def print_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    stdout.out(json.dumps(value))


RuntimeOption = Annotated[
    Literal["torch", "onnx", "tensorrt"],
    typer.Option(help="What runs the model; onnx and tensorrt take a folder made by `penguin-vl export`."),
]


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows what is going on, on a terminal."""
    with stderr.status(what):
        yield
