"""Quantises a checkpoint and reports size and errors; compares logits and scores with full precision if asked to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.quantize_comparison import Limits, ScoreChange, compare_logits
from penguin_engine.bench.variants import exported_weight_bytes
from penguin_engine.export.calibration import QUESTION
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.manifest import EMBEDDINGS
from penguin_engine.export.progress import Progress, silent
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


@dataclass(frozen=True)
class Comparing:
    """How a variant is compared with full precision."""

    limits: Limits = field(default_factory=Limits)
    score: Scorer | None = None  # evaluates both; only logits are compared without it


def quantize_and_report(
    model: str | Path,
    folder: Path,
    options: ExportOptions,
    samples: Sequence[UInt8Array] = (),
    calibrated: bool = True,
    comparing: Comparing | None = None,
    show: Progress = silent,
) -> dict[str, Any]:
    """Exports a checkpoint with a quantised decoder, and with `comparing`, compares it with the checkpoint on torch.

    Calibration (if `calibrated`) and comparison use the samples; without any, drawn images, different for the two
    purposes. A comparison needs memory for the checkpoint in float32.

    Returns:
        Sizes, errors of the weights, and the comparison with its verdict, or None, as plain types.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        EngineError: the model cannot be exported with these options, or the export cannot be compared here.
    """
    if comparing and options.vision_dtype == "bfloat16" and best_device() == "cpu":
        raise EngineError(
            "ONNX Runtime has no bfloat16 on a CPU, where the variant would be compared; use --vision-dtype float16 "
            "or float32, or a machine with a GPU and onnxruntime-gpu"
        )
    calibration = (list(samples) or drawn_samples(_CALIBRATION_SAMPLES)) if calibrated else []
    manifest = export(model, folder, replace(options, samples=calibration), show)
    report = {
        "model": str(model),
        "quantization": manifest.quantization,
        "profile": manifest.profile,
        "bytes": {
            "decoder": exported_weight_bytes(folder),
            "embeddings": manifest.files[EMBEDDINGS].bytes,
            "float32_decoder": 4 * (manifest.decoder.linear_weights + manifest.decoder.head_weights),
        },
        "activation_ranges": manifest.activation_ranges,
    }
    compared = _compare(model, folder, samples, comparing, show) if comparing else {"comparison": None}
    return report | compared


def _compare(
    model: str | Path, folder: Path, samples: Sequence[UInt8Array], comparing: Comparing, show: Progress
) -> dict[str, Any]:
    shown = list(samples) or drawn_samples(_CALIBRATION_SAMPLES + _COMPARED_SAMPLES)[-_COMPARED_SAMPLES:]
    variant, processor = open_runtime("onnx", folder)
    full, _ = open_runtime("torch", model, precision="float32")
    prompts = [
        _prompt(processor, image, number % 2 == 1, question)
        for number, image in enumerate(shown)
        for question in _QUESTIONS
    ]
    comparison = compare_logits(full, variant, prompts, show=show)
    if comparing.score is not None:
        comparison.scores = comparing.score(full, variant, processor)
    return {
        "runtimes": {
            side: {"runtime": info.name, "device": info.device, "dtype": info.dtype}
            for side, info in (("full", full.info), ("variant", variant.info))
        },
        "compared_on": "samples" if samples else "drawn images that were not calibrated on",
        "comparison": comparison.judge(comparing.limits),
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
