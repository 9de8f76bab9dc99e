"""`penguin-vl evaluate watch`: how well a model judges conditions, and the calibration of its probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from penguin_ros.cli.evaluate_output import ProgressBar
from penguin_ros.cli.output import DeviceOption, DtypeOption, JsonOption, RuntimeOption, print_json, stdout
from penguin_ros.cli.tabletop import SizeOption, parse_size
from penguin_ros.shipped import MODEL


def watch(
    model: Annotated[
        str,
        typer.Option(
            help="Checkpoint or exported folder, or owner/name on the hub; default: penguin-tiny.", show_default=False
        ),
    ] = str(MODEL),
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Fit the calibration to scenes of the validation split, and write it to the model."),
    ] = False,
    scenes: Annotated[int, typer.Option(help="Number of scenes, to fit and to score.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the scenes within their split.", min=0)] = 0,
    size: SizeOption = "168x168",
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge conditions about the simulated table-top: accuracy, and how far the probabilities can be trusted.

    Scores are those of the test split, with the calibration in the model's folder (watch_calibration.json).
    """
    from penguin_engine.runtimes.loading import check_model, open_runtime
    from penguin_models.atomic_write import atomic_write
    from penguin_models.errors import WriteError
    from penguin_models.processor import CALIBRATION

    if fit and not Path(model).is_dir():
        raise WriteError(f"{model} is not a folder, so {CALIBRATION} cannot be written to it; download the model first")
    shape = parse_size(size)
    check_model(model)
    from penguin_models.watch import Calibration
    from penguin_ros.evaluation.tabletop.watch_scores import fit as fit_calibration
    from penguin_ros.evaluation.tabletop.watch_scores import judge_scenes, summary
    from penguin_tabletop.seeds import Split

    opened, processor = open_runtime(runtime, model, device, dtype)
    calibration = Calibration() if fit else Calibration.of(processor)  # a damaged file can be replaced
    with ProgressBar(show=not as_json) as bar:
        bar.set_total(scenes * (1 + fit))
        if fit:
            seen = judge_scenes(opened, processor, Split.VALIDATION, scenes, shape, seed, bar.add)
            calibration = fit_calibration(seen)
            with atomic_write(Path(model) / CALIBRATION) as file:
                file.write(calibration.to_json())
        judged = judge_scenes(opened, processor, Split.TEST, scenes, shape, seed, bar.add)
    scores = summary(judged, calibration)
    used = {"scale": calibration.scale, "offset": calibration.offset, "samples": calibration.samples}
    if as_json:
        print_json({"seed": seed, "scenes": scenes, "calibration": used, "scores": scores})
        return
    table = Table("", "calibrated" if calibration.samples else "not calibrated", "as the model says", box=None)
    for title, name in (("accuracy", "accuracy"), ("expected calibration error", "calibration_error")):
        table.add_row(title, f"{scores[name]:.3f}", f"{scores[f'{name}_uncalibrated']:.3f}")
    stdout.print(table)
    stdout.out(f"{scores['judgements']} conditions about {scenes} scenes of the test split, seed {seed}")
    if fit:
        stdout.out(f"wrote {Path(model) / CALIBRATION}: scale {calibration.scale:.3f}, offset {calibration.offset:.3f}")
    elif not calibration.samples:
        stdout.out(f"the model has no {CALIBRATION}; --fit writes one")
