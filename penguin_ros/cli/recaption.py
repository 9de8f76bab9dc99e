"""`penguin-vl prepare recaption`: detailed captions, region captions and boxes from any captioner."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from penguin_models.media import FPS
from penguin_ros.cli.output import DeviceOption, DtypeOption, JsonOption, RuntimeOption, print_json, stdout, working
from penguin_ros.cli.phases import Phases

if TYPE_CHECKING:
    from penguin_training.recaptioning.captioner import Captioner

_KEY_VARIABLE = "PENGUIN_VL_API_KEY"


def recaption(
    files: Annotated[list[Path], typer.Argument(metavar="ANNOTATIONS...", help="JSON or JSONL files.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write; completed if it exists.")],
    model: Annotated[str, typer.Option(help="Checkpoint or exported folder; with --base-url, the server's model.")],
    base_url: Annotated[
        str | None, typer.Option(help=f"Server of the OpenAI API, such as vLLM; its key is in {_KEY_VARIABLE}.")
    ] = None,
    in_flight: Annotated[int, typer.Option(help="Samples that a server is asked about at once.", min=1)] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 512,
    fps: Annotated[float, typer.Option(help="Frames per second of clips.", min=0.001)] = FPS,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Caption pictures in ten aspects and clips at three scales, and write annotations to train on.

    Only the media of the samples are read. Captions that contradict their boxes are left out and listed with the
    reasons. The same command goes on after an interruption.
    """
    from penguin_training.recaptioning.run import left_out_path
    from penguin_training.recaptioning.run import recaption as run

    if base_url is not None and (runtime, device, dtype) != ("torch", "auto", None):
        raise typer.BadParameter("--runtime, --device and --dtype are for a model here", param_hint="--base-url")
    captioner = _open(model, base_url, in_flight, max_new_tokens, runtime, device, dtype)
    with Phases() as phases:
        counts = run(files, out, captioner, fps, lambda done, total: phases.show("samples", done, total))
    if as_json:
        print_json({"output": str(out), **asdict(counts)})
        return
    stdout.out(
        f"{out}: {counts.annotations} annotations of {counts.written} samples, {counts.left_out} left out "
        f"({left_out_path(out).name} says why), {counts.earlier} done before"
    )


def _open(
    model: str, base_url: str | None, in_flight: int, max_new_tokens: int, runtime: str, device: str, dtype: str | None
) -> Captioner:
    from penguin_training.recaptioning.captioner import ModelCaptioner, ServerCaptioner

    if base_url is not None:
        if not _is_address(base_url):
            raise typer.BadParameter(
                f"{base_url!r} is not the address of a server, such as http://gpu:8000/v1", param_hint="--base-url"
            )
        return ServerCaptioner(base_url, model, os.environ.get(_KEY_VARIABLE), max_new_tokens, in_flight)
    from penguin_engine.runtimes.loading import open_runtime

    with working(f"loading {model}"):
        return ModelCaptioner(*open_runtime(runtime, model, device, dtype), max_new_tokens)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is no number, or too large
        return False
