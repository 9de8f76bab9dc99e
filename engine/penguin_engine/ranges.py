"""How large activations get: float16 ends at 65504, and the feed-forward layers of such models come close to it.

Runs the model on sample data and looks at everything that a float16 graph would hold in float16: what linear layers
read and write. (The residual stream, norms, rotary embedding and softmax are float32 in every exported graph.) The
product inside a gated feed-forward layer may be made smaller by a power of two, which loses nothing; anything else
that is too large is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penguin_engine.graphs.weights import FLOAT16_LIMIT
from penguin_models.errors import EngineError
from penguin_models.processor import Processor, Visual
from penguin_models.types import FrameKind, Size, UInt8Array
from penguin_models.vlm import PenguinVL

HEADROOM = 4.0
"""Other data than the samples may be larger by this factor."""


@dataclass(frozen=True)
class ActivationRanges:
    """Largest absolute values on sample data.

    Attributes:
        inputs: by name of a linear layer, what it reads.
        outputs: by name of a linear layer, what it writes.
    """

    inputs: dict[str, float]
    outputs: dict[str, float]

    def shrink(self) -> dict[str, float]:
        """By name of a down projection, the power of two by which its input is divided.

        Raises:
            EngineError: something else does not fit float16.
        """
        limit = FLOAT16_LIMIT / HEADROOM
        shrink: dict[str, float] = {}
        for name, largest in self.inputs.items():
            factor = 2.0 ** max(0, math.ceil(math.log2(max(largest, self.outputs[name], 1.0) / limit)))
            if factor > 1 and name.endswith(".down_proj"):
                shrink[name] = factor
        beyond = {
            name: largest
            for values in (self.inputs, self.outputs)
            for name, largest in values.items()
            if not largest / shrink.get(name, 1.0) <= limit
        }
        if beyond:
            name, largest = max(beyond.items(), key=lambda item: item[1])
            raise EngineError(
                f"{len(beyond)} layers do not fit float16 with a headroom of {HEADROOM:g}: {name} reaches "
                f"{largest:g} of {FLOAT16_LIMIT:g}; export bfloat16 or float32"
            )
        return shrink

    def summary(self) -> dict[str, float]:
        """For the manifest: the largest values found and how many layers are made smaller."""
        return {
            "largest_input": max(self.inputs.values()),
            "largest_output": max(self.outputs.values()),
            "layers_made_smaller": float(len(self.shrink())),
            "limit": FLOAT16_LIMIT,
            "headroom": HEADROOM,
        }


@torch.inference_mode()
def measure_ranges(
    model: PenguinVL, processor: Processor, images: Sequence[UInt8Array], question: str
) -> ActivationRanges:
    """Runs the model on a question about each image, as an image and as a frame of a video.

    Args:
        model: in a type that does not overflow: float32 or bfloat16.
        processor: of the same checkpoint.
        images: uint8 [H, W, 3] each.
        question: asked about each.
    """
    inputs: dict[str, float] = {}
    outputs: dict[str, float] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name] = max(inputs.get(name, 0.0), _largest(args[0]))
            outputs[name] = max(outputs.get(name, 0.0), _largest(output))

        return hook

    handles = [
        module.register_forward_hook(remember(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for image in images:
            size = Size(*image.shape[:2])
            for visual in (Visual(size), Visual.video(size, [FrameKind.KEY])):
                _run(model, processor, image, visual, question)
    finally:
        for handle in handles:
            handle.remove()
    return ActivationRanges(inputs, outputs)


def _run(model: PenguinVL, processor: Processor, image: UInt8Array, visual: Visual, question: str) -> None:
    (allocation,) = processor.allocate([visual])
    patched = list(processor.patch([image], visual.kinds, allocation))
    content = [{"type": "image"}, {"type": "text", "text": question}]
    ids = processor.prompt_ids([{"role": "user", "content": content}], [patched[0].tokens])
    model(torch.from_numpy(ids)[None], patched, logits_to_keep=1)


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0
