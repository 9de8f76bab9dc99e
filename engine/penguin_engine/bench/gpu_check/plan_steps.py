"""Steps with TensorRT for RTX: plans are built here, run, and compared with the torch runtime."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.gpu_check import pycuda_build
from penguin_engine.bench.gpu_check.agreement import Decoded, decode
from penguin_engine.bench.gpu_check.step import Finding, Skipped, Step
from penguin_engine.bench.gpu_check.torch_steps import LARGEST_ERROR, ROOT, need_cuda, random_images, rates_note
from penguin_engine.bench.random_model import config_2b, write_random_checkpoint
from penguin_engine.bench.rates import FRAME, runtime_rates
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.runtimes.base import Runtime, segment_length
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.build import build
from penguin_engine.runtimes.tensorrt.flavour import Flavour
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.checkpoint import load_pretrained
from penguin_models.types import PatchedImage

TINY = ROOT / "models" / "penguin-tiny"
_BUILT, _CHECKPOINT_2B, _BUILT_2B = "tiny", "checkpoint-2b", "2b"
_WITHOUT_GPU = "8.9"
"""Compute capability for which plans are built where none can run."""
_LIMITS = PlanLimits(max_tokens=4096, max_patches=4096)
_LARGEST_ERROR_TINY = 0.03
"""Largest relative difference of the logits of penguin-tiny, which has 5 layers, in float16."""
_DISK_BYTES = 20e9
"""Space for the checkpoint, the export and the plans of the 2B."""


def build_tiny(work: Path) -> Finding:
    """Exports penguin-tiny in float16 and builds its plans, which needs no GPU."""
    rtx = _flavour()
    export(TINY, work / _BUILT, ExportOptions(dtype="float16", samples=drawn_samples(2)))
    capability = _capability()
    return _build(work / _BUILT, rtx, capability if capability in rtx.compute_capabilities else _WITHOUT_GPU)


def run_tiny(work: Path) -> Finding:
    """Runs the plans of penguin-tiny and compares them with the torch runtime."""
    _check_runnable()
    return _compare(work / _BUILT, TINY, "float16", _LARGEST_ERROR_TINY)


def plans_2b(work: Path) -> Finding:
    """Builds and runs plans of random weights in the 2B's shapes, bfloat16."""
    rtx = _check_runnable()
    if (capability := torch.cuda.get_device_capability(0)) < (8, 0):
        raise Skipped(f"bfloat16 needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}")
    if (free := shutil.disk_usage(work).free) < _DISK_BYTES:
        raise Skipped(f"needs {_DISK_BYTES / 1e9:.0f} GB of disk, {work} has {free / 1e9:.0f} GB (TMPDIR chooses it)")
    write_random_checkpoint(work / _CHECKPOINT_2B, config_2b(), torch.bfloat16, "cuda")
    gc.collect()
    torch.cuda.empty_cache()
    export(work / _CHECKPOINT_2B, work / _BUILT_2B, ExportOptions(dtype="bfloat16"))
    built = _build(work / _BUILT_2B, rtx, _capability())
    compared = _compare(work / _BUILT_2B, work / _CHECKPOINT_2B, "bfloat16", LARGEST_ERROR)
    return Finding(f"{built.note}; {compared.note}", built.figures | compared.figures, compared.passed)


def compile_pycuda(work: Path) -> Finding:
    """Compiles pycuda from its source among the wheels, if plans can run here at all."""
    _check_supported()
    if importlib.util.find_spec("pycuda") is not None:
        return Finding("pycuda is installed already")
    return pycuda_build.install(work)


def _check_runnable() -> Flavour:
    rtx = _check_supported()
    if importlib.util.find_spec("pycuda") is None:
        raise Skipped("not run: plans need pycuda, which is not installed")
    return rtx


def _check_supported() -> Flavour:
    """Returns TensorRT for RTX; raises Skipped if it cannot run plans on this GPU."""
    need_cuda()
    rtx = _flavour()
    if (capability := _capability()) not in rtx.compute_capabilities:
        raise Skipped(f"not run: TensorRT for RTX has no kernels for compute capability {capability}")
    return rtx


def _flavour() -> Flavour:
    if flavour.RTX not in flavour.installed():
        raise Skipped("TensorRT for RTX is not installed")
    return flavour.load(flavour.RTX)


def _capability() -> str:
    if not torch.cuda.is_available():
        return _WITHOUT_GPU
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


def _build(folder: Path, rtx: Flavour, capability: str) -> Finding:
    start = time.monotonic()
    plan = build(folder, rtx, targets=[capability], limits=_LIMITS)
    seconds = time.monotonic() - start
    sizes = {name: file.bytes for name, file in plan.files.items()}
    note = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
    note += f", {plan.precision} for {flavour.capability_name(capability)}, built in {seconds:.0f} s by {rtx.title}"
    return Finding(note, {"plan_bytes": sizes, "build_s": seconds, "compute_capability": capability})


def _compare(folder: Path, checkpoint: Path, dtype: str, limit: float) -> Finding:
    """Compares the plans in a folder with the torch runtime on the same weights."""
    free = torch.cuda.mem_get_info()[0]
    plans, _ = open_runtime("tensorrt", folder, "cuda")
    loaded_bytes = free - torch.cuda.mem_get_info()[0]
    model, _ = load_pretrained(checkpoint, dtype, "cuda")
    finding = compare_runtimes(plans, TorchRuntime(model), random_images(model, [FRAME] * 2), limit)
    plans.close()
    note = f"{finding.note}; {loaded_bytes / 2**20:.0f} MiB when loaded"
    return Finding(note, finding.figures | {"gpu_bytes_loaded": loaded_bytes}, finding.passed)


def compare_runtimes(
    ours: Runtime,
    reference: Runtime,
    images: Sequence[PatchedImage],
    limit: float,
    new_tokens: int = 64,
    at_least_s: float = 1.0,
) -> Finding:
    """Compares the logits of a prompt with images and of the tokens after it, and measures the rates of `ours`."""
    expected = _decode(reference, images, new_tokens, None, at_least_s)
    decoded = _decode(ours, images, new_tokens, expected.tokens, at_least_s)
    error, rates = decoded.relative_error(expected), runtime_rates(ours, 512, new_tokens)
    note = f"{decoded.agreement(expected)}; {rates_note(rates, {})}; torch decodes {expected.tokens_per_s:.0f} tokens/s"
    figures = {"relative_error": error, "rates": rates, "torch_decode_tokens_per_s": expected.tokens_per_s}
    return Finding(note, figures, error <= limit)


def _decode(
    runtime: Runtime, images: Sequence[PatchedImage], new_tokens: int, tokens: list[int] | None, at_least_s: float
) -> Decoded:
    ids = np.random.default_rng(0).integers(0, 200, 32).tolist()
    prompt = [ids[:16], *runtime.encode(images), ids[16:]]
    cache = runtime.open_cache(sum(map(segment_length, prompt)) + new_tokens)
    decoded = decode(cache, prompt, new_tokens, tokens, at_least_s)
    cache.close()
    return decoded


STEPS = (
    Step("TensorRT plans of penguin-tiny, built", 75, build_tiny),
    Step("pycuda, compiled", 120, compile_pycuda),
    Step("TensorRT plans of penguin-tiny, run", 75, run_tiny),
    Step("TensorRT plans of the 2B shapes", 480, plans_2b, needs_s=150),
)
"""Most valuable first; the last one gets all the time that is left."""
