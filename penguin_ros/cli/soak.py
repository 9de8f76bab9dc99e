"""`penguin-vl bench soak`: a node under load for a long time; reports its memory, threads and latencies."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from penguin_ros.cli.output import JsonOption, RuntimeOption, existing_model, print_json, stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.cli.subprocesses import node_arguments, running
from penguin_ros.shipped import MODEL
from penguin_ros.stopping import stopping_like_ctrl_c

_TOPICS = tuple(f"/soak/camera_{number}" for number in range(4))
_FAULT_TOPICS = "/soak/bad_raw", "/soak/bad/compressed"


def soak(
    minutes: Annotated[float, typer.Option(help="Duration of the load.", min=0.05)] = 20.0,
    model: Annotated[
        str, typer.Option(help="Checkpoint or exported folder, or owner/name on the hub.", callback=existing_model)
    ] = str(MODEL),
    runtime: RuntimeOption = "torch",
    every: Annotated[float, typer.Option(help="Seconds between two samples.", min=1.0)] = 60.0,
    faults: Annotated[
        bool,
        typer.Option("--faults", help="Inject bad images and requests, floods, wrong transitions, killed clients."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a node with four cameras, questions, cancellations, memory resets and changes of its token budget."""
    require_ros()
    from penguin_ros.tools.soak import Sample
    from penguin_ros.tools.soak import soak as run

    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    fault_topics = _FAULT_TOPICS if faults else ()
    settings = ("token_budget=2500", "sample_rate_hz=5.0", "caption.max_new_tokens=16", f"runtime={runtime}")

    def show(sample: Sample) -> None:
        if not as_json:
            stdout.out(
                f"{sample.minute:6.1f} min  {sample.resident_mib:7.1f} MiB  {sample.threads:3d} threads  "
                f"{sample.files:3d} files  {sample.answers:5d} answers ({sample.cancelled} cancelled)  "
                f"{sample.captions:4d} captions  p50 {sample.total_p50_s:.3f} s  p95 {sample.total_p95_s:.3f} s"
            )

    arguments = node_arguments(model, [*_TOPICS, *fault_topics], settings)
    with stopping_like_ctrl_c(), running(*arguments) as node:
        samples = run(node.pid, "/penguin", _TOPICS, minutes, every, show, fault_topics)
    exit_code = node.returncode
    settled = samples[len(samples) // 4 :]
    result: dict[str, Any] = {
        "minutes": minutes,
        "runtime": runtime,
        "answers": sum(sample.answers for sample in samples),
        "faults": samples[-1].faults,
        "captions": sum(sample.captions for sample in samples),
        "resident_growth_mib": round(settled[-1].resident_mib - settled[0].resident_mib, 1),
        "threads": sorted({sample.threads for sample in settled}),
        "node_exit_code": exit_code,
        "samples": [asdict(sample) for sample in samples],
    }
    if as_json:
        print_json(result)
    else:
        stdout.out(
            "{answers} answers, {captions} captions, {faults} faults; memory grew by {resident_growth_mib} MiB after "
            "the first quarter; threads {threads}; exit code of the node {node_exit_code}".format(**result)
        )
    raise typer.Exit(1 if exit_code else 0)
