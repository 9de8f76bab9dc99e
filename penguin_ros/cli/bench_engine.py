"""`penguin-vl bench engine`: runtimes and precisions of one model side by side."""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from penguin_ros.cli.output import DeviceOption, JsonOption, print_json, stdout, working
from penguin_ros.stopping import stopping_like_ctrl_c

RANDOM_2B = "random-2b"


def engine(
    model: Annotated[
        str, typer.Option("--model", help="Checkpoint, or random-2b: random weights in the shapes of the released 2B.")
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="RUNTIME:PRECISION, can be repeated. Runtimes: torch, onnx, onnx-portable, tensorrt, transformers, "
            "with float32, float16, bfloat16, int8, int4 or fp8 if the runtime has it; llama.cpp with f32, f16, q8_0 "
            "or q4_0. int4 and q4_0 have the head in 4 bits too."
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of random-2b; default: 28.", min=1)] = None,
    work: Annotated[Path | None, typer.Option(help="Folder that keeps exports for later runs.")] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prefill.", min=8)] = 512,
    new_tokens: Annotated[int, typer.Option(help="Tokens to decode.", min=1)] = 32,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Compare runtimes and precisions: loading time, memory, rates, first token, energy, share of machine limits."""
    from penguin_engine.runtimes.loading import check_model

    if model != RANDOM_2B:
        check_model(model)
    from penguin_engine.bench import variants
    from penguin_engine.bench.worker_process import WorkerSettings
    from penguin_models.atomic_write import writing
    from penguin_models.hub import resolve_checkpoint

    if layers is not None and model != RANDOM_2B:
        raise typer.BadParameter(f"goes with --model {RANDOM_2B}", param_hint="--layers")
    chosen = [variants.Variant.parse(text) for text in variant or []] or variants.default_variants()
    settings = WorkerSettings("", "", device, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    with ExitStack() as stack:
        stack.enter_context(stopping_like_ctrl_c())
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        checkpoint = random_2b(folder, layers) if model == RANDOM_2B else resolve_checkpoint(model)
        rows = []
        running = variants.compare_variants(checkpoint, folder, chosen, settings)
        for name in map(str, chosen):
            with working(name):
                rows.append(next(running))
    result = {"machine": variants.describe_machine(device), "model": model, "layers": layers, "variants": rows}
    (print_json if as_json else print_table)(result)


def random_2b(folder: Path, layers: int | None) -> Path:
    """Returns a checkpoint with random weights in the 2B's shapes in a folder; written if it is not there yet."""
    from penguin_engine.bench.random_model import LAYERS_2B, config_2b, write_random_checkpoint

    checkpoint = folder / f"random-2b-{layers or LAYERS_2B}"
    if not (checkpoint / "config.json").is_file():
        with working("writing random weights"):
            write_random_checkpoint(checkpoint, config_2b(layers or LAYERS_2B))
    return checkpoint


def print_table(result: dict[str, Any]) -> None:
    """Prints a table with one column per variant, and notes on what was not measured."""
    machine, rows = result["machine"], result["variants"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    stdout.out(
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; torch {machine['torch']}, {versions}"
    )
    table = Table("", *(row["variant"] for row in rows), box=None)
    columns = [row | row["limits"] | {f"{name}_share": v for name, v in row["fractions"].items()} for row in rows]
    for title, name, scale, form in _LINES:
        values = [column.get(name) for column in columns]
        if any(value is not None for value in values):
            table.add_row(title, *("" if value is None else format(value * scale, form) for value in values))
    stdout.print(table)
    for note in not_measured(machine["gpu"], rows):
        stdout.out(note)


def not_measured(gpu: str | None, rows: list[dict[str, Any]]) -> list[str]:
    """Returns what the table lacks, and why."""
    remedy = ""
    if gpu and importlib.util.find_spec("pynvml") is None:
        remedy = "; NVIDIA GPUs are read with nvidia-ml-py: pip install nvidia-ml-py"
    sensors = {sensor for row in rows for sensor in row.get("joules_by_sensor") or {}}
    notes = []
    if gpu and all(row.get("gpu_bytes") is None for row in rows):
        notes.append(f"GPU memory: not available for {gpu}{remedy}")
    if not sensors & ({"gpu", "board"} if gpu else {"processor", "board"}):
        notes.append(f"energy: no readable sensor for {gpu or 'this processor'}{remedy}")
    return notes


_LINES = (
    ("load, s", "load_s", 1, ".1f"),
    ("resident after loading, MiB", "resident_loaded_bytes", 2**-20, ".0f"),
    ("resident at the end, MiB", "resident_bytes", 2**-20, ".0f"),
    ("resident, decoder alone, MiB", "decoder_resident_bytes", 2**-20, ".0f"),
    ("peak, MiB", "peak_bytes", 2**-20, ".0f"),
    ("GPU memory, MiB", "gpu_bytes", 2**-20, ".0f"),
    ("weights read per token, MiB", "weight_bytes", 2**-20, ".0f"),
    ("encode, patches/s", "encode_patches_per_s", 1, ".0f"),
    ("prefill, tokens/s", "prefill_tokens_per_s", 1, ".0f"),
    ("decode, tokens/s", "decode_tokens_per_s", 1, ".2f"),
    ("visual tokens in memory", "scene_visual_tokens", 1, ".0f"),
    ("first token, cold, s", "first_token_cold_s", 1, ".2f"),
    ("first token, prefix reused, s", "first_token_reused_s", 1, ".3f"),
    ("joules per answer", "joules_per_answer", 1, ".1f"),
    ("encode, share of matrix rate", "encode_share", 1, ".2f"),
    ("prefill, share of matrix rate", "prefill_share", 1, ".2f"),
    ("decode, share of memory bandwidth", "decode_share", 1, ".2f"),
    ("measured memory bandwidth, GB/s", "memory_bytes_per_s", 1e-9, ".1f"),
    ("measured matrix rate, Gop/s", "operations_per_s", 1e-9, ".1f"),
)
