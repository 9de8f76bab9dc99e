"""`penguin-vl bench`: speed and memory on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penguin_ros.cli.output import DtypeOption, JsonOption, print_json, stdout, working

app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)


@app.command()
def model(
    model: Annotated[str | None, typer.Option("--model", help="Also measure this checkpoint.")] = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encoder memory at a full budget, and encode, prefill and decode rates."""
    from penguin_engine import bench
    from penguin_models.checkpoint import DTYPES, load_pretrained

    if dtype is not None and dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
    torch_dtype = DTYPES[dtype or "float32"]
    result: dict[str, Any] = {"machine": bench.machine()}
    with working("encoding 10,240 visual tokens"):
        result["encoder_memory"] = bench.encoder_memory(dtype=torch_dtype)
    with working("random weights at 2B shapes"):
        result["random_2b"] = bench.speed_at_2b_shapes(torch_dtype)
    if model is not None:
        result["checkpoint"] = {"model": model, **bench.model_speed(load_pretrained(model, dtype)[0])}
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
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.1)] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Key-frame labels per second at 1920x1080."""
    from penguin_engine import bench

    result = {"machine": bench.machine(), "policies": [bench.policy_speed(seconds=seconds)]}
    if as_json:
        print_json(result)
        return
    _print_machine(result["machine"])
    for row in result["policies"]:
        stdout.out(
            f"{row['policy']} at {row['size']}: {row['frames_per_s']:.1f} frames/s (released code: "
            f"{row['reference_frames_per_s']:.0f}), memory grew by {row['growth_bytes'] / 2**20:.1f} MiB "
            f"over {row['frames']} frames"
        )


def _print_machine(machine: dict[str, Any]) -> None:
    stdout.out(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, {machine['threads']} threads")


def _print_rates(name: str, rates: dict[str, Any]) -> None:
    stdout.out(
        f"{name}:\n  encode {rates['encode_patches_per_s']:.0f} patches/s, prefill "
        f"{rates['prefill_tokens_per_s']:.0f} tokens/s, decode {rates['decode_tokens_per_s']:.2f} tokens/s"
    )
