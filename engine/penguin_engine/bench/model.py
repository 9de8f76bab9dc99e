"""Measurements of the model and of key-frame policies. Figures depend on the machine, so none of this is a test.

Shapes of the released 2B are measured with random weights and few layers; the time of a full model follows from the
time per layer, and results say so (`extrapolated_to_layers`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from penguin_engine.bench.event_clips import EventClip
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.config import EncoderConfig, PenguinConfig
from penguin_models.encoder import FrameShape, PenguinEncoder
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import Frame, FrameKind, Size
from penguin_models.vlm import PenguinVL

REFERENCE_BYTES_PER_PATCH = 174_000
"""What the released encoder keeps per patch: a KV cache it never reads and every layer's hidden states."""
REFERENCE_FRAMES_PER_S = 4.0
"""The released key-frame code at 1920x1080 on two cores."""
FULL_HD = Size(1080, 1920)
BUDGET_TOKENS = 10_240
FULL_LAYERS = 28
"""Of the encoder and of the 2B decoder."""
DECODER_2B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


def encoder_memory(layers: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Peak memory beyond the weights while a video fills the whole budget of 10,240 visual tokens.

    The encoder has the released width; its memory does not depend on the number of layers, of which it holds none's
    output.
    """
    config = replace(EncoderConfig(), num_hidden_layers=layers)
    encoder = PenguinEncoder(config).to(dtype).eval()
    frame = FrameShape(Size(32, 40), 2)  # 448x560 pixels, 320 tokens
    frames = [frame] * (BUDGET_TOKENS * 4 // frame.patches)
    patches = sum(f.patches for f in frames)
    pixels = torch.randn(patches, config.patch_dim)
    with torch.inference_mode():
        encoder(pixels[: frame.patches], frames[:1])  # libraries allocate their workspaces once
        start = _reset_peak_memory()
        seconds = _timed(lambda: encoder(pixels, frames))
        peak = _peak_memory() - start
    return {
        "visual_tokens": patches // 4,
        "patches": patches,
        "layers": layers,
        "dtype": str(dtype).removeprefix("torch."),
        "peak_bytes": peak,
        "bytes_per_patch": peak / patches,
        "reference_bytes_per_patch": REFERENCE_BYTES_PER_PATCH,
        "activations_of_full_length": peak / (patches * config.hidden_size * dtype.itemsize),
        "seconds": seconds,
    }


def model_speed(model: PenguinVL, prompt_tokens: int = 512, new_tokens: int = 32) -> dict[str, float]:
    """Encode, prefill and decode rates of a model on its device."""
    runtime, config = TorchRuntime(model), model.config.encoder
    frame = FrameShape(Size(32, 40), 2)
    pixels = torch.randn(frame.patches * 2, config.patch_dim)
    with torch.inference_mode():
        model.vision_encoder(pixels, [frame] * 2)
        encode = _timed(lambda: model.vision_encoder(pixels, [frame] * 2))
    ids = np.random.default_rng(0).integers(0, model.config.image_token_id, prompt_tokens).tolist()
    cache = runtime.open_cache(prompt_tokens + new_tokens)

    def prefill() -> None:
        cache.truncate(0)
        cache.append([ids])

    def decode() -> None:
        cache.truncate(prompt_tokens)
        for token in range(new_tokens):
            cache.append([[token]])

    prefill()
    prefill_s, decode_s = _timed(prefill), _timed(decode)
    cache.close()
    return {
        "encode_patches_per_s": 2 * frame.patches / encode,
        "prefill_tokens_per_s": prompt_tokens / prefill_s,
        "decode_tokens_per_s": new_tokens / decode_s,
    }


def speed_at_2b_shapes(dtype: torch.dtype = torch.float32, depths: tuple[int, int] = (1, 3)) -> dict[str, Any]:
    """Rates of a full 2B model, from random weights at two small depths.

    The time of one layer is the difference between the depths; embedding, head and projector count once.
    """
    rates = [model_speed(_random_2b(depth, dtype)) for depth in depths]
    result: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "measured_layers": list(depths),
        "extrapolated_to_layers": FULL_LAYERS,
    }
    for name in rates[0]:
        shallow, deep = (1 / rate[name] for rate in rates)
        per_layer = (deep - shallow) / (depths[1] - depths[0])
        result[name] = 1 / (shallow + per_layer * (FULL_LAYERS - depths[0]))
    return result


def policy_speed(policy: KeyframePolicy | None = None, size: Size = FULL_HD, seconds: float = 10.0) -> dict[str, Any]:
    """Frames per second that a key-frame policy labels, and the memory it needs while it does."""
    policy = policy or ReferencePolicy()
    random = np.random.default_rng(0)
    base = np.kron(random.integers(0, 240, (size.height // 20, size.width // 20, 3)), np.ones((20, 20, 1)))
    # A still camera with sensor noise: every frame must be compared in full.
    scene = np.pad(base, ((0, size.height - base.shape[0]), (0, size.width - base.shape[1]), (0, 0)), mode="edge")
    frames = [Frame((scene + random.integers(0, 12, scene.shape)).astype(np.uint8), i) for i in range(4)]
    for frame in frames * 5:  # allocators settle
        policy.observe(frame)
    start_memory, count = _status("VmRSS"), 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        policy.observe(frames[count % 4])
        count += 1
    return {
        "policy": type(policy).__name__,
        "size": f"{size.width}x{size.height}",
        "frames": count,
        "frames_per_s": count / elapsed,
        "reference_frames_per_s": REFERENCE_FRAMES_PER_S,
        "growth_bytes": _status("VmRSS") - start_memory,
    }


class Spanned(Protocol):
    """Something that happens, in seconds of the clip."""

    @property
    def start_s(self) -> float:
        """When it begins."""
        ...

    @property
    def end_s(self) -> float:
        """When it is over."""
        ...


class WatchedClip(Protocol):
    """Frames of a still or moving camera, and what happens before it."""

    seconds: float

    @property
    def events(self) -> Sequence[Spanned]:
        """From when to when something happens."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """The frames in order."""
        ...


def drawn_clips(clips: int = 8, seconds: float = 60.0) -> Iterator[WatchedClip]:
    """Clips with events and as many calm ones: only noise, flicker and slow changes of light."""
    return (EventClip(1000 * calm + seed, seconds, calm=bool(calm)) for seed in range(clips) for calm in (0, 1))


def policy_recall(make: Callable[[], KeyframePolicy], clips: Iterable[WatchedClip]) -> dict[str, Any]:
    """Events that a policy notices, and key frames where nothing happened.

    An event is noticed when a key frame falls between its start and 1 s after its end; the recall is None where
    nothing happened at all.
    """
    noticed: list[bool] = []
    false, total_s = 0, 0.0
    timeline: list[dict[str, Any]] = []
    for clip in clips:
        policy = make()
        keys = [frame.stamp_ns * 1e-9 for frame in clip if policy.observe(frame) == FrameKind.KEY][1:]
        spans = [(event.start_s, event.end_s + 1.0) for event in clip.events]
        noticed += [any(start <= key <= end for key in keys) for start, end in spans]
        false += sum(not any(start <= key <= end for start, end in spans) for key in keys)
        total_s += clip.seconds
        timeline.append({"events": spans, "key_frames": keys})
    return {
        "events": len(noticed),
        "recall": sum(noticed) / len(noticed) if noticed else None,
        "false_key_frames_per_min": false / (total_s / 60),
        "timeline": timeline,
    }


def _random_2b(layers: int, dtype: torch.dtype) -> PenguinVL:
    decoder = DECODER_2B | {"num_hidden_layers": layers}
    config = PenguinConfig.create(replace(EncoderConfig(), num_hidden_layers=layers), decoder, image_token_id=151_669)
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return PenguinVL(config).eval()
    finally:
        torch.set_default_dtype(previous)


def _timed(run: Callable[[], Any], at_least_s: float = 1.0) -> float:
    """Seconds of one run: the median of as many as fill the time."""
    times: list[float] = []
    while sum(times) < at_least_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _reset_peak_memory() -> int:
    """Forgets the peak; resident memory now, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_memory() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in _lines("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
