"""Runtimes and precisions of one model side by side, and what share of the machine's limits each reaches.

Decoding reads every weight once a token, so memory bandwidth bounds it; encoding and prefill are matrix products, so
the matrix rate bounds them. Both limits are measured next to each variant (bench_limits.py), since a shared machine
changes its mood.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.limits import device_name, machine_limits
from penguin_engine.bench.machine import machine_facts
from penguin_engine.bench.worker_process import WorkerSettings
from penguin_engine.export.calibration import Calibration
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, decoder_shape, export
from penguin_engine.export.manifest import DECODER, MANIFEST, PLAN_FOLDER, PLAN_MANIFEST, DecoderShape
from penguin_engine.export.quantize import KINDS, Quantization
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits
from penguin_models.checkpoint import open_checkpoint
from penguin_models.config import EncoderConfig
from penguin_models.errors import EngineError

_PROFILES = {
    "onnx": "onnxruntime",
    "onnx-portable": "portable",
    "onnx-fused": "fused",
    "tensorrt": "portable",
    "tensorrt-fused": "fused",
}
WORKERS = ("torch", *_PROFILES, "transformers", "llama.cpp")
_LLAMA = {"llama-cpp-python": "llama_cpp", "gguf": "gguf"}
"""What llama.cpp is run with: packages and their modules."""
_CALIBRATION_SAMPLES = 4
_FRAME_PATCHES = 1280
_PLAN_TOKENS, _PLAN_PATCHES = 4096, 4096
"""Longest cache and largest image of plans that are built for a measurement."""


@dataclass(frozen=True)
class Variant:
    """A runtime and a precision: "torch:float32", "onnx:int8", "onnx-portable:float32", "llama.cpp:q8_0", ..."""

    worker: str
    precision: str

    def __str__(self) -> str:
        return f"{self.worker}:{self.precision}"

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Reads a variant.

        Raises:
            EngineError: the runtime is unknown.
        """
        worker, _, precision = text.partition(":")
        if worker not in WORKERS or not precision:
            raise EngineError(
                f"variant {text!r} is unknown; it is RUNTIME:PRECISION, RUNTIME one of {', '.join(WORKERS)}"
            )
        return cls(worker, precision)

    @property
    def profile(self) -> str | None:
        """Profile of the export that it runs; None where it runs the checkpoint."""
        return _PROFILES.get(self.worker)


def default_variants() -> list[Variant]:
    """What can be compared on the CPU of this machine."""
    names = ["torch:float32", "onnx:float32", "onnx:int8", "onnx:int4", "transformers:float32"]
    if all(map(importlib.util.find_spec, _LLAMA.values())):
        names += ["llama.cpp:f32", "llama.cpp:q8_0", "llama.cpp:q4_0"]
    return [Variant.parse(name) for name in names]


def compare_variants(
    model: Path, work: Path, variants: Sequence[Variant], settings: WorkerSettings, calibrated: bool
) -> Iterator[dict[str, Any]]:
    """Measures variants one after the other, each in a process of its own.

    Args:
        model: checkpoint folder.
        work: exported forms are kept here, and used again where they are there.
        variants: to measure.
        settings: how much is measured; kind, path and precision are filled in.
        calibrated: whether quantised forms are calibrated; of no use with random weights.

    Yields:
        One result a variant, in which fractions of limits are between 0 and about 1.
    """
    checkpoint, _, _ = open_checkpoint(model)
    shape, encoder = decoder_shape(checkpoint)[0], checkpoint.config.encoder
    threads = settings.threads or torch.get_num_threads()
    for variant in variants:
        path = prepare(model, work, variant, calibrated, settings.device)
        limits = machine_limits(threads, settings.device, variant.precision)
        worker = replace(settings, kind=variant.worker.partition("-")[0], path=str(path), threads=threads)
        measured = _in_own_process(variant, replace(worker, precision=variant.precision))
        again = machine_limits(threads, settings.device, variant.precision)
        limits = {name: max(value, again[name]) for name, value in limits.items()}
        weight_bytes = decoded_bytes(path, variant, shape)
        fractions = _fractions(measured, limits, weight_bytes, shape, encoder, settings.prompt_tokens)
        yield {
            "variant": str(variant),
            "weight_bytes": weight_bytes,
            **measured,
            "limits": limits,
            "fractions": fractions,
        }


def prepare(model: Path, work: Path, variant: Variant, calibrated: bool, device: str = "cpu") -> Path:
    """Folder or file that a variant runs: the checkpoint, or what was exported from it, with plans for TensorRT."""
    if variant.profile is None and variant.worker != "llama.cpp":
        return model
    key = _checkpoint_key(model)
    if variant.worker == "llama.cpp":
        missing = [name for name, module in _LLAMA.items() if importlib.util.find_spec(module) is None]
        if missing:
            raise EngineError(f"{variant} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        from penguin_engine.bench.llama_cpp import write_gguf

        return write_gguf(model, work / f"decoder-{variant.precision}-{key}.gguf", variant.precision)
    assert variant.profile is not None
    quantized = variant.precision in KINDS
    plain = "-uncalibrated" if quantized and not calibrated else ""
    folder = work / f"{variant.profile}-{variant.precision}{plain}-{key}"
    if not (folder / MANIFEST).is_file():
        options = ExportOptions(
            profile=variant.profile,
            dtype=None if quantized else variant.precision,
            quantization=Quantization.default(variant.precision, variant.profile == "onnxruntime")
            if quantized
            else None,
            samples=drawn_samples(_CALIBRATION_SAMPLES),
            calibration=None if calibrated else Calibration({}, {}),
        )
        export(model, folder, options)
    if variant.worker.startswith("tensorrt") and not (folder / PLAN_FOLDER / PLAN_MANIFEST).is_file():
        _build_plans(folder, device)
    return folder


def _checkpoint_key(model: Path) -> str:
    """Another one for every checkpoint, and for what a checkpoint becomes: from names, sizes and times of its files."""
    stats = {path.name: path.stat() for path in model.iterdir() if path.is_file()}
    files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
    return hashlib.sha256(repr((str(model.resolve()), files)).encode()).hexdigest()[:12]


def _build_plans(folder: Path, device: str) -> None:
    if importlib.util.find_spec("tensorrt") is None or importlib.util.find_spec("pycuda") is None:
        raise EngineError("variants of tensorrt need tensorrt and pycuda, which are not installed; see docs/jetson.md")
    from penguin_engine.runtimes.tensorrt.build import BuildOptions, build

    build(folder, device, BuildOptions(limits=PlanLimits(_PLAN_TOKENS, _PLAN_PATCHES)))


def decoded_bytes(path: Path, variant: Variant, shape: DecoderShape) -> int:
    """Bytes of weights that one decoding step reads."""
    if variant.worker == "llama.cpp":
        from penguin_engine.bench.llama_cpp import weight_bytes

        return weight_bytes(path)
    if variant.profile is None:
        size = {"float32": 4, "float16": 2, "bfloat16": 2}[variant.precision]
        return size * (shape.linear_weights + shape.head_weights)
    return exported_weight_bytes(path)


def exported_weight_bytes(folder: Path) -> int:
    """Bytes of weights of an exported decoder and its head."""
    import onnx

    graph = onnx.load(folder / DECODER, load_external_data=False).graph
    total = 0
    for tensor in graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries and not tensor.name.startswith("rotary_"):
            total += int(entries["length"])
    return total


def _encoder_operations(config: EncoderConfig, hidden: int) -> float:
    """Operations per patch of a frame of `_FRAME_PATCHES`, every four of which become one token."""
    c = config
    attention = c.hidden_size * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    linear = c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size) + c.patch_dim * c.hidden_size
    scores = c.num_hidden_layers * 2 * _FRAME_PATCHES * c.num_attention_heads * c.head_dim
    return 2 * (linear + scores + (c.hidden_size + hidden) * hidden / 4)


def _fractions(
    measured: dict[str, Any],
    limits: dict[str, float],
    weight_bytes: int,
    shape: DecoderShape,
    encoder: EncoderConfig,
    prompt_tokens: int,
) -> dict[str, float]:
    scores = 2 * (prompt_tokens / 2) * shape.heads * shape.head_dim
    prefill = 2 * (shape.linear_weights + shape.layers * scores)
    used = {
        "decode": measured["decode_tokens_per_s"] * weight_bytes / limits["memory_bytes_per_s"],
        "prefill": measured["prefill_tokens_per_s"] * prefill / limits["operations_per_s"],
    }
    if "encode_patches_per_s" in measured:
        operations = _encoder_operations(encoder, shape.hidden)
        used["encode"] = measured["encode_patches_per_s"] * operations / limits["operations_per_s"]
    assert all(math.isfinite(value) for value in used.values())
    return used


def _in_own_process(variant: Variant, settings: WorkerSettings) -> dict[str, Any]:
    module = "llama_cpp" if variant.worker == "llama.cpp" else "worker_process"
    command = [sys.executable, "-m", f"penguin_engine.bench.{module}", settings.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{variant} could not be measured: {lines[-1][:300]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures were measured on, with the versions of what ran."""
    from importlib import metadata

    packages = ("onnxruntime", "transformers", "tensorrt", "llama_cpp_python")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # not installed
            continue
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    described = machine_facts() | {"memory_bytes": 1024 * int(meminfo["MemTotal"].split()[0]), "versions": versions}
    return described | {"device": device, "gpu": device_name(device)}
