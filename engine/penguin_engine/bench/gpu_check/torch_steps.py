"""Steps with the torch runtime: parity on the GPU, CUDA graphs, packed attention, rates at the 2B's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from penguin_engine.bench.gpu_check.agreement import decode
from penguin_engine.bench.gpu_check.machine_step import machine
from penguin_engine.bench.gpu_check.step import Finding, Skipped, Step
from penguin_engine.bench.limits import machine_limits
from penguin_engine.bench.machine import timed
from penguin_engine.bench.parity import run_parity, tolerances
from penguin_engine.bench.random_model import config_2b, random_model
from penguin_engine.bench.rates import runtime_rates
from penguin_engine.bench.variants import limit_fractions
from penguin_engine.export.checkpoint_to_onnx import decoder_shape
from penguin_engine.runtimes.torch import TorchCache, TorchRuntime
from penguin_engine.runtimes.torch_graphs import FIRST_ROWS, CudaGraphRecorder, Recorder, Work
from penguin_models import encoder
from penguin_models.types import PatchedImage, Size
from penguin_models.vlm import PenguinVL

ROOT = Path(__file__).resolve().parents[4]
"""The clone: the check is not for an installed package."""
REFERENCE = ROOT / "tests" / "data" / "reference"
LARGEST_ERROR = 0.1
"""Largest relative difference of logits or visual tokens of random weights in the 2B's shapes, bfloat16.

Rounding alone, in another order, gave 0.7 % of the logits after 2 layers and 1.4 % after 6; faults give about 100 %.
"""
FRAMES = (Size(34, 46),) * 4 + (Size(32, 40),) * 4 + (Size(16, 20),) * 8
"""Patches of frames of several sizes: 640x480 pixels and smaller."""


def parity_float32(work: Path) -> Finding:
    """Compares with the authors' numbers, on the CPU if there is no GPU."""
    return _parity("cuda" if torch.cuda.is_available() else "cpu", "float32")


def parity_16_bits(work: Path) -> Finding:
    """Compares with the authors' numbers in 16 bits, which uses other kernels."""
    need_cuda()
    found = [_parity("cuda", dtype) for dtype in ("bfloat16", "float16")]
    figures = {name: figure for finding in found for name, figure in finding.figures.items()}
    return Finding("; ".join(finding.note for finding in found), figures, all(finding.passed for finding in found))


def _parity(device: str, dtype: str) -> Finding:
    rows = list(run_parity(REFERENCE, device, dtype))
    failed = [row for row in rows if not row.passed]
    largest = {
        name: max(row.errors[name] for row in rows if name in row.errors) for name in ("encoder", "projector", "logits")
    }
    figures = {dtype: {"device": device, "largest_errors": largest, "cases": [row.to_dict() for row in rows]}}
    note = f"{dtype} on {device}: {len(rows) - len(failed)} of {len(rows)} cases agree, logits differ by at most "
    note += f"{largest['logits']:.1e} (limit {tolerances(dtype)['logits']:g})"
    if failed:
        note += f"; {failed[0].case}: {failed[0].note or 'numbers differ'}"
    return Finding(note, figures, not failed)


def decode_graphs(work: Path) -> Finding:
    """Compares decoding with CUDA graphs to decoding without."""
    need_cuda()
    model = random_2b()
    return compare_decoding(model, CudaGraphRecorder(model.device))


@torch.inference_mode()
def compare_decoding(
    model: PenguinVL, record: Recorder, new_tokens: int = 128, at_least_s: float = 1.0, limit: float = LARGEST_ERROR
) -> Finding:
    """Compares recorded steps with the same steps unrecorded and with a cache that grows; a second step is recorded."""
    prompt = [np.random.default_rng(0).integers(0, 200, FIRST_ROWS - new_tokens // 2).tolist()]
    dtype, tokens = str(model.dtype).removeprefix("torch."), None
    decoded = {}
    recorders: dict[str, Recorder | None] = {"eager": None, "fixed shapes": _unrecorded, "graphs": record}
    for name, recorder in recorders.items():
        cache = TorchCache(model, FIRST_ROWS + new_tokens, dtype, recorder)
        decoded[name] = decode(cache, prompt, new_tokens, tokens, at_least_s)
        cache.close()
        tokens = decoded["eager"].tokens
    graphs, eager = decoded["graphs"], decoded["eager"]
    errors = {name: graphs.relative_error(other) for name, other in decoded.items() if name != "graphs"}
    rates = {name: run.tokens_per_s for name, run in decoded.items()}
    note = f"{graphs.agreement(eager)}; {rates['graphs']:.0f} tokens/s, {rates['eager']:.0f} without"
    figures = {"relative_errors": errors, "tokens_per_s": rates, "same_tokens": graphs.same_tokens(eager)}
    return Finding(note, figures | _peak(), max(errors.values()) <= limit)


def _unrecorded(work: Work) -> Work:
    return work


def packed_attention(work: Path) -> Finding:
    """Compares the encoder with packed attention to attention in runs of equal frames."""
    need_cuda()
    model = random_2b()
    if not encoder.packed_attention_available(torch.empty(0, dtype=model.dtype, device=model.device)):
        raise Skipped("packed attention needs compute capability 8.0 and torch 2.10 or newer")
    return compare_attention(model, FRAMES)


@torch.inference_mode()
def compare_attention(
    model: PenguinVL, frames: Sequence[Size], at_least_s: float = 1.0, limit: float = LARGEST_ERROR
) -> Finding:
    """Compares encoding with packed attention, if the device has it, to encoding without."""
    images = random_images(model, frames)
    patches = sum(grid.area for grid in frames)
    tokens, rates, peaks = {}, {}, {}

    def encode() -> torch.Tensor:
        encoded = torch.cat(model.encode(images))
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return encoded

    for name, available in (("packed", encoder.packed_attention_available), ("runs", lambda like: False)):
        with patch.object(encoder, "packed_attention_available", available):
            _reset_peak()
            tokens[name] = encode().float()
            rates[name] = patches / timed(encode, at_least_s)
            peaks[name] = _peak()
    error = float(((tokens["packed"] - tokens["runs"]).norm(dim=1) / tokens["runs"].norm(dim=1)).max())
    note = f"visual tokens differ by {100 * error:.2g} %; {rates['packed']:.0f} patches/s, {rates['runs']:.0f} in runs"
    figures = {"relative_error": error if np.isfinite(error) else None, "patches_per_s": rates, "peaks": peaks}
    return Finding(note, figures, error <= limit)


def rates_2b(work: Path) -> Finding:
    """Measures encoding, prefill and decoding at the 2B's shapes."""
    need_cuda()
    return measure_rates(random_2b(), 2048, 128, 12)


def measure_rates(model: PenguinVL, prompt_tokens: int, new_tokens: int, frames: int) -> Finding:
    """Measures rates as shares of the device's limits, and the peak of its memory."""
    device, dtype = str(model.device), str(model.dtype).removeprefix("torch.")
    shape = decoder_shape(model)[0]
    _reset_peak()
    rates = runtime_rates(TorchRuntime(model), prompt_tokens, new_tokens, frames)
    peak = _peak()
    limits = machine_limits(device, dtype)
    weight_bytes = model.language_model.lm_head.weight.element_size() * (shape.linear_weights + shape.head_weights)
    shares = limit_fractions(rates, limits, weight_bytes, shape, model.config.encoder, prompt_tokens)
    note = rates_note(rates, shares) + (f"; peak {peak['peak_gpu_bytes'] / 2**30:.1f} GiB" if peak else "")
    return Finding(note, {"rates": rates, "limits": limits, "shares": shares, "weight_bytes": weight_bytes, **peak})


def rates_note(rates: dict[str, float], shares: dict[str, float]) -> str:
    """Returns rates with their shares of the limits, for people."""
    units = {"encode": "patches", "prefill": "tokens", "decode": "tokens"}
    return ", ".join(
        f"{name} {rates[f'{name}_{unit}_per_s']:.0f} {unit}/s" + (f" ({shares[name]:.2f})" if name in shares else "")
        for name, unit in units.items()
    )


def need_cuda() -> None:
    """Raises Skipped if torch finds no GPU."""
    if not torch.cuda.is_available():
        raise Skipped("no CUDA GPU")


def random_2b() -> PenguinVL:
    """Returns random weights in the 2B's shapes, bfloat16, drawn on the GPU."""
    return random_model(config_2b(), torch.bfloat16, "cuda")


def random_images(model: PenguinVL, frames: Sequence[Size]) -> list[PatchedImage]:
    """Returns random patches of frames."""
    random, width = np.random.default_rng(0), model.config.encoder.patch_dim
    return [PatchedImage(random.standard_normal((grid.area, width), dtype=np.float32), grid, 2) for grid in frames]


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> dict[str, int]:
    """Returns the most memory that torch has allocated on the GPU."""
    return {"peak_gpu_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}


STEPS = (
    Step("machine", 60, machine),
    Step("parity in float32", 60, parity_float32),
    Step("parity in 16 bits", 60, parity_16_bits),
    Step("CUDA graphs, 2B shapes", 60, decode_graphs),
    Step("packed attention, 2B shapes", 60, packed_attention),
    Step("rates, 2B shapes", 90, rates_2b),
)
"""Most valuable first."""
