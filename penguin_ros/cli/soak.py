"""`penguin-vl bench soak`: a node under load for a long time, its memory, threads and latencies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_ros.cli.output import JsonOption, RuntimeOption, print_json, stdout
from penguin_ros.cli.ros import require_ros

_CHECKPOINT = Path(__file__).resolve().parents[2] / "tests" / "data" / "reference" / "checkpoint"
_TOPICS = tuple(f"/soak/camera_{number}" for number in range(4))


def soak(
    minutes: Annotated[float, typer.Option(help="How long.", min=0.05)] = 20.0,
    model: Annotated[str, typer.Option(help="Checkpoint or exported folder, or owner/name on the hub.")] = str(
        _CHECKPOINT
    ),
    runtime: RuntimeOption = "torch",
    every: Annotated[float, typer.Option(help="Seconds between two lines.", min=1.0)] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Four cameras, questions, cancelled goals, clears and new budgets against a node in a process of its own."""
    require_ros()
    from penguin_ros.tools.soak import Sample
    from penguin_ros.tools.soak import soak as run

    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    topics = [part for topic in _TOPICS for part in ("--image-topic", topic)]
    settings = ["--set", "token_budget=2500", "--set", "sample_rate_hz=5.0", "--set", "caption.max_new_tokens=16"]
    settings += ["--set", f"runtime={runtime}"]
    command = [sys.executable, "-m", "penguin_ros.cli.main", "node", "--model", model, "--log-level", "warn"]

    def show(sample: Sample) -> None:
        if not as_json:
            stdout.out(
                f"{sample.minute:6.1f} min  {sample.resident_mib:7.1f} MiB  {sample.threads:3d} threads  "
                f"{sample.files:3d} files  {sample.answers:5d} answers ({sample.cancelled} cancelled)  "
                f"{sample.captions:4d} captions  p50 {sample.total_p50_s:.3f} s  p95 {sample.total_p95_s:.3f} s"
            )

    node = subprocess.Popen([*command, *topics, *settings], stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        samples = run(node.pid, "/penguin", _TOPICS, minutes, every, show)
    finally:
        node.terminate()
        exit_code = node.wait(60)
    settled = samples[len(samples) // 4 :]
    growth = settled[-1].resident_mib - settled[0].resident_mib
    result: dict[str, Any] = {
        "minutes": minutes,
        "runtime": runtime,
        "answers": sum(sample.answers for sample in samples),
        "captions": sum(sample.captions for sample in samples),
        "resident_growth_mib": round(growth, 1),
        "threads": sorted({sample.threads for sample in settled}),
        "node_exit_code": exit_code,
        "samples": [sample.to_dict() for sample in samples],
    }
    if as_json:
        print_json(result)
    else:
        stdout.out(
            f"{result['answers']} answers, {result['captions']} captions; memory grew by {growth:.1f} MiB after the "
            f"first quarter; threads {result['threads']}; the node's exit code {exit_code}"
        )
    raise typer.Exit(1 if exit_code else 0)
