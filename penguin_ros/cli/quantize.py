"""`penguin-vl quantize`: a checkpoint -> an exported folder with an int8, int4 or fp8 decoder, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penguin_models.errors import EngineError
from penguin_ros.cli.output import JsonOption, ModelOption, print_json, stderr, stdout, working
from penguin_ros.cli.stopping import stopping_like_ctrl_c

if TYPE_CHECKING:
    from penguin_engine.bench.quantize_report import Scorer
    from penguin_engine.runtimes.base import Runtime
    from penguin_models.processor import Processor
    from penguin_ros.evaluation.tabletop.scenes import Score


def quantize(
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write. An earlier export there is replaced, its plans too; only TensorRT's timing.cache is "
            "kept. A folder that holds anything else is refused."
        ),
    ],
    weights: Annotated[Literal["int8", "int4", "fp8"], typer.Option(help="Of the decoder's linear layers.")] = "int8",
    profile: Annotated[
        Literal["portable", "fused", "onnxruntime"],
        typer.Option(
            help="onnxruntime for the onnx runtime (int8, int4); portable or fused for TensorRT (int4, fp8), compared "
            "on ONNX Runtime without its speed."
        ),
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
    scenes: Annotated[
        int,
        typer.Option(
            help="Scenes of the simulated table-top on which both are scored, as `evaluate tabletop`; 400 tell small "
            "losses. Without scores a variant may be refused, and is not called good.",
            min=0,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="A family of such scenes of its own.", min=0)] = 0,
    scores: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="In place of --scenes, what `evaluate tabletop --json` wrote: full precision, this variant. Without "
            "single answers every loss above --max-score-loss refuses."
        ),
    ] = None,
    max_score_loss: Annotated[
        float,
        typer.Option(
            help="A variant that loses more of a score is refused, or not judged where chance may explain the loss.",
            min=0.0,
        ),
    ] = 0.02,
    min_agreement: Annotated[
        float, typer.Option(help="A variant with a smaller share of equal next tokens is refused.", max=1.0)
    ] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Quantise the decoder, compare with full precision, and say whether the result is good; exit code 1 if not.

    Without --scenes or --scores only logits are compared: they can refuse a variant, not call it good.
    """
    from penguin_engine.bench.quantize_comparison import Limits
    from penguin_engine.bench.quantize_report import quantize_and_compare
    from penguin_engine.export.quantize import REPORT, Quantization
    from penguin_engine.export.staging import writing
    from penguin_models.media import load_image

    default = Quantization.default(weights, profile == "onnxruntime")
    quantization = Quantization(
        weights,
        default.keep_blocks if keep_blocks is None else keep_blocks,
        default.keep_head if keep_head is None else keep_head,
        default.sensitive,
    )
    if scenes and scores:
        raise typer.BadParameter("goes without --scores", param_hint="--scenes")
    score = TabletopScorer(scenes, seed) if scenes else None if scores is None else _read_scores(*scores)
    with stopping_like_ctrl_c(), working(f"quantising {model}"):
        report = quantize_and_compare(
            model,
            out,
            profile,
            quantization,
            samples=[load_image(path) for path in sample or []],
            questions=question or [],
            vision_dtype=vision_dtype,
            score=score,
            limits=Limits(agreement=min_agreement, score_loss=max_score_loss),
        )
    report["scored_on"] = {"scenes": scenes, "seed": seed} if scenes else None
    with writing(out / REPORT):
        (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    if as_json:
        print_json(report)
    else:
        _print(out, report)
    if report["comparison"]["good"] is False:
        finer = "take int8, " if weights == "int4" and profile == "onnxruntime" else ""
        raise EngineError(
            f"the {weights} variant in {out} is not good: {'; '.join(report['comparison']['failures'])}; keep more "
            f"blocks (--keep-blocks, --keep-head), {finer}or calibrate with images of your own (--sample)"
        )


class TabletopScorer:
    """Asks about the same scenes of the simulated table-top each time.

    Counted are the scores that full precision has. One that the variant no longer has, such as that of boxes where it
    gives none any more, is 0. Accuracies of single kinds of question are left out: few answers each.
    """

    def __init__(self, scenes: int, seed: int):
        from penguin_ros.evaluation.tabletop.scenes import TabletopRun
        from penguin_tabletop.bullet import load_pybullet

        load_pybullet()  # before the work, not after it
        self._run = TabletopRun(seed, scenes)
        self._found: list[dict[str, Score]] = []

    def __call__(self, which: str, runtime: Runtime, processor: Processor) -> dict[str, float]:
        """Scores by name."""
        from penguin_ros.evaluation.tabletop.scenes import evaluate_tabletop
        from penguin_ros.evaluation.tabletop.scores import TITLES

        def show(done: int) -> None:
            if stderr.is_terminal and done % 10 == 0:
                stderr.print(f"{which}: {done} of {self._run.scenes} scenes")

        found, _ = evaluate_tabletop(runtime, processor, self._run, show)
        self._found.append({name: score for name, score in found.items() if name in TITLES})
        return {name: found[name].value if name in found else 0.0 for name in self._found[0]}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of variant minus full precision, scenes being drawn anew."""
        from penguin_ros.evaluation.metrics.statistics import paired_differences

        full, variant = self._found
        names = [name for name in full if name in variant]
        changes = paired_differences(*([scores[name].parts for name in names] for scores in (full, variant)))
        found = zip(names, changes, strict=True)
        return {name: (d.low, d.high) for name, d in found if d and d.low is not None and d.high is not None}


class FileScorer:
    """Scores that `evaluate tabletop --json` wrote, of full precision and of the variant: without single answers."""

    def __init__(self, full: dict[str, float], variant: dict[str, float]):
        from penguin_ros.evaluation.tabletop.scores import TITLES

        self._full, self._variant = full, variant
        self._names = [name for name in full if name in TITLES]

    def __call__(self, which: str, runtime: Runtime, processor: Processor) -> dict[str, float]:
        """Scores by name."""
        from penguin_engine.bench.quantize_report import FULL

        found = self._full if which == FULL else self._variant
        return {name: found.get(name, 0.0) for name in self._names}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """None are known."""
        return {}


def _read_scores(full: Path, variant: Path) -> Scorer:
    (of_full, full_run), (of_variant, variant_run) = (_evaluation(path) for path in (full, variant))
    if full_run != variant_run:
        raise EngineError(
            f"{full} and {variant} are about other scenes (scenes and seed {full_run} and {variant_run}); evaluate "
            "both alike"
        )
    return FileScorer(of_full, of_variant)


def _evaluation(path: Path) -> tuple[dict[str, float], tuple[int, int]]:
    """Scores by name, and how many scenes of which seed they are about."""
    try:
        found = json.loads(path.read_text())
        scores = {str(name): float(score["value"]) for name, score in found["scores"].items()}
        return scores, (int(found["scenes"]), int(found["seed"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise EngineError(f"{path} is not what `penguin-vl evaluate tabletop --json` writes: {err}") from err


def _print(out: Path, report: dict[str, Any]) -> None:
    comparison, size, sides = report["comparison"], report["bytes"], report["runtimes"]
    stdout.out(
        f"{out}: decoder {size['decoder'] / 2**20:.1f} MiB, in float32 {size['float32_decoder'] / 2**20:.1f} MiB"
    )
    full, variant = (f"{sides[side]['runtime']} ({sides[side]['device']})" for side in ("full", "variant"))
    stdout.out(f"compared: full precision on {full}, this variant on {variant}")
    if rates := report["decode_tokens_per_s"]:
        stdout.out(f"decodes {rates['variant']:.1f} tokens/s, full precision {rates['full']:.1f}")
    else:
        stdout.out(f"speeds not compared: {report['no_speed']}")
    stdout.out(
        f"over {comparison['positions']} tokens: {100 * comparison['agreement']:.1f} % the same next token, cosine of "
        f"logits {comparison['cosine']:.5f}, divergence {comparison['divergence']:.5f} nats, largest error of a logit "
        f"{comparison['largest_error']:.3f}"
    )
    for name, (of_full, of_variant) in comparison["scores"].items():
        stdout.out(f"{name}: {of_full:.3f} at full precision, {of_variant:.3f} here")
    if comparison["doubts"]:
        stdout.out(f"not judged: {'; '.join(comparison['doubts'])}; score both on more scenes (--scenes)")
    elif comparison["good"] is None:
        stdout.out("not judged: no scores were compared; score both on the simulated table-top with --scenes 400")
    elif comparison["good"]:
        stdout.out("good: no score falls by more than --max-score-loss")
