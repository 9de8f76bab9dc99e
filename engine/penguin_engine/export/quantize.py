"""Weight-only quantisation of the decoder: which layers are quantised, and to how many bits.

Encoder and projector stay 16-bit and the KV cache is float16. The arithmetic is in graphs/quantized.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from penguin_engine.export.graphs.decoder import HEAD
from penguin_engine.export.graphs.quantized import Squares
from penguin_engine.export.manifest import QUANTIZED
from penguin_models.errors import EngineError

REPORT = "quantization.json"
"""File that `penguin-vl quantize` adds to the exported folder."""
LAYERS = (*(f"self_attn.{x}_proj" for x in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Quantization:
    """Which linear layers of the decoder are quantised, and how."""

    kind: str  # "int8", "int4" or "fp8"
    keep_blocks: int = 0  # blocks at each end of the decoder that are sensitive
    keep_head: bool = False  # whether the language-model head is sensitive too
    sensitive: str | None = None  # kind of sensitive layers: "int8", or None to leave them unquantised

    def __post_init__(self) -> None:
        if self.kind not in QUANTIZED:
            raise EngineError(f"weights {self.kind!r} are unknown; choose from {', '.join(QUANTIZED)}")

    @classmethod
    def default(cls, kind: str, contrib: bool) -> Quantization:
        """Returns the recommended settings: with 4 bits, the first and last block and the head are sensitive.

        With ONNX Runtime's own operators (`contrib`), sensitive layers have 8 bits; otherwise they stay unquantised.
        """
        sensitive = kind == "int4"
        return cls(kind, int(sensitive), sensitive, "int8" if sensitive and contrib else None)

    def layer_kinds(self, blocks: int) -> dict[str, str]:
        """Returns the kind of each quantised linear layer, by name, in a decoder with this number of blocks."""
        block_of = {f"language_model.model.layers.{i}.{name}": i for i in range(blocks) for name in LAYERS}
        ends = {*range(self.keep_blocks), *range(blocks - self.keep_blocks, blocks)}
        sensitive = {name: block in ends for name, block in block_of.items()} | {HEAD: self.keep_head}
        kinds = {name: self.sensitive if is_sensitive else self.kind for name, is_sensitive in sensitive.items()}
        return {name: kind for name, kind in kinds.items() if kind is not None}


def relative_errors(squares: Mapping[str, Squares]) -> dict[str, float]:
    """Returns the relative error of the weights that were rounded to integers, in the head and in all blocks.

    If inputs were calibrated, it estimates the relative error of what these layers output.
    """
    sums = {"head": (0.0, 0.0), "blocks": (0.0, 0.0)}
    for name, (error, total) in squares.items():
        part = "head" if name == HEAD else "blocks"
        sums[part] = sums[part][0] + error, sums[part][1] + total
    return {part: math.sqrt(error / total) for part, (error, total) in sums.items() if total}
