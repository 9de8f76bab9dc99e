"""Weight-only quantisation of the decoder: which layers, and with how many bits.

Encoder and projector stay 16-bit, the KV cache is float16. The arithmetic is in graphs/quantized.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from penguin_engine.export.graphs.decoder import HEAD
from penguin_engine.export.graphs.quantized import Scheme
from penguin_models.errors import EngineError

KINDS = ("int8", "int4", "fp8")
REPORT = "quantization.json"
"""What `penguin-vl quantize` adds to the exported folder."""
LAYERS = (*(f"self_attn.{x}_proj" for x in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Quantization:
    """Which linear layers of the decoder are quantised, and how.

    Attributes:
        kind: "int8", "int4" or "fp8".
        keep_blocks: so many blocks at either end of the decoder are sensitive and kept better.
        keep_head: whether the head is sensitive too.
        sensitive: how sensitive layers are kept: "int8", or None for as they are.
    """

    kind: str
    keep_blocks: int = 0
    keep_head: bool = False
    sensitive: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EngineError(f"weights {self.kind!r} are unknown; choose from {', '.join(KINDS)}")
        if self.keep_blocks < 0:
            raise EngineError(f"keep_blocks is {self.keep_blocks}, it must be 0 or above")

    @classmethod
    def default(cls, kind: str, contrib: bool) -> Quantization:
        """What is sensible: with 4 bits the first and last block and the head are kept better.

        Args:
            kind: "int8", "int4" or "fp8".
            contrib: for graphs of ONNX Runtime's own operators, where sensitive layers take 8 bits.
        """
        sensitive = kind == "int4"
        return cls(kind, int(sensitive), sensitive, "int8" if sensitive and contrib else None)

    def schemes(self, layers: int) -> dict[str, Scheme]:
        """How each linear layer of a decoder with so many blocks is quantised; layers that are not are left out."""
        names = {f"language_model.model.layers.{i}.{name}": i for i in range(layers) for name in LAYERS}
        ends = {*range(self.keep_blocks), *range(layers - self.keep_blocks, layers)}
        sensitive = {name: i in ends for name, i in names.items()} | {HEAD: self.keep_head}
        kinds = {name: self.sensitive if kept else self.kind for name, kept in sensitive.items()}
        return {name: Scheme("float8" if kind == "fp8" else kind) for name, kind in kinds.items() if kind is not None}

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": self.kind, **asdict(self)}
