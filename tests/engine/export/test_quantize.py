"""Which layers are quantised."""

import pytest

from penguin_engine.export.quantize import Quantization
from penguin_models.errors import EngineError

LAYER = "language_model.model.layers.{}.mlp.up_proj"
HEAD = "language_model.lm_head"


def kinds(quantization, layers=4):
    found = quantization.layer_kinds(layers)
    return [found.get(name) for name in [*map(LAYER.format, range(layers)), HEAD]]


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (Quantization("int8"), ["int8"] * 5),
        (Quantization("int8", keep_head=True), ["int8"] * 4 + [None]),
        (Quantization("int4", 1, True), [None, "int4", "int4", None, None]),
        (Quantization("int4", 1, True, "int8"), ["int8", "int4", "int4", "int8", "int8"]),
        (Quantization("int4", 5), [None] * 4 + ["int4"]),
        (Quantization("fp8"), ["fp8"] * 5),
        (Quantization.default("int4", contrib=True), ["int8", "int4", "int4", "int8", "int8"]),
        (Quantization.default("int4", contrib=False), [None, "int4", "int4", None, None]),
        (Quantization.default("int8", contrib=True), ["int8"] * 5),
    ],
)
def test_sensitive_layers_are_kept_better(quantization, expected):
    assert kinds(quantization) == expected
    assert len([name for name in quantization.layer_kinds(4) if "layers.1." in name]) in (0, 7)


def test_unknown_settings_are_refused():
    with pytest.raises(EngineError, match="weights 'int2' are unknown; choose from int8, int4, fp8"):
        Quantization("int2")
