"""Quantises a checkpoint and compares the result with full precision: size, logits and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.quantize_comparison import Limits, ScoreChange, compare_logits
from penguin_engine.bench.variants import exported_weight_bytes
from penguin_engine.export.calibration import QUESTION
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.manifest import EMBEDDINGS
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.onnx_session import best_device
from penguin_models.errors import EngineError
from penguin_models.processor import Processor, Visual
from penguin_models.types import FrameKind, PatchedImage, Size, UInt8Array

_CALIBRATION_SAMPLES = 8
_COMPARED_SAMPLES = 4
_QUESTIONS = (QUESTION, "What is in the picture, and where?", "How many things are there?")

Scorer = Callable[[Runtime, Runtime, Processor], dict[str, ScoreChange]]
"""Scores full precision (first) and the variant in an evaluation."""


def quantize_and_compare(
    model: str | Path,
    folder: Path,
    profile: str,
    quantization: Quantization,
    samples: Sequence[UInt8Array] = (),
    vision_dtype: str | None = None,
    score: Scorer | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Exports a checkpoint with a quantised decoder, and compares the export with the checkpoint on torch.

    Calibration and comparison use the samples; without any, drawn images, different for the two purposes.

    Returns:
        Sizes and the verdict as plain types.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        EngineError: the model cannot be exported with these options, or the export cannot be compared here.
    """
    if vision_dtype == "bfloat16" and best_device() == "cpu":
        raise EngineError(
            "ONNX Runtime has no bfloat16 on a CPU, where the variant would be compared; use --vision-dtype float16 "
            "or float32, or a machine with a GPU and onnxruntime-gpu"
        )
    calibration = list(samples) or drawn_samples(_CALIBRATION_SAMPLES)
    compared = list(samples) or drawn_samples(_CALIBRATION_SAMPLES + _COMPARED_SAMPLES)[-_COMPARED_SAMPLES:]
    options = ExportOptions(profile, vision_dtype=vision_dtype, quantization=quantization, samples=calibration)
    manifest = export(model, folder, options)
    variant, processor = open_runtime("onnx", folder)
    full, _ = open_runtime("torch", model, precision="float32")
    shown = [(image, number % 2 == 1) for number, image in enumerate(compared)]
    prompts = [_prompt(processor, *image, question) for image in shown for question in _QUESTIONS]
    comparison = compare_logits(full, variant, prompts)
    if score is not None:
        comparison.scores = score(full, variant, processor)
    return {
        "model": str(model),
        "quantization": manifest.quantization,
        "profile": profile,
        "bytes": {
            "decoder": exported_weight_bytes(folder),
            "embeddings": manifest.files[EMBEDDINGS].bytes,
            "float32_decoder": 4 * (manifest.decoder.linear_weights + manifest.decoder.head_weights),
        },
        "runtimes": {
            side: {"runtime": info.name, "device": info.device, "dtype": info.dtype}
            for side, info in (("full", full.info), ("variant", variant.info))
        },
        "compared_on": "samples" if samples else "drawn images that were not calibrated on",
        "comparison": comparison.judge(limits or Limits()),
    }


def _prompt(
    processor: Processor, image: UInt8Array, as_video: bool, question: str
) -> tuple[list[list[int]], list[PatchedImage]]:
    """Returns text and patches of a question about an image or a video of one frame."""
    size = Size(*image.shape[:2])
    visual = Visual.video(size, [FrameKind.KEY]) if as_video else Visual(size)
    (allocation,) = processor.allocate([visual])
    content = [{"type": "image"}, {"type": "text", "text": question}]
    texts = processor.prompt_segments([{"role": "user", "content": content}])
    return texts, list(processor.patch([image], visual.kinds, allocation))
