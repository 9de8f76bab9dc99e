"""`penguin-vl bench`: speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    existing_model,
    print_json,
    stdout,
    working,
)
from penguin_ros.shipped import MODEL

app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
app.command("engine")(bench_engine.engine)


@app.command()
def model(
    model: Annotated[
        str | None,
        typer.Option("--model", help="Checkpoint; default: the one in the package.", callback=existing_model),
    ] = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure encoder memory at a full token budget, and encode, prefill and decode rates."""
    from penguin_engine.bench.model import encoder_memory, speed_at_2b_shapes
    from penguin_engine.bench.rates import runtime_rates
    from penguin_engine.runtimes.torch import TorchRuntime
    from penguin_models.checkpoint import DTYPES, load_pretrained

    torch_dtype = DTYPES[dtype or "float32"]
    if model is None and MODEL.is_dir():
        model = str(MODEL)
    result: dict[str, Any] = {"machine": machine_facts()}
    with working("encoding 10,240 visual tokens"):
        result["encoder_memory"] = encoder_memory(dtype=torch_dtype)
    with working("random weights at 2B shapes"):
        result["random_2b"] = speed_at_2b_shapes(torch_dtype)
    if model is not None:
        result["checkpoint"] = {"model": model, **runtime_rates(TorchRuntime(load_pretrained(model, dtype)[0]))}
    if as_json:
        print_json(result)
        return
    memory, speed = result["encoder_memory"], result["random_2b"]
    _print_machine(result["machine"])
    stdout.out(
        f"encoding {memory['visual_tokens']} visual tokens ({memory['patches']} patches, {memory['dtype']}): peak "
        f"{memory['peak_bytes'] / 2**20:.0f} MiB beyond weights and pixels,\n"
        f"  {memory['bytes_per_patch'] / 1000:.1f} KB per patch (released code: "
        f"{memory['reference_bytes_per_patch'] / 1000:.0f} KB); {memory['layers']} layers of the released width "
        "(memory does not depend on depth)"
    )
    _print_rates(
        f"2B shapes, {speed['dtype']}, random weights, extrapolated from {speed['measured_layers']} layers", speed
    )
    if model is not None:
        _print_rates(model, result["checkpoint"])


@app.command()
def tra(
    seconds: Annotated[float, typer.Option(help="Duration of the speed measurement of each policy.", min=0.1)] = 5.0,
    clips: Annotated[int, typer.Option(help="Number of clips with events, and of calm clips.", min=1)] = 8,
    rendered: Annotated[
        bool, typer.Option("--rendered", help="Use clips of the simulated table-top (needs PyBullet), not drawn ones.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot of events and keyframes (.png or .svg; needs matplotlib).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare keyframe policies: events noticed, false keyframes, and frames per second at 1920x1080."""
    from penguin_engine.bench import keyframe_policies as bench
    from penguin_models.novelty_policy import NoveltyPolicy
    from penguin_models.reference_policy import ReferencePolicy
    from penguin_ros.evaluation.tabletop.keyframe_clips import check_plot, draw_timelines, rendered_clips

    if plot is not None:
        check_plot(plot)
    make_clips = rendered_clips if rendered else bench.drawn_clips
    rows = []
    for policy in (NoveltyPolicy, ReferencePolicy):
        with working(f"{policy.__name__}: {2 * clips} clips"):
            speed = bench.policy_speed(policy(), seconds=seconds)
            rows.append(speed | bench.policy_recall(policy, make_clips(clips)))
    if plot is not None:
        draw_timelines(plot, {row["policy"]: row["timeline"] for row in rows})
    result: dict[str, Any] = {"machine": machine_facts(), "policies": rows}
    if as_json:
        print_json(result)
        return
    _print_machine(result["machine"])
    columns = ("events", "noticed within 1 s", "false keyframes/min", "frames/s", "memory growth")
    table = Table("policy", *columns, box=None)
    for row in rows:
        table.add_row(
            row["policy"],
            str(row["events"]),
            "-" if row["recall"] is None else f"{row['recall']:.2f}",
            f"{row['false_keyframes_per_min']:.2f}",
            f"{row['frames_per_s']:.0f}",
            f"{row['growth_bytes'] / 2**20:.1f} MiB",
        )
    stdout.print(table)
    stdout.out(
        f"frames/s at {rows[0]['size']}; the released implementation of the reference rule: about "
        f"{bench.REFERENCE_FRAMES_PER_S:.0f}"
    )


@app.command()
def session(
    model: ModelOption,
    tokens: Annotated[
        list[int] | None, typer.Option(help="Visual tokens in memory, can be repeated; default: 1000, 4000, 8000.")
    ] = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the time to the first token: prefix reused, prefilled again, and offline from the frames."""
    from penguin_engine.bench.session import first_token
    from penguin_engine.runtimes.loading import open_runtime

    opened, processor = open_runtime(runtime, model, device, dtype)
    machine = machine_facts()
    if not as_json:
        _print_machine(machine)
    rows = []
    for visual_tokens in tokens or [1000, 4000, 8000]:
        with working(f"{visual_tokens} visual tokens"):
            rows.append(first_token(opened, processor, visual_tokens))
        if not as_json:  # at once, because the next size may not fit
            _print_session(rows[-1])
    if as_json:
        print_json({"machine": machine, "model": model, "runtime": runtime, "sessions": rows})


def _print_session(row: dict[str, Any]) -> None:
    times = f"prefix reused {1000 * row['reused_s']:.1f} ms"
    for name, title in (("fresh", "fresh prefill"), ("offline", "offline")):
        if row[f"{name}_s"] is not None:
            times += f", {title} {1000 * row[f'{name}_s']:.1f} ms ({row[f'{name}_over_reused']:.0f} times)"
    stdout.out(f"{row['visual_tokens']} visual tokens in {row['frames']} frames: {times}")


def _print_machine(machine: dict[str, Any]) -> None:
    torch = f"torch {machine['torch']}, {machine['threads']} threads" if machine["torch"] else "no torch"
    stdout.out(f"{machine['cpu']}, {machine['cores']} cores, {torch}")


def _print_rates(name: str, rates: dict[str, Any]) -> None:
    stdout.out(
        f"{name}:\n  encode {rates['encode_patches_per_s']:.0f} patches/s, prefill "
        f"{rates['prefill_tokens_per_s']:.0f} tokens/s, decode {rates['decode_tokens_per_s']:.2f} tokens/s"
    )
