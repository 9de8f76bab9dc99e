"""Compares this implementation with the authors' numbers.

Reads a folder of reference vectors (its README describes each file) and checks everything in it: pixels, encoder,
projector, logits, ids, grids, generated tokens, chat template, labels, keyframes and sizes. The result has one row per
case; a row passes if every part of it is within tolerance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from penguin_engine.runtimes.base import interleave, segment_length
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Generation, Sampling, generate
from penguin_models.chat import render
from penguin_models.checkpoint import load_pretrained
from penguin_models.encoder import FrameShape
from penguin_models.errors import MediaError, PenguinError
from penguin_models.media import open_image
from penguin_models.processor import Processor, Visual
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.token_allocation import reference_sizes
from penguin_models.types import Frame, FrameKind, PatchedImage, Size, UInt8Array
from penguin_models.vlm import PenguinVL

TOLERANCES = {"pixels": 1e-5, "encoder": 2e-4, "projector": 2e-4, "logits": 2e-4, "similarity": 1e-6}
"""Largest absolute differences at float32; everything else must be equal."""
_ROUNDED = {"float16": 0.03, "bfloat16": 0.2}
"""Largest absolute differences of features and logits, which go up to 4, if the weights have 16 bits."""
_SUM_TOLERANCE = 1e-6
"""Largest relative difference of pixel sums, which the reference computed in float32."""
_Tensors = dict[str, npt.NDArray[Any]]


@dataclass
class Row:
    """Result of one case."""

    case: str
    errors: dict[str, float] = field(default_factory=dict)  # largest absolute difference of each compared array
    equal: dict[str, bool] = field(default_factory=dict)  # whether each compared discrete result is equal
    note: str = ""  # the first difference, for people
    tolerances: dict[str, float] = field(default_factory=lambda: TOLERANCES)

    @property
    def passed(self) -> bool:
        """Whether everything is within tolerance, which NaN never is."""
        return all(self.equal.values()) and all(error <= self.tolerances[name] for name, error in self.errors.items())

    def to_dict(self) -> dict[str, Any]:
        """Returns the row for JSON, with infinities and NaN as text."""
        errors = {name: value if math.isfinite(value) else str(value) for name, value in self.errors.items()}
        return {"case": self.case, "passed": self.passed, "errors": errors, "equal": self.equal, "note": self.note}

    def check(self, name: str, ours: Any, expected: Any) -> None:
        """Records whether discrete results are equal."""
        same = np.array_equal(ours, expected) if isinstance(expected, np.ndarray) else ours == expected
        self.equal[name] = bool(same)
        if not same and not self.note:
            self.note = f"{name}: {ours!r:.60} is not {expected!r:.60}"

    def measure(self, name: str, ours: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        """Records the largest absolute difference of two arrays."""
        if ours.shape != expected.shape:
            self.errors[name] = math.inf
            self.note = self.note or f"{name}: shape {ours.shape} is not {expected.shape}"
        else:
            self.errors[name] = float(np.abs(ours.astype(np.float64) - expected).max(initial=0.0))


def tolerances(dtype: str) -> dict[str, float]:
    """Returns the largest absolute differences for weights of type "float32", "float16" or "bfloat16"."""
    if dtype == "float32":
        return TOLERANCES
    return TOLERANCES | dict.fromkeys(("encoder", "projector", "logits"), _ROUNDED[dtype])


def run_parity(folder: str | Path, device: str = "cpu", dtype: str = "float32") -> Iterator[Row]:
    """Yields the result of each case in a folder of reference vectors.

    Args:
        folder: The reference vectors.
        device: Device of the model: "cpu", "cuda", "cuda:1", ...
        dtype: Type of its weights, a key of `tolerances`. Generated tokens are compared at float32 only, because
            rounding to 16 bits changes which of two almost equal logits is larger.

    Raises:
        MediaError: the folder is missing, holds nothing to compare, or a file has another form.
        CheckpointError: its checkpoint cannot be loaded, or not on this device.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder of reference vectors")
    missing = missing_files(folder)
    if len(missing) == len(_COMPARISONS):
        raise MediaError(f"{folder} has no reference vectors, which are {', '.join(missing)}")
    comparisons = _COMPARISONS | {"expected.json": partial(_model_cases, device=device, dtype=dtype)}
    for name, compare in comparisons.items():
        if name in missing:
            continue
        try:
            compared = 0
            for row in compare(folder):
                compared += len(row.errors) + len(row.equal)
                yield row
        except PenguinError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OSError, SafetensorError) as err:
            fault = f"{err} is missing" if isinstance(err, KeyError) else str(err)
            raise MediaError(f"{folder / name} does not have the form of reference vectors: {fault}") from err
        if not compared:
            raise MediaError(f"{folder / name} holds nothing to compare")


def missing_files(folder: Path) -> list[str]:
    """Returns the files of reference vectors that a folder does not have, and which are therefore not compared."""
    return [name for name in _COMPARISONS if not (folder / name).is_file()]


def _model_cases(folder: Path, device: str = "cpu", dtype: str = "float32") -> Iterator[Row]:
    model, processor = load_pretrained(folder / "checkpoint", dtype, device)
    cases = _json(folder / "expected.json")
    tensors = load_file(folder / "expected.safetensors")
    for name, case in cases.items():
        if isinstance(case, dict):
            row = Row(name, tolerances=tolerances(dtype))
            expected = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
            images, conversation, kinds = prepare_case(processor, folder / "media", case)
            if kinds is not None:
                row.check("keyframes", kinds, case["frame_types"])
            row.check("text", render(conversation), case["text"])
            _compare_pixels(row, images, expected, cases.get(f"{name}.pixel_sum"))
            _compare_model(row, model, processor, images, conversation, expected)
            yield row


def _compare_pixels(row: Row, images: list[PatchedImage], expected: _Tensors, pixel_sum: float | None) -> None:
    row.check("grids", np.array([[1, *image.grid] for image in images]), expected["grid_sizes"])
    row.check("merge sizes", np.array([image.merge_size for image in images]), expected["merge_sizes"])
    pixels = np.concatenate([image.patches for image in images])
    if "pixel_values" in expected:
        row.measure("pixels", pixels, expected["pixel_values"])
    else:
        row.measure("pixels", pixels[: len(expected["pixel_values_head"])], expected["pixel_values_head"])
    if pixel_sum is not None:
        total = float(pixels.sum(dtype=np.float64))
        row.equal["pixel sum"] = math.isclose(total, pixel_sum, rel_tol=_SUM_TOLERANCE, abs_tol=1e-2)


@torch.inference_mode()
def _compare_model(
    row: Row,
    model: PenguinVL,
    processor: Processor,
    images: list[PatchedImage],
    conversation: list[dict[str, Any]],
    expected: _Tensors,
) -> None:
    patches = torch.cat([torch.from_numpy(image.patches) for image in images])
    features = model.vision_encoder(patches, [FrameShape(image.grid, image.merge_size) for image in images])
    row.measure("encoder", _array(features), expected["encoder"])
    row.measure("projector", _array(model.vision_projector(features)), expected["projector"])
    ids = processor.prompt_ids(conversation, [image.tokens for image in images])
    row.check("ids", ids[None], expected["input_ids"])
    output = model(torch.from_numpy(ids)[None], images, logits_to_keep=expected["logits_last8"].shape[1])
    row.measure("logits", _array(output.logits), expected["logits_last8"])
    if model.dtype != torch.float32:
        return
    runtime, new_tokens = TorchRuntime(model), expected["generated"].shape[1]
    prompt = interleave(processor.prompt_segments(conversation), runtime.encode(images))
    cache = runtime.open_cache(sum(map(segment_length, prompt)) + new_tokens)
    generation = Generation()
    for _ in generate(cache, cache.append(prompt), processor, Sampling(max_new_tokens=new_tokens), generation):
        pass
    ours = generation.ids + [processor.end_token_ids[0]] * (generation.ended_by == "end")
    row.check("generated", np.array([ours]), expected["generated"])


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    return tensor.float().cpu().numpy()


def prepare_case(
    processor: Processor, media: Path, case: dict[str, Any]
) -> tuple[list[PatchedImage], list[dict[str, Any]], list[int] | None]:
    """Returns patches and conversation of a case in `expected.json`, and our keyframe labels if it is a video."""
    spec, budget = case["case"], case["max_tokens"]
    question = {"type": "text", "text": spec["q"]}
    if spec["kind"] == "image":
        frames = [_read(media / name, spec.get("crop")) for name in spec["files"]]
        visuals = [Visual(Size(*frame.shape[:2])) for frame in frames]
        allocations = processor.allocate(visuals, budget, "reference")
        images = [
            image
            for frame, visual, allocation in zip(frames, visuals, allocations, strict=True)
            for image in processor.patch([frame], visual.kinds, allocation)
        ]
        return images, [{"role": "user", "content": [{"type": "image"}] * len(frames) + [question]}], None
    clip = media / spec["file"]
    paths = sorted(clip.iterdir())[:: spec.get("stride", 1)] if clip.is_dir() else []
    if not paths:
        raise MediaError(f"{clip} is not a folder of frames, or is empty")
    frames = [_read(path) for path in paths]
    policy = ReferencePolicy()
    kinds = [policy.observe(Frame(frame, i)) for i, frame in enumerate(frames)]
    visual = Visual.video(Size(*frames[0].shape[:2]), kinds)
    (allocation,) = processor.allocate([visual], budget, "reference")
    images = list(processor.patch(frames, kinds, allocation))
    times = [i / spec.get("fps", 1) for i in range(len(frames))]
    video = {"type": "video", "num_frames": len(frames), "timestamps": times}
    return images, [{"role": "user", "content": [video, question]}], [int(kind) for kind in kinds]


def _chat_template(folder: Path) -> Iterator[Row]:
    row = Row("chat template")
    for number, case in enumerate(_json(folder / "chat_template.json")):
        ours = render(case["conversation"], case["add_generation_prompt"], think=case["add_think_prompt"])
        row.check(f"conversation {number}", ours, case["text"])
    yield row


def _training_labels(folder: Path) -> Iterator[Row]:
    processor = Processor.from_pretrained(folder / "checkpoint")
    row = Row("training labels")
    for number, case in enumerate(_json(folder / "labels.json")):
        ids, labels = processor.training_ids(case["messages"], [math.prod(grid) for grid in case["visual_grid"]])
        row.check(f"ids {number}", ids.tolist(), case["input_ids"])
        row.check(f"labels {number}", labels.tolist(), case["labels"])
    yield row


def _keyframe_labels(folder: Path) -> Iterator[Row]:
    for run in _json(folder / "tra_labels.json")["runs"]:
        row, policy = Row(f"keyframes, {run['source']} every {run['stride']}"), ReferencePolicy()
        kinds, similarities = [], []
        for index, name in enumerate(run["files"]):
            kinds.append(policy.observe(Frame(_read(folder / "media" / run["source"] / name), index)))
            similarities.append(policy.similarity)
        row.check("labels", kinds, run["frame_types"])
        row.measure("similarity", np.array(similarities), np.array(run["similarity_to_last_keyframe"]))
        yield row


def _sizes(folder: Path) -> Iterator[Row]:
    cases = _json(folder / "tra_sizes.json")
    row = Row(f"{len(cases)} allocations")
    for case in cases:
        kinds = [FrameKind(kind) for kind in case["frame_types"]]
        source_size = Size(case["height"], case["width"])
        ours = reference_sizes(source_size, kinds, case["merge_size"], case["min_tokens"], case["max_tokens"])
        expected = (case["key_hw"], case["intermediate_hw"] or list(ours.intermediate), case["total_tokens"])
        same = (list(ours.key), list(ours.intermediate), ours.total_tokens(kinds)) == expected
        row.equal["sizes"] = same and row.equal.get("sizes", True)
        if not same:
            row.note = row.note or f"{source_size}, {len(kinds)} frames: {ours} is not {expected}"
    yield row


def _read(path: Path, crop: list[int] | None = None) -> UInt8Array:
    with open_image(path) as image:
        return np.array((image.crop(tuple(crop)) if crop else image).convert("RGB"))  # type: ignore[arg-type]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


_COMPARISONS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "expected.json": _model_cases,
    "chat_template.json": _chat_template,
    "labels.json": _training_labels,
    "tra_labels.json": _keyframe_labels,
    "tra_sizes.json": _sizes,
}
