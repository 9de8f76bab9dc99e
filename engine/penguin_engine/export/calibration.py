"""What a model's linear layers see on sample data: how large it gets, and which inputs matter most.

How large, because float16 ends at 65504 and the feed-forward layers of such models come close to it. What an exported
float16 graph holds in float16 is what linear layers read and write, the patch embedding among them, and queries, keys
and their products (the residual stream, norms, rotary embedding and softmax are float32 in every graph). The product
inside a gated feed-forward layer may be made smaller by a power of two, which loses nothing; anything else that is too
large is an error.

Which inputs matter, because rounding the weights of an input that is always small costs little: quantisation weights
its errors by the mean square of each input (the diagonal of the Hessian of the layer's squared error).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penguin_engine.export.graphs.weights import FLOAT16_LIMIT
from penguin_models.encoder import PatchEmbeddings
from penguin_models.errors import EngineError
from penguin_models.processor import Processor, Visual
from penguin_models.types import Float32Array, FrameKind, Size, UInt8Array
from penguin_models.vlm import PenguinVL

HEADROOM = 4.0
"""Other data than the samples may be larger by this factor."""
QUESTION = "Describe what you see in detail."
SCORES = "scores"
"""Ends the name of an attention's queries and keys (inputs) and of their products (outputs)."""
VISUAL_TOKENS = "vision_projector.readout.2"
"""The layer that writes visual tokens."""
_NORMS = ("q_norm", "k_norm")


@dataclass(frozen=True)
class Calibration:
    """What linear layers saw.

    Attributes:
        inputs: largest absolute value that a layer read, by its name; bounds for `SCORES`.
        outputs: largest absolute value that it wrote; bounds for `SCORES`.
        mean_squares: float32 [in], mean square of each of its inputs.
    """

    inputs: dict[str, float]
    outputs: dict[str, float]
    mean_squares: dict[str, Float32Array] = field(default_factory=dict)

    def shrink(self, prefix: str) -> dict[str, float]:
        """By name of a down projection, the power of two by which its input is divided to fit float16.

        Args:
            prefix: of the layers that are float16: "vision_" or "language_model.".

        Raises:
            EngineError: something else does not fit float16.
        """
        limit = FLOAT16_LIMIT / HEADROOM
        shrink: dict[str, float] = {}
        names = [name for name in self.inputs if name.startswith(prefix)]
        for name in names:
            largest = self.inputs[name]
            factor = 2.0 ** max(0, math.ceil(math.log2(max(largest, self.outputs[name], 1.0) / limit)))
            if factor > 1 and name.endswith(".down_proj"):
                shrink[name] = factor
        self.check_fits(names, shrink)
        return shrink

    def check_fits(self, names: Iterable[str], shrink: dict[str, float] | None = None) -> None:
        """Raises EngineError where what layers read or write does not fit float16."""
        limit = FLOAT16_LIMIT / HEADROOM
        largest = {name: max(self.inputs[name], self.outputs[name]) for name in names}
        beyond = {name: v for name, v in largest.items() if not v / (shrink or {}).get(name, 1.0) <= limit}
        if beyond:
            name = max(beyond, key=beyond.__getitem__)
            raise EngineError(
                f"{len(beyond)} layers do not fit float16 with a headroom of {HEADROOM:g}: {name} reaches "
                f"{beyond[name]:g} of {FLOAT16_LIMIT:g}; export bfloat16 or float32"
            )

    def written_by(self, name: str) -> Calibration:
        """What one layer wrote, as if it had read nothing."""
        return Calibration({name: 0.0}, {name: self.outputs[name]})

    def summary(self) -> dict[str, float]:
        """For the manifest: the largest values found, and where float16 ends."""
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


@torch.inference_mode()
def calibrate(
    model: PenguinVL, processor: Processor, images: Sequence[UInt8Array], question: str = QUESTION
) -> Calibration:
    """Runs the model on a question about each image, shown as an image and as a frame of a video.

    Args:
        model: in a type that does not overflow: float32 or bfloat16.
        processor: of the same checkpoint.
        images: uint8 [H, W, 3] each.
        question: asked about each.

    Raises:
        EngineError: a layer reads or writes something infinite or no number; names the first that does.
    """
    seen: dict[str, _Seen] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(name, _Seen(name)).add(args[0], output)

        return hook

    rows: dict[str, float] = {}

    def remember_rows(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            rows[name] = max(rows.get(name, 0.0), _finite(f"{name} writes", output.float().norm(dim=-1).max()))

        return hook

    handles = []
    for name, module in model.named_modules():
        if name.endswith(_NORMS):
            handles.append(module.register_forward_hook(remember_rows(name)))
        elif isinstance(module, PatchEmbeddings):
            handles.append(module.register_forward_hook(remember(f"{name}.patch_embedding")))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(remember(name)))
    try:
        for image in images:
            size = Size(*image.shape[:2])
            for visual in (Visual(size), Visual.video(size, [FrameKind.KEY])):
                _run(model, processor, image, visual, question)
    finally:
        for handle in handles:
            handle.remove()
    held, products = _attention_bounds(rows, model)
    return Calibration(
        {name: s.largest_input for name, s in seen.items()} | held,
        {name: s.largest_output for name, s in seen.items()} | products,
        {name: (s.squares / s.rows).astype(np.float32) for name, s in seen.items()},
    )


def _attention_bounds(rows: dict[str, float], model: PenguinVL) -> tuple[dict[str, float], dict[str, float]]:
    """Bounds of queries and keys, and of their products, from the longest rows that the norms before them gave.

    The encoder's rotary embedding makes a row longer by sqrt(2) at most (the decoder's leaves its length), and a
    product is at most that of the lengths; graphs divide queries by sqrt(head_dim) before they multiply.
    """
    held, products = {}, {}
    for name in rows:
        prefix, _, norm = name.rpartition(".")
        if norm != _NORMS[0]:
            continue
        q, k = (rows[f"{prefix}.{norm}"] for norm in _NORMS)
        head_dim = model.get_parameter(f"{name}.weight").shape[0]
        held[f"{prefix}.{SCORES}"] = math.sqrt(2) * max(q, k)
        products[f"{prefix}.{SCORES}"] = 2 * q * k / math.sqrt(head_dim)
    return held, products


@dataclass
class _Seen:
    name: str
    largest_input: float = 0.0
    largest_output: float = 0.0
    squares: Any = 0.0
    rows: int = 0

    def add(self, inputs: Tensor, output: Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1])
        self.largest_input = max(self.largest_input, _finite(f"{self.name} reads", rows.abs().max()))
        self.largest_output = max(self.largest_output, _finite(f"{self.name} writes", output.abs().max()))
        self.squares = self.squares + rows.double().square().sum(0).numpy()
        self.rows += rows.shape[0]


def _finite(what: str, largest: Tensor) -> float:
    value = float(largest)
    if not math.isfinite(value):
        raise EngineError(
            f"{what} {value} on the samples, which no export can hold; did the run that wrote the checkpoint diverge?"
        )
    return value


def _run(model: PenguinVL, processor: Processor, image: UInt8Array, visual: Visual, question: str) -> None:
    (allocation,) = processor.allocate([visual])
    patched = list(processor.patch([image], visual.kinds, allocation))
    content = [{"type": "image"}, {"type": "text", "text": question}]
    ids = processor.prompt_ids([{"role": "user", "content": content}], [patched[0].tokens])
    model(torch.from_numpy(ids)[None], patched, logits_to_keep=1)
