"""Memory of the encoder and rates of the model. Figures depend on the machine, so none of this is a test.

The released 2B is measured with random weights and few layers; the time of the full model follows from the time per
layer, and results name the depth (`extrapolated_to_layers`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from penguin_engine.bench.machine import peak_bytes, reset_peak_bytes, resident_bytes, timed
from penguin_engine.bench.random_model import ENCODER_2B, LAYERS_2B, config_2b, random_model
from penguin_engine.bench.rates import FRAME, runtime_rates
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.encoder import FrameShape, PenguinEncoder

REFERENCE_BYTES_PER_PATCH = 174_000
"""What the released encoder stores per patch: a KV cache it never reads and every layer's hidden states."""
BUDGET_TOKENS = 10_240


def encoder_memory(layers: int = 2, dtype: torch.dtype = torch.float32, tokens: int = BUDGET_TOKENS) -> dict[str, Any]:
    """Returns peak memory, beyond weights and pixels, while a video that fills the visual token budget is encoded.

    The encoder has the released width. Memory does not depend on depth, because no layer's output is stored.
    """
    config = replace(ENCODER_2B, num_hidden_layers=layers)
    encoder = PenguinEncoder(config).to(dtype).eval()
    frame = FrameShape(FRAME, 2)
    frames = [frame] * (tokens * 4 // frame.patches)
    patches = sum(f.patches for f in frames)
    pixels = torch.randn(patches, config.patch_dim)
    with torch.inference_mode():
        encoder(pixels[: frame.patches], frames[:1])  # libraries allocate their workspaces once
        reset_peak_bytes()
        start = resident_bytes()
        seconds = timed(lambda: encoder(pixels, frames))
        peak = peak_bytes() - start
    return {
        "visual_tokens": patches // 4,
        "patches": patches,
        "layers": layers,
        "dtype": str(dtype).removeprefix("torch."),
        "peak_bytes": peak,
        "bytes_per_patch": peak / patches,
        "reference_bytes_per_patch": REFERENCE_BYTES_PER_PATCH,
        "seconds": seconds,
    }


def speed_at_2b_shapes(dtype: torch.dtype = torch.float32, depths: tuple[int, int] = (1, 3)) -> dict[str, Any]:
    """Returns rates of a full 2B model, extrapolated from random weights at two small depths."""
    rates = [runtime_rates(TorchRuntime(random_model(config_2b(depth), dtype))) for depth in depths]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "measured_layers": list(depths),
        "extrapolated_to_layers": LAYERS_2B,
        **{name: extrapolate_rate((rates[0][name], rates[1][name]), depths) for name in rates[0]},
    }


def extrapolate_rate(rates: tuple[float, float], depths: tuple[int, int], layers: int = LAYERS_2B) -> float:
    """Returns the rate of a model of `layers` layers from the rates at two depths.

    The time of one layer follows from the difference; embedding, head and projector count once.
    """
    shallow_s, deep_s = (1 / rate for rate in rates)
    layer_s = (deep_s - shallow_s) / (depths[1] - depths[0])
    return 1 / (shallow_s + layer_s * (layers - depths[0]))
