"""`penguin-vl quantize`: a checkpoint -> an exported folder with an int8, int4 or fp8 decoder, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penguin_models.errors import EngineError
from penguin_ros.cli.output import JsonOption, ModelOption, print_json, stdout, working

REPORT = "quantization.json"


def quantize(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier export in it is replaced.")],
    weights: Annotated[Literal["int8", "int4", "fp8"], typer.Option(help="Of the decoder's linear layers.")] = "int8",
    profile: Annotated[
        Literal["portable", "fused", "onnxruntime"],
        typer.Option(help="onnxruntime for the onnx runtime (int8, int4); portable or fused for TensorRT (int4, fp8)."),
    ] = "onnxruntime",
    sample: Annotated[
        list[Path] | None, typer.Option(help="Image to calibrate with, may be repeated; drawn ones if not given.")
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="What the comparison asks about each image.")] = None,
    keep_blocks: Annotated[
        int | None, typer.Option(help="Blocks at either end that are kept better; 1 with int4, else 0.", min=0)
    ] = None,
    keep_head: Annotated[bool | None, typer.Option(help="Keep the head better; so with int4.")] = None,
    vision_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None, typer.Option(help="Encoder and projector; 16-bit.")
    ] = None,
    scores: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help='Two files {"scores": {name: 0 to 1}} of an evaluation: full precision, this variant.'),
    ] = None,
    max_score_loss: Annotated[float, typer.Option(help="A variant that loses more is not good.", min=0.0)] = 0.02,
    min_agreement: Annotated[float, typer.Option(help="Share of equal next tokens that is wanted.", max=1.0)] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Quantise the decoder, compare with full precision, and say whether the result is good; exit code 1 if not."""
    from penguin_engine.quantize import Limits, Quantization
    from penguin_engine.quantize_report import quantize_and_compare
    from penguin_models.media import load_image

    default = Quantization.default(weights, profile == "onnxruntime")
    quantization = Quantization(
        weights,
        default.keep_blocks if keep_blocks is None else keep_blocks,
        default.keep_head if keep_head is None else keep_head,
        default.sensitive,
    )
    with working(f"quantising {model}"):
        report = quantize_and_compare(
            model,
            out,
            profile,
            quantization,
            samples=[load_image(path) for path in sample or []],
            questions=question or [],
            vision_dtype=vision_dtype,
            scores=None if scores is None else (_scores(scores[0]), _scores(scores[1])),
            limits=Limits(agreement=min_agreement, score_loss=max_score_loss),
        )
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    if as_json:
        print_json(report)
    else:
        _print(out, report)
    if not report["comparison"]["good"]:
        raise EngineError(
            f"the {weights} variant in {out} is not good: {'; '.join(report['comparison']['failures'])}; keep more "
            "blocks (--keep-blocks, --keep-head), take int8, or calibrate with images of your own (--sample)"
        )


def _scores(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text())["scores"]
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise EngineError(f'{path} is no file {{"scores": {{name: number}}}} of an evaluation: {err}') from err


def _print(out: Path, report: dict[str, Any]) -> None:
    comparison, size = report["comparison"], report["bytes"]
    stdout.out(
        f"{out}: decoder {size['decoder'] / 2**20:.1f} MiB, in float32 {size['float32_decoder'] / 2**20:.1f} MiB; "
        f"decodes {report['decode_tokens_per_s']['variant']:.1f} tokens/s, "
        f"full precision {report['decode_tokens_per_s']['full']:.1f}"
    )
    stdout.out(
        f"over {comparison['positions']} tokens: {100 * comparison['agreement']:.1f} % the same next token, cosine of "
        f"logits {comparison['cosine']:.5f}, divergence {comparison['divergence']:.5f} nats, largest error of a logit "
        f"{comparison['largest_error']:.3f}"
    )
    for name, (full, variant) in comparison["scores"].items():
        stdout.out(f"{name}: {full:.3f} at full precision, {variant:.3f} here")
