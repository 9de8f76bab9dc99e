"""`penguin-vl quantize`: a checkpoint -> an exported folder with an int8, int4 or fp8 decoder, and how exact it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penguin_models.errors import EngineError
from penguin_ros.cli.evaluate_output import ProgressBar
from penguin_ros.cli.export import OutOption, Profile, VisionDtypeOption
from penguin_ros.cli.output import JsonOption, ModelOption, RevisionOption, print_json, stdout
from penguin_ros.cli.phases import Phases
from penguin_ros.stopping import stopping_like_ctrl_c

if TYPE_CHECKING:
    from penguin_engine.bench.quantize_comparison import Limits, ScoreChange
    from penguin_engine.bench.quantize_report import Scorer
    from penguin_engine.runtimes.base import Runtime
    from penguin_models.processor import Processor


def quantize(
    model: ModelOption,
    out: OutOption,
    weights: Annotated[
        Literal["int8", "int4", "fp8"], typer.Option(help="Type of the decoder's linear layers.")
    ] = "int8",
    profile: Annotated[
        Profile,
        typer.Option(
            help="onnxruntime for ONNX Runtime (int8, int4); portable for TensorRT (int4, fp8). Both are compared on "
            "ONNX Runtime."
        ),
    ] = "onnxruntime",
    sample: Annotated[
        list[Path] | None, typer.Option(help="Image to calibrate with, can be repeated; default: drawn images.")
    ] = None,
    keep_blocks: Annotated[
        int | None, typer.Option(help="Blocks at each end with better precision; default: 1 for int4, else 0.", min=0)
    ] = None,
    keep_head: Annotated[
        bool | None, typer.Option(help="Keep the head at better precision; default: for int4.")
    ] = None,
    vision_dtype: VisionDtypeOption = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            help="Run the model on the samples to weigh rounding errors and check that values fit float16; without, "
            "int8 and int4 weights are rounded by themselves."
        ),
    ] = True,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare the logits with full precision and judge the variant, which takes memory for the checkpoint "
            "in float32.",
        ),
    ] = False,
    scenes: Annotated[
        int,
        typer.Option(
            help="Compare, and score both on this many scenes of the simulated table-top, as `evaluate tabletop` does; "
            "400 show small losses. Without scores a variant can be refused, but not called good.",
            min=0,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.", min=0)] = 0,
    max_score_loss: Annotated[
        float | None,
        typer.Option(
            help="Refuse a variant if a score falls by more; if chance may explain the loss, it is not judged. "
            "[default: 0.02]",
            min=0.0,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Refuse a variant with a smaller share of equal next tokens. [default: 0.95]", max=1.0),
    ] = None,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantise the decoder and report its errors; with --compare or --scenes, exit code 1 if it is not good."""
    from penguin_engine.bench.quantize_report import Comparing, quantize_and_report
    from penguin_engine.export.checkpoint_to_onnx import ExportOptions
    from penguin_engine.export.quantize import REPORT, Quantization
    from penguin_models.atomic_write import atomic_write
    from penguin_models.hub import resolve_checkpoint
    from penguin_models.media import load_image

    if revision is not None:
        model = str(resolve_checkpoint(model, revision))
    quantization = Quantization.default(weights, profile == "onnxruntime")
    if keep_blocks is not None:
        quantization = replace(quantization, keep_blocks=keep_blocks)
    if keep_head is not None:
        quantization = replace(quantization, keep_head=keep_head)
    if sample and not (calibrate or compare or scenes):
        raise typer.BadParameter("goes with --calibrate or --compare", param_hint="--sample")
    limits = _limits(min_agreement, max_score_loss, compare or scenes > 0)
    samples = [load_image(path) for path in sample or []]
    comparing = None
    if limits is not None:
        comparing = Comparing(limits, tabletop_scorer(scenes, seed) if scenes else None)
    options = ExportOptions(profile, vision_dtype=vision_dtype, quantization=quantization)
    with stopping_like_ctrl_c(), Phases() as phases:
        report = quantize_and_report(model, out, options, samples, calibrate, comparing, phases.show)
    report["scored_on"] = {"scenes": scenes, "seed": seed} if scenes else None
    with atomic_write(out / REPORT) as file:
        file.write(json.dumps(report, indent=1) + "\n")
    if as_json:
        print_json(report)
    else:
        _print(out, report)
    if report["comparison"] and report["comparison"]["good"] is False:
        finer = "use int8, " if weights == "int4" and profile == "onnxruntime" else ""
        raise EngineError(
            f"the {weights} variant in {out} is not good: {'; '.join(report['comparison']['failures'])}; keep more "
            f"blocks (--keep-blocks, --keep-head), {finer}or calibrate with your own images (--sample)"
        )


def _limits(min_agreement: float | None, max_score_loss: float | None, compared: bool) -> Limits | None:
    """Returns the limits of a comparison, and None if there is none; then no limit may be set."""
    from penguin_engine.bench.quantize_comparison import Limits

    chosen: dict[str, float] = {}
    if min_agreement is not None:
        chosen["agreement"] = min_agreement
    if max_score_loss is not None:
        chosen["score_loss"] = max_score_loss
    if not compared and chosen:
        raise typer.BadParameter("goes with --compare or --scenes", param_hint="--min-agreement, --max-score-loss")
    return Limits(**chosen) if compared else None


def tabletop_scorer(scenes: int, seed: int) -> Scorer:
    """Returns a function that asks both models about the same scenes of the simulated table-top.

    A score that only full precision has, such as that of boxes if the variant gives none, is 0 for the variant.
    Accuracies of single kinds of question are left out, because each has few answers.

    Raises:
        TabletopError: PyBullet is not installed.
    """
    from penguin_engine.bench.quantize_comparison import ScoreChange
    from penguin_ros.evaluation.metrics.statistics import paired_differences
    from penguin_ros.evaluation.tabletop.scenes import TabletopRun, evaluate_tabletop
    from penguin_ros.evaluation.tabletop.scores import TITLES
    from penguin_tabletop.bullet import load_pybullet

    load_pybullet()  # reports a missing PyBullet before the work, not after it
    run = TabletopRun(seed, scenes)

    def score(full: Runtime, variant: Runtime, processor: Processor) -> dict[str, ScoreChange]:
        with ProgressBar(show=True) as bar:
            bar.set_total(2 * scenes)
            of_full, of_variant = (
                evaluate_tabletop(model, processor, run, lambda asked: bar.add()) for model in (full, variant)
            )
        names = [name for name in of_full if name in TITLES]
        common = [name for name in names if name in of_variant]
        full_parts, variant_parts = ([found[name].parts for name in common] for found in (of_full, of_variant))
        differences = paired_differences(full_parts, variant_parts)
        changes = {name: ScoreChange(of_full[name].value, 0.0) for name in names}
        for name, change in zip(common, differences, strict=True):
            interval = None
            if change is not None and change.low is not None and change.high is not None:
                interval = (change.low, change.high)
            changes[name] = ScoreChange(of_full[name].value, of_variant[name].value, interval)
        return changes

    return score


def _print(out: Path, report: dict[str, Any]) -> None:
    size, quantization, comparison = report["bytes"], report["quantization"], report["comparison"]
    stdout.out(
        f"{out}: decoder {size['decoder'] / 2**20:.1f} MiB, in float32 {size['float32_decoder'] / 2**20:.1f} MiB"
    )
    if errors := quantization["relative_error"]:
        parts = ", ".join(f"{100 * error:.2f} % in the {part}" for part, error in errors.items())
        weighed = "weighed by the samples" if quantization["calibrated"] else "not calibrated"
        stdout.out(f"relative error of quantised weights, {weighed}: {parts}")
    if not report["activation_ranges"]:
        stdout.out("not checked: whether activations fit float16; calibrate for that")
    if comparison is None:
        stdout.out("not compared with full precision; --compare does, and --scenes 400 also judges its scores")
    else:
        _print_comparison(comparison, report["runtimes"])


def _print_comparison(comparison: dict[str, Any], sides: dict[str, dict[str, str]]) -> None:
    full, variant = (f"{sides[side]['runtime']} ({sides[side]['device']})" for side in ("full", "variant"))
    stdout.out(f"compared: full precision on {full}, this variant on {variant}")
    stdout.out(
        f"over {comparison['positions']} tokens: {100 * comparison['agreement']:.1f} % the same next token, cosine of "
        f"logits {comparison['cosine']:.5f}, divergence {comparison['divergence']:.5f} nats, largest error of a logit "
        f"{comparison['largest_error']:.3f}"
    )
    for name, score in comparison["scores"].items():
        stdout.out(f"{name}: {score['full']:.3f} at full precision, {score['variant']:.3f} here")
    if comparison["doubts"]:
        stdout.out(f"not judged: {'; '.join(comparison['doubts'])}; score both on more scenes (--scenes)")
    elif comparison["good"] is None:
        stdout.out("not judged: no scores were compared; score both on the simulated table-top with --scenes 400")
    elif comparison["good"]:
        stdout.out("good: no score falls by more than --max-score-loss")
