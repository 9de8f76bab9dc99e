"""`penguin-vl train`: runs a training stage; several processes with `torchrun -m penguin_ros.cli.main train ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: key=value, the key with dots, the value in YAML.")
]
StageArgument = Annotated[Path, typer.Argument(metavar="STAGE.yaml", help="Settings of the stage.")]


def print_result(values: dict[str, Any], text: str, as_json: bool) -> None:
    """Prints a result as JSON or as text."""
    if as_json:
        print_json(values)
    else:
        stdout.out(text)


def train(
    stage: StageArgument,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest state in the output.")] = False,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and estimate memory, without reading weights.")
    ] = False,
    stop_at: Annotated[int | None, typer.Option(help="Save a state after this step and stop.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a stage."""
    from penguin_training.settings.stage_file import load_settings

    settings = load_settings(stage, overrides or ())
    if dry_run:
        if resume or stop_at:
            raise typer.BadParameter("a dry run cannot use --resume or --stop-at; remove them", param_hint="--dry-run")
        from penguin_training.run.dry_run import dry_run as check

        report = check(settings)
        print_result(report.to_dict(), "\n".join(report.lines()), as_json)
        return
    from penguin_training.run.build_run import build_run
    from penguin_training.run.loop import train as train_to_end
    from penguin_training.run.parallel import end_processes, exit_if_distributed

    try:
        run = build_run(settings, resume, stderr)
        first_step = run.progress.step
        train_to_end(run, stop_at)
    finally:
        end_processes()
    step = run.progress.step
    if run.accelerator.is_main_process:
        values = {"output": settings.output, "steps": step - first_step, "step": step}
        print_result(values, f"{settings.output}: step {step} of {run.steps}", as_json)
    del run  # ends the processes that read data
    exit_if_distributed()
