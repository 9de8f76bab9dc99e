"""`penguin-vl bench`: speed and memory on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from penguin_engine.bench.machine import machine_facts
from penguin_ros.cli import bench_engine
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RuntimeOption,
    print_json,
    stdout,
    working,
)
from penguin_ros.shipped import MODEL

if TYPE_CHECKING:
    from penguin_engine.bench.model import WatchedClip

_PLOT = Path("build/key-frames.png")

app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
app.command("engine")(bench_engine.engine)


@app.command()
def model(
    model: Annotated[str | None, typer.Option("--model", help="Checkpoint; the one that ships if not given.")] = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encoder memory at a full budget, and encode, prefill and decode rates."""
    from penguin_engine.bench import model as bench_model
    from penguin_models.checkpoint import DTYPES, load_pretrained

    torch_dtype = DTYPES[dtype or "float32"]
    if model is None and MODEL.is_dir():  # nothing ships outside of a clone
        model = str(MODEL)
    result: dict[str, Any] = {"machine": machine_facts()}
    with working("encoding 10,240 visual tokens"):
        result["encoder_memory"] = bench_model.encoder_memory(dtype=torch_dtype)
    with working("random weights at 2B shapes"):
        result["random_2b"] = bench_model.speed_at_2b_shapes(torch_dtype)
    if model is not None:
        result["checkpoint"] = {"model": model, **bench_model.model_speed(load_pretrained(model, dtype)[0])}
    if as_json:
        print_json(result)
        return
    memory, speed = result["encoder_memory"], result["random_2b"]
    _print_machine(result["machine"])
    stdout.out(
        f"encoding {memory['visual_tokens']} visual tokens ({memory['patches']} patches, {memory['dtype']}): peak "
        f"{memory['peak_bytes'] / 2**20:.0f} MiB beyond weights and pixels,\n"
        f"  {memory['bytes_per_patch'] / 1000:.1f} KB per patch (released code: "
        f"{memory['reference_bytes_per_patch'] / 1000:.0f} KB), "
        f"{memory['activations_of_full_length']:.1f} activations of full length; {memory['layers']} layers of the "
        "released width (memory does not depend on depth)"
    )
    _print_rates(
        f"2B shapes, {speed['dtype']}, random weights, extrapolated from {speed['measured_layers']} layers", speed
    )
    if model is not None:
        _print_rates(model, result["checkpoint"])


@app.command()
def tra(
    seconds: Annotated[float, typer.Option(help="How long to measure the speed of each policy.", min=0.1)] = 5.0,
    clips: Annotated[int, typer.Option(help="Clips with events; as many calm ones.", min=1)] = 8,
    rendered: Annotated[
        bool, typer.Option("--rendered", help="Clips of the simulated table-top instead of drawn ones; needs PyBullet.")
    ] = False,
    plot: Annotated[Path, typer.Option(help="Picture of the time lines of the clips.")] = _PLOT,
    as_json: JsonOption = False,
) -> None:
    """Key-frame policies side by side: events noticed, false key frames, frames per second at 1920x1080."""
    from penguin_engine.bench import model as bench_model
    from penguin_models.novelty_policy import NoveltyPolicy
    from penguin_models.reference_policy import ReferencePolicy
    from penguin_ros.evaluation.tabletop.keyframe_timeline import draw_timelines
    from penguin_ros.overlay import check_writable

    if plot == _PLOT:
        plot.parent.mkdir(exist_ok=True)
    check_writable(plot)
    rows = []
    for policy in (NoveltyPolicy, ReferencePolicy):
        with working(f"{policy.__name__}: {2 * clips} clips"):
            watched = _rendered_clips(clips) if rendered else bench_model.drawn_clips(clips)
            rows.append(
                bench_model.policy_speed(policy(), seconds=seconds) | bench_model.policy_recall(policy, watched)
            )
    draw_timelines(plot, {row["policy"]: row["timeline"] for row in rows})
    result = {"machine": machine_facts(), "policies": rows}
    if as_json:
        print_json(result)
        return
    _print_machine(result["machine"])
    columns = ("events", "noticed within 1 s", "false key frames/min", "frames/s", "ms/frame", "memory grew")
    table = Table("policy", *columns, box=None)
    for row in rows:
        table.add_row(
            row["policy"],
            str(row["events"]),
            "-" if row["recall"] is None else f"{row['recall']:.2f}",
            f"{row['false_key_frames_per_min']:.2f}",
            f"{row['frames_per_s']:.0f}",
            f"{1000 / row['frames_per_s']:.1f}",
            f"{row['growth_bytes'] / 2**20:.1f} MiB",
        )
    stdout.print(table)
    stdout.out(
        f"frames/s at {rows[0]['size']}; the released implementation of the reference rule: about "
        f"{bench_model.REFERENCE_FRAMES_PER_S:.0f}; time lines of the clips: {plot}"
    )


def _rendered_clips(clips: int) -> Iterator[WatchedClip]:
    from penguin_ros.evaluation.tabletop.keyframe_clips import RenderedClip

    return (RenderedClip(seed, calm) for seed in range(clips) for calm in (False, True))


@app.command()
def session(
    model: ModelOption,
    tokens: Annotated[list[int] | None, typer.Option(help="Visual tokens held; 1000, 4000 and 8000.")] = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time to the first token of a question: prefix reused, prefilled anew, and offline from the frames."""
    from penguin_engine.bench.session import first_token
    from penguin_engine.runtimes.loading import open_runtime

    opened, processor = open_runtime(runtime, model, device, dtype)
    machine = machine_facts()
    if not as_json:
        _print_machine(machine)
        _print_cells(_SESSION_COLUMNS)
    rows = []
    for visual_tokens in tokens or [1000, 4000, 8000]:
        with working(f"{visual_tokens} visual tokens"):
            rows.append(first_token(opened, processor, visual_tokens))
        if not as_json:  # at once: the next may not fit
            _print_cells(_session_cells(rows[-1]))
    if as_json:
        print_json({"machine": machine, "model": model, "runtime": runtime, "sessions": rows})


_SESSION_COLUMNS = ("visual tokens", "frames", "reused", "fresh prefill", "offline", "fresh/reused", "offline/reused")


def _session_cells(row: dict[str, Any]) -> list[str]:
    seconds = [_or_dash("{:.1f} ms", row[name], 1000) for name in ("reused_s", "fresh_s", "offline_s")]
    ratios = [_or_dash("{:.0f}", row[name]) for name in ("fresh_over_reused", "offline_over_reused")]
    return [str(row["visual_tokens"]), str(row["frames"]), *seconds, *ratios]


def _or_dash(form: str, value: float | None, factor: float = 1) -> str:
    return "-" if value is None else form.format(factor * value)


def _print_cells(cells: Sequence[str]) -> None:
    stdout.out("".join(f"{cell:<16}" for cell in cells).rstrip())


def _print_machine(machine: dict[str, Any]) -> None:
    torch = f"torch {machine['torch']}, {machine['threads']} threads" if machine["torch"] else "no torch"
    stdout.out(f"{machine['cpu']}, {machine['cores']} cores, {torch}")


def _print_rates(name: str, rates: dict[str, Any]) -> None:
    stdout.out(
        f"{name}:\n  encode {rates['encode_patches_per_s']:.0f} patches/s, prefill "
        f"{rates['prefill_tokens_per_s']:.0f} tokens/s, decode {rates['decode_tokens_per_s']:.2f} tokens/s"
    )
