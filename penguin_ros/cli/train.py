"""`penguin-vl train`: runs a training stage; more processes with `torchrun -m penguin_ros.cli.main train ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: key=value, the key with dots, the value in YAML."),
]
StageArgument = Annotated[Path, typer.Argument(metavar="STAGE.yaml", help="Settings of the stage.")]


def train(
    stage: StageArgument,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest state in the output.")] = False,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show sizes and memory, without weights or a step.")
    ] = False,
    stop_at: Annotated[int | None, typer.Option(help="Write a state after this step and stop there.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a stage."""
    from penguin_training.run.parallel import end_processes, leave
    from penguin_training.settings.stage_file import load_settings

    settings = load_settings(stage, overrides or ())
    if dry_run and (resume or stop_at):
        raise typer.BadParameter(
            "it checks a stage from its beginning; leave --resume and --stop-at out", param_hint="--dry-run"
        )
    if dry_run:
        from penguin_training.run.dry_run import dry_run as describe

        report = describe(settings)
        if as_json:
            print_json(report.to_dict())
        else:
            for line in report.lines():
                stdout.out(line)
        return
    from penguin_training.run.loop import train as run_to_end
    from penguin_training.run.setup import prepare_run

    try:
        run = prepare_run(settings, resume, stderr)
        first_step = run.progress.step
        run_to_end(run, stop_at)
    finally:
        end_processes()
    if run.accelerator.is_main_process:
        done = {"output": settings.output, "steps": run.progress.step - first_step, "step": run.progress.step}
        if as_json:
            print_json(done)
        else:
            stdout.out(f"{settings.output}: step {run.progress.step} of {run.steps}")
    del run  # and with it the processes that read data
    leave()
