"""Measures what a model's linear layers read and write on sample data.

The largest values decide whether float16, which ends at 65504, is possible. In a float16 graph, linear layers (also the
patch embedding) read and write float16, as do products of queries and keys; the residual stream, norms, rotary
embedding and softmax are float32 in every graph. The product inside a gated feed-forward layer can be divided by a
power of two without loss; any other value that is too large is an error.

The mean square of each input tells quantisation which rounding errors matter: it is the diagonal of the Hessian of the
layer's squared error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penguin_engine.export.graphs.weights import FLOAT16_LIMIT
from penguin_engine.export.progress import Phase, Progress, silent
from penguin_engine.export.streamed_model import blocks
from penguin_models.encoder import PatchEmbeddings
from penguin_models.errors import EngineError
from penguin_models.processor import Processor, Visual
from penguin_models.types import Float32Array, FrameKind, PatchedImage, Size, UInt8Array
from penguin_models.vlm import PenguinVL

HEADROOM = 4.0
"""Factor by which other data may exceed the samples."""
QUESTION = "Describe what you see in detail."
SCORES = "scores"
"""Last part of the names that stand for an attention's queries and keys (inputs) and their products (outputs)."""
VISUAL_TOKENS = "vision_projector.readout.2"
"""The layer that outputs visual tokens."""
_NORMS = ("q_norm", "k_norm")
_BATCH_PATCHES = 4096
"""Patches that are encoded together, which bounds memory; one image may exceed it."""
_Prompt = tuple[npt.NDArray[np.int64], PatchedImage]
"""Token ids and the image."""


@dataclass(frozen=True)
class Calibration:
    """Value ranges of a model's linear layers by name; names that end in `SCORES` have upper bounds instead."""

    inputs: dict[str, float]  # largest absolute input
    outputs: dict[str, float]  # largest absolute output
    mean_squares: dict[str, Float32Array] = field(default_factory=dict)  # mean square of each input, float32 [in]

    def largest(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the largest absolute value that each of these layers reads or writes."""
        return {name: max(self.inputs[name], self.outputs[name]) for name in names}

    def shrink_factors(self, prefix: str) -> dict[str, float]:
        """Returns the powers of two by which inputs of down projections are divided so that they fit float16.

        The prefix, "vision_" or "language_model.", selects the layers that will be float16.

        Raises:
            EngineError: A value of another layer does not fit float16.
        """
        limit = FLOAT16_LIMIT / HEADROOM
        largest = self.largest(name for name in self.inputs if name.startswith(prefix))
        factors = {
            name: 2.0 ** math.ceil(math.log2(value / limit))
            for name, value in largest.items()
            if name.endswith(".down_proj") and value > limit
        }
        check_fits_float16({name: value for name, value in largest.items() if name not in factors})
        return factors

    def summary(self) -> dict[str, float]:
        """Returns the largest values and the limit of float16 for the manifest."""
        linear = [name for name in self.inputs if not name.endswith(SCORES)]
        if not linear:
            return {}
        return {
            "largest_input": max(self.inputs[name] for name in linear),
            "largest_output": max(self.outputs[name] for name in linear),
            "largest_score": max((v for name, v in self.outputs.items() if name.endswith(SCORES)), default=0.0),
            "limit": FLOAT16_LIMIT,
            "headroom": HEADROOM,
        }


def check_fits_float16(largest: Mapping[str, float]) -> None:
    """Raises EngineError if a layer's largest value does not fit float16 with headroom."""
    beyond = {name: value for name, value in largest.items() if value > FLOAT16_LIMIT / HEADROOM}
    if beyond:
        name = max(beyond, key=beyond.__getitem__)
        raise EngineError(
            f"{len(beyond)} layers do not fit float16 with a headroom of {HEADROOM:g}: {name} reaches "
            f"{beyond[name]:g} of {FLOAT16_LIMIT:g}; export bfloat16 or float32"
        )


@torch.inference_mode()
def calibrate(
    model: PenguinVL, processor: Processor, images: Sequence[UInt8Array], show: Progress = silent
) -> Calibration:
    """Runs the model on a question about each image, uint8 [H, W, 3], shown both as a still image and as a video frame.

    The model must be float32 or bfloat16, which do not overflow. `show` is called after each of its blocks.

    Raises:
        EngineError: A layer reads or writes an infinite value or NaN; the message names the first such layer.
    """
    ranges: dict[str, _LayerRange] = {}
    longest_rows: dict[str, float] = {}

    def measure(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        ranges.setdefault(name, _LayerRange()).add(name, args[0], output)

    def measure_rows(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        longest = _finite(f"{name} writes", output.float().norm(dim=-1).max())
        longest_rows[name] = max(longest_rows.get(name, 0.0), longest)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name.endswith(_NORMS):
                hooks.enter_context(module.register_forward_hook(partial(measure_rows, name)))
            elif isinstance(module, PatchEmbeddings):
                hooks.enter_context(module.register_forward_hook(partial(measure, f"{name}.patch_embedding")))
            elif isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_hook(partial(measure, name)))
        batches = _batches([prompt for image in images for prompt in _prompts(processor, image)])
        of_model = blocks(model)
        phase = Phase(show, "calibration", len(batches) * len(of_model))
        for block in of_model.values():
            hooks.enter_context(block.register_forward_hook(lambda *args: phase.add()))
        for batch in batches:
            patched = [image for _, image in batch]
            model(torch.from_numpy(np.stack([ids for ids, _ in batch])), patched, logits_to_keep=1, use_cache=False)
    rotated, products = _attention_bounds(longest_rows, model)
    return Calibration(
        {name: r.largest_input for name, r in ranges.items()} | rotated,
        {name: r.largest_output for name, r in ranges.items()} | products,
        {name: (r.squares / r.rows).astype(np.float32) for name, r in ranges.items()},
    )


def _attention_bounds(longest_rows: dict[str, float], model: PenguinVL) -> tuple[dict[str, float], dict[str, float]]:
    """Returns bounds of rotated queries and keys, and of their products, from the longest rows that the norms wrote.

    The encoder's rotary embedding lengthens a row by at most sqrt(2) (the decoder's keeps its length), and a product is
    at most the product of the lengths. Graphs divide queries by sqrt(head_dim) before they multiply.
    """
    rotated, products = {}, {}
    for name in longest_rows:
        prefix, _, norm = name.rpartition(".")
        if norm != _NORMS[0]:
            continue
        q, k = (longest_rows[f"{prefix}.{norm}"] for norm in _NORMS)
        head_dim = model.get_parameter(f"{name}.weight").shape[0]
        rotated[f"{prefix}.{SCORES}"] = math.sqrt(2) * max(q, k)
        products[f"{prefix}.{SCORES}"] = 2 * q * k / math.sqrt(head_dim)
    return rotated, products


@dataclass
class _LayerRange:
    largest_input: float = 0.0
    largest_output: float = 0.0
    squares: Any = 0.0  # float64 [in]
    rows: int = 0

    def add(self, name: str, inputs: Tensor, output: Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1])
        self.largest_input = max(self.largest_input, _finite(f"{name} reads", _largest(rows)))
        self.largest_output = max(self.largest_output, _finite(f"{name} writes", _largest(output)))
        self.squares = self.squares + rows.float().square().sum(0).double().numpy()
        self.rows += rows.shape[0]


def _largest(values: Tensor) -> Tensor:
    """Returns the largest absolute value in one pass; NaN if any is."""
    low, high = values.aminmax()
    return torch.maximum(-low, high)


def _finite(subject: str, largest: Tensor) -> float:
    value = float(largest)
    if not math.isfinite(value):
        raise EngineError(
            f"{subject} {value} on the samples, which cannot be exported; check whether the training run of this "
            "checkpoint diverged"
        )
    return value


def _prompts(processor: Processor, image: UInt8Array) -> Iterator[_Prompt]:
    """Yields the question about a still image and about a video of one frame."""
    size = Size(*image.shape[:2])
    for visual in (Visual(size), Visual.video(size, [FrameKind.KEY])):
        (allocation,) = processor.allocate([visual])
        (patched,) = processor.patch([image], visual.kinds, allocation)
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        yield processor.prompt_ids([{"role": "user", "content": content}], [patched.tokens]), patched


def _batches(prompts: Sequence[_Prompt]) -> list[list[_Prompt]]:
    """Groups prompts of the same length, which need no padding."""
    batches: list[list[_Prompt]] = []
    for _, group in groupby(sorted(prompts, key=lambda prompt: len(prompt[0])), key=lambda prompt: len(prompt[0])):
        batch: list[_Prompt] = []
        for prompt in group:
            if batch and sum(image.grid.area for _, image in (*batch, prompt)) > _BATCH_PATCHES:
                batches.append(batch)
                batch = []
            batch.append(prompt)
        batches.append(batch)
    return batches
