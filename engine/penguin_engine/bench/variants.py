"""Runtimes and precisions of one model side by side, each as a share of the machine's limits.

Decoding reads every weight once per token, so memory bandwidth bounds it. Encoding and prefill are matrix products, so
the matrix rate bounds them. Both limits are measured next to each variant (limits.py), because other processes change
them on a shared machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.limits import device_name, machine_limits
from penguin_engine.bench.machine import machine_facts
from penguin_engine.bench.rates import FRAME
from penguin_engine.bench.worker_process import DECODER_ALONE, WorkerSettings
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, decoder_shape, export
from penguin_engine.export.manifest import DECODER, MANIFEST, PLAN_FOLDER, PLAN_MANIFEST, QUANTIZED, DecoderShape
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits
from penguin_models.checkpoint import open_checkpoint
from penguin_models.config import EncoderConfig
from penguin_models.errors import EngineError

_PROFILES = {"onnx": "onnxruntime", "onnx-portable": "portable", "tensorrt": "portable"}
WORKERS = ("torch", *_PROFILES, "transformers", "llama.cpp")
_PACKAGES = {"llama.cpp": {"llama-cpp-python": "llama_cpp", "gguf": "gguf"}, "tensorrt": {"pycuda": "pycuda"}}
"""Packages that a runtime needs in addition, and their modules."""
_CALIBRATION_SAMPLES = 4
_PLAN_LIMITS = PlanLimits(max_tokens=4096, max_patches=4096)
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
        """Reads RUNTIME:PRECISION; raises EngineError if the runtime is unknown."""
        worker, _, precision = text.partition(":")
        if worker not in WORKERS or not precision:
            raise EngineError(
                f"variant {text!r} is unknown; write RUNTIME:PRECISION with RUNTIME one of {', '.join(WORKERS)}"
            )
        return cls(worker, precision)

    @property
    def profile(self) -> str | None:
        """Export profile that the variant runs; None if it runs the checkpoint."""
        return _PROFILES.get(self.worker)

    @property
    def kind(self) -> str:
        """The runtime without its profile, as in `WorkerSettings`."""
        return self.worker.partition("-")[0]

    @property
    def missing_packages(self) -> list[str]:
        """Packages that the variant needs and that are not installed."""
        needed = _PACKAGES.get(self.kind, {})
        missing = [name for name, module in needed.items() if importlib.util.find_spec(module) is None]
        return missing + (["tensorrt"] if self.kind == "tensorrt" and not flavour.installed() else [])


def default_variants() -> list[Variant]:
    """Returns the variants that this machine can run on its CPU."""
    names = ("torch:float32", "onnx:float32", "onnx:int8", "onnx:int4", "transformers:float32")
    llama = ("llama.cpp:f32", "llama.cpp:q8_0", "llama.cpp:q4_0")
    return [variant for variant in map(Variant.parse, names + llama) if not variant.missing_packages]


def compare_variants(
    model: Path, work: Path, variants: Sequence[Variant], settings: WorkerSettings
) -> Iterator[dict[str, Any]]:
    """Measures variants one after another, each in a process of its own.

    Exports go to the folder `work`; those of an earlier run are used again. `settings` say how much is measured.

    Yields:
        One result per variant, with its share of each limit between 0 and about 1.
    """
    checkpoint, _, _ = open_checkpoint(model)
    shape, encoder = decoder_shape(checkpoint)[0], checkpoint.config.encoder
    for variant in variants:
        path = prepare(model, work, variant, settings.device)
        before = machine_limits(settings.device, variant.precision)
        filled_in = replace(settings, kind=variant.kind, path=str(path), precision=variant.precision)
        measured = measure_in_own_process(variant, replace(filled_in, threads=torch.get_num_threads()))
        if variant.kind == "onnx" and settings.device == "cpu":
            alone = measure_in_own_process(variant, replace(filled_in, kind=DECODER_ALONE))
            measured["decoder_resident_bytes"] = alone["resident_bytes"]
        after = machine_limits(settings.device, variant.precision)
        weight_bytes = decoded_bytes(path, variant, shape)
        limits = {name: max(before[name], after[name]) for name in before}
        yield {
            "variant": str(variant),
            "weight_bytes": weight_bytes,
            **measured,
            "limits": limits,
            "fractions": limit_fractions(measured, limits, weight_bytes, shape, encoder, settings.prompt_tokens),
        }


def prepare(model: Path, work: Path, variant: Variant, device: str = "cpu") -> Path:
    """Returns what a variant runs: the checkpoint, or the folder or file that is exported and built from it."""
    if missing := variant.missing_packages:
        raise EngineError(
            f"{variant} needs {' and '.join(missing)}: pip install {' '.join(missing)} (on a Jetson: docs/jetson.md)"
        )
    if variant.worker == "llama.cpp":
        from penguin_engine.bench.llama_cpp import write_gguf

        return write_gguf(model, work / f"decoder-{variant.precision}-{_checkpoint_key(model)}.gguf", variant.precision)
    if variant.profile is None:
        return model
    quantization = None
    if variant.precision in QUANTIZED:
        quantization = Quantization.default(variant.precision, variant.profile == "onnxruntime")
        if variant.profile == "onnxruntime":
            quantization = replace(quantization, keep_head=False)  # as llama.cpp's q4_0 has it
    folder = work / f"{variant.profile}-{variant.precision}-{_checkpoint_key(model)}"
    if not (folder / MANIFEST).is_file():
        dtype = None if quantization else variant.precision
        rounded_alone = variant.precision in ("int8", "int4")  # calibration changes the accuracy, not the speed
        samples = [] if rounded_alone else drawn_samples(_CALIBRATION_SAMPLES)
        export(model, folder, ExportOptions(variant.profile, dtype, quantization=quantization, samples=samples))
    if variant.kind == "tensorrt" and not (folder / PLAN_FOLDER / PLAN_MANIFEST).is_file():
        from penguin_engine.runtimes.tensorrt.build import build

        build(folder, flavour.load(flavour.default()), device, limits=_PLAN_LIMITS)
    return folder


def _checkpoint_key(model: Path) -> str:
    """Returns a hash of the names, sizes and times of a checkpoint's files, so that a retrained one differs."""
    stats = sorted((path.name, path.stat()) for path in model.iterdir() if path.is_file())
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((str(model.resolve()), files)).encode()).hexdigest()[:12]


def decoded_bytes(path: Path, variant: Variant, shape: DecoderShape) -> int:
    """Returns the bytes of weights that one decoding step reads."""
    if variant.worker == "llama.cpp":
        from penguin_engine.bench.llama_cpp import weight_bytes

        return weight_bytes(path)
    if variant.profile is None:
        size = {"float32": 4, "float16": 2, "bfloat16": 2}[variant.precision]
        return size * (shape.linear_weights + shape.head_weights)
    return exported_weight_bytes(path)


def exported_weight_bytes(folder: Path) -> int:
    """Returns the bytes of the weights of an exported decoder and its head."""
    import onnx

    graph = onnx.load(folder / DECODER, load_external_data=False).graph
    weights = [tensor for tensor in graph.initializer if not tensor.name.startswith("rotary_")]
    return sum(int(entry.value) for tensor in weights for entry in tensor.external_data if entry.key == "length")


def limit_fractions(
    measured: dict[str, Any],
    limits: dict[str, float],
    weight_bytes: int,
    shape: DecoderShape,
    encoder: EncoderConfig,
    prompt_tokens: int,
) -> dict[str, float]:
    """Returns the share of memory bandwidth that decoding reaches, and of the matrix rate that the others reach."""
    scores = 2 * (prompt_tokens / 2) * shape.heads * shape.head_dim
    prefill = 2 * (shape.linear_weights + shape.layers * scores)
    fractions = {
        "decode": measured["decode_tokens_per_s"] * weight_bytes / limits["memory_bytes_per_s"],
        "prefill": measured["prefill_tokens_per_s"] * prefill / limits["operations_per_s"],
    }
    if "encode_patches_per_s" in measured:
        operations = _encoder_operations(encoder, shape.hidden)
        fractions["encode"] = measured["encode_patches_per_s"] * operations / limits["operations_per_s"]
    return fractions


def _encoder_operations(config: EncoderConfig, hidden: int) -> float:
    """Returns the operations per patch of a `FRAME`; every four patches become one token."""
    c = config
    attention = c.hidden_size * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    linear = c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size) + c.patch_dim * c.hidden_size
    scores = c.num_hidden_layers * 2 * FRAME.area * c.num_attention_heads * c.head_dim
    return 2 * (linear + scores + (c.hidden_size + hidden) * hidden / 4)


def measure_in_own_process(variant: Variant, settings: WorkerSettings) -> dict[str, Any]:
    """Returns the result of a worker process; raises EngineError if it failed."""
    command = [sys.executable, "-m", "penguin_engine.bench.worker_process", json.dumps(asdict(settings))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{variant} could not be measured: {lines[-1][:300]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Returns facts about the machine, and the versions of the packages that run on it."""
    versions = {}
    for name in ("onnxruntime", "transformers", "tensorrt", "llama_cpp_python"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = {"memory_bytes": memory_bytes, "versions": versions, "device": device, "gpu": device_name(device)}
    return machine_facts() | facts
