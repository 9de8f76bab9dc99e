"""Quantises a checkpoint and measures the result against full precision: size, speed, logits, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.quantize_comparison import Limits, compare, with_scores
from penguin_engine.bench.variants import exported_weight_bytes
from penguin_engine.bench.worker_process import timed
from penguin_engine.export.calibration import QUESTION
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.manifest import EMBEDDINGS, PROFILES
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.errors import EngineError
from penguin_models.processor import Processor, Visual
from penguin_models.types import FrameKind, PatchedImage, Size, UInt8Array

FULL, VARIANT = "full precision", "variant"
_CALIBRATION_SAMPLES = 8
_COMPARED = 4
_SPEED_TOKENS = 16
_QUESTIONS = (QUESTION, "What is in the picture, and where?", "How many things are there?")


class Scorer(Protocol):
    """Scores runtimes in an evaluation; called with `FULL` first, then with `VARIANT`."""

    def __call__(self, which: str, runtime: Runtime, processor: Processor) -> Mapping[str, float]:
        """Scores by name, from 0 to 1 each."""
        ...

    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """95 % intervals of variant minus full precision over the same questions, of scores where they are known."""
        ...


def quantize_and_compare(
    model: str | Path,
    folder: Path,
    profile: str,
    quantization: Quantization,
    samples: Sequence[UInt8Array] = (),
    questions: Sequence[str] = (),
    vision_dtype: str | None = None,
    score: Scorer | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Exports a checkpoint with a quantised decoder, and compares it with the checkpoint on torch.

    Args:
        model: checkpoint.
        folder: where the export goes.
        profile: of the export.
        quantization: which layers, and how.
        samples: images to calibrate and compare with; drawn ones if empty, others for each.
        questions: asked in the comparison.
        vision_dtype: of encoder and projector; 16-bit if None.
        score: an evaluation of full precision and of the variant; none if None.
        limits: when the variant is good.

    Returns:
        Sizes, speeds and the comparison, as plain types. Speeds are left out where they are not those of one device,
        and of a profile that is for TensorRT, which is compared on ONNX Runtime.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        EngineError: it cannot be exported so, or not be compared here, or the scores do not go together.
    """
    _check_comparable(vision_dtype)
    calibrated_on = list(samples) or drawn_samples(_CALIBRATION_SAMPLES)
    compared_on = list(samples) or drawn_samples(_CALIBRATION_SAMPLES + _COMPARED)[-_COMPARED:]
    options = ExportOptions(profile, vision_dtype=vision_dtype, quantization=quantization, samples=calibrated_on)
    manifest = export(model, folder, options)
    variant, processor = open_runtime("onnx", folder)
    full, _ = open_runtime("torch", model, precision="float32")
    prompts = [
        _prompt(processor, image, number, question)
        for number, image in enumerate(compared_on)
        for question in (questions or _QUESTIONS)
    ]
    comparison = compare(full, variant, prompts)
    if score is not None:
        of_full, of_variant = score(FULL, full, processor), score(VARIANT, variant, processor)
        with_scores(comparison, of_full, of_variant, score.intervals())
    shape, no_speed = manifest.decoder, _no_speed(profile, full, variant)
    return {
        "model": str(model),
        "quantization": manifest.quantization,
        "profile": profile,
        "bytes": {
            "decoder": exported_weight_bytes(folder),
            "embeddings": manifest.files[EMBEDDINGS].bytes,
            "float32_decoder": 4 * (shape.linear_weights + shape.head_weights),
        },
        "runtimes": {"full": _described(full), "variant": _described(variant)},
        "decode_tokens_per_s": None if no_speed else {"full": _decode_rate(full), "variant": _decode_rate(variant)},
        "no_speed": no_speed,
        "compared_on": "given images" if samples else "drawn images that were not calibrated on",
        "comparison": comparison.to_dict(limits),
    }


def _check_comparable(vision_dtype: str | None) -> None:
    """Raises EngineError where ONNX Runtime here could not run the variant."""
    if vision_dtype != "bfloat16":
        return
    from penguin_engine.runtimes.onnx_session import best_device

    if best_device() == "cpu":
        raise EngineError(
            "ONNX Runtime has no bfloat16 on a CPU, where the variant would be compared; take --vision-dtype float16 "
            "or float32, or a machine with a GPU and onnxruntime-gpu"
        )


def _described(runtime: Runtime) -> dict[str, str]:
    info = runtime.info
    return {"runtime": info.name, "device": info.device, "dtype": info.dtype}


def _no_speed(profile: str, full: Runtime, variant: Runtime) -> str | None:
    """Why speeds are not compared; None if they are."""
    if not PROFILES[profile].contrib:
        return f"the profile {profile} is for TensorRT, and ONNX Runtime's speed says nothing about it"
    if full.info.device != variant.info.device:
        return f"full precision ran on {full.info.device}, the variant on {variant.info.device}"
    return None


def _prompt(
    processor: Processor, image: UInt8Array, number: int, question: str
) -> tuple[list[list[int]], list[PatchedImage]]:
    """A question about an image, every second time shown as a frame of a video."""
    size = Size(*image.shape[:2])
    visual = Visual.video(size, [FrameKind.KEY]) if number % 2 else Visual(size)
    (allocation,) = processor.allocate([visual])
    content = [{"type": "image"}, {"type": "text", "text": question}]
    parts = processor.prompt_segments([{"role": "user", "content": content}])
    return parts, list(processor.patch([image], visual.kinds, allocation))


def _decode_rate(runtime: Runtime) -> float:
    cache = runtime.open_cache(64 + _SPEED_TOKENS)
    cache.append([list(range(64))])

    def decode() -> None:
        cache.truncate(64)
        for token in range(_SPEED_TOKENS):
            cache.append([[token]])

    decode()
    rate = _SPEED_TOKENS / timed(decode, at_least_s=1.0)
    cache.close()
    return rate
