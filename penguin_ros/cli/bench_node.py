"""`penguin-vl bench node`: the real node with a camera and questions; how long they wait."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_ros.cli.bench_engine import RANDOM_2B, random_2b
from penguin_ros.cli.output import JsonOption, RuntimeOption, print_json, stdout, working
from penguin_ros.cli.ros import require_ros
from penguin_ros.cli.subprocesses import node_arguments, running
from penguin_ros.shipped import MODEL
from penguin_ros.stopping import stopping_like_ctrl_c

_TOPIC = "/bench/image_raw"


def node(
    model: Annotated[
        str,
        typer.Option(help="Checkpoint or exported folder, or random-2b: random weights in the released 2B's shapes."),
    ] = str(MODEL),
    weights: Annotated[
        str | None, typer.Option(help="Export the checkpoint with these weights first: float32, int8 or int4.")
    ] = None,
    runtime: RuntimeOption = "torch",
    minutes: Annotated[float, typer.Option(help="Duration, from the first answer on.", min=0.05)] = 3.0,
    every: Annotated[float, typer.Option(help="Seconds between two questions.", min=1.0)] = 20.0,
    rate: Annotated[float, typer.Option(help="Images per second of the camera.", min=0.1)] = 10.0,
    size: Annotated[str, typer.Option(help="Width and height of its images.")] = "640x480",
    compressed: Annotated[bool, typer.Option("--compressed", help="The camera publishes JPEG.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer in tokens.", min=1)] = 32,
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of a parameter of the node.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder that keeps exports for later runs.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure queue, first token, load, sampled rate and memory of the node with one camera and questions."""
    require_ros()
    from penguin_engine.runtimes.loading import check_model
    from penguin_ros.tools.node_bench import Camera, measure

    if model != RANDOM_2B:
        check_model(model)

    sides = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if sides is None:
        raise typer.BadParameter(f"{size!r} is not WIDTHxHEIGHT, as in 640x480", param_hint="--size")
    topic = f"{_TOPIC}/compressed" if compressed else _TOPIC
    camera = Camera(topic, int(sides[1]), int(sides[2]), rate, compressed)

    def show(answer: dict[str, Any]) -> None:
        if not as_json:
            stdout.out(
                "queue {queue_s:.2f} s, first token {first_token_s:.2f} s (predicted {predicted_s}), total "
                "{total_s:.2f} s, {frames} frames, {frames_pending} left out".format(**answer)
            )

    with ExitStack() as stack:
        stack.enter_context(stopping_like_ctrl_c())
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path, used = _prepared(model, weights, runtime, folder)
        os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
        with running(*node_arguments(path, [topic], [f"runtime={used}", *(settings or [])])) as process:
            result = measure(process.pid, "/penguin", camera, minutes, every, max_new_tokens, show)
    exit_code = process.returncode
    result |= {"model": model, "runtime": used, "minutes": minutes, "node_exit_code": exit_code}
    if as_json:
        print_json(result)
    else:
        _print(result)
    raise typer.Exit(1 if exit_code else 0)


def _prepared(model: str, weights: str | None, runtime: str, folder: Path) -> tuple[str, str]:
    """Returns the path of what the node loads, exported if needed, and its runtime."""
    if weights is None and model != RANDOM_2B:
        return model, runtime
    from penguin_engine.bench.variants import Variant, prepare
    from penguin_models.hub import resolve_checkpoint

    checkpoint = random_2b(folder, None) if model == RANDOM_2B else resolve_checkpoint(model)
    if weights is None:
        return str(checkpoint), runtime
    with working(f"exporting {weights}"):
        return str(prepare(checkpoint, folder, Variant("onnx", weights))), "onnx"


def _print(result: dict[str, Any]) -> None:
    for name in ("first_token_s", "queue_s", "total_s", "evidence_age_s"):
        stdout.out("{:15} p50 {p50:8.3f}  p95 {p95:8.3f}  max {max:8.3f}".format(name, **result[name]))
    stdout.out(
        "load {load}, {sampled_hz} frames/s, longest gap {longest_gap_s} s, tokens per frame {frame_tokens}; resident "
        "at most {rss_mib} MiB, by quarter {rss_mib_by_quarter}".format(**result)
    )
    stdout.out(result["pace"] or "the machine keeps up")
