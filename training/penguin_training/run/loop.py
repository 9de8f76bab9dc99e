"""The training loop: takes a run from where it is to its end, with metrics and saved states on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from penguin_models.errors import TrainingError
from penguin_training.run.build_run import Run
from penguin_training.run.checkpoint import gather_weights, write_checkpoint
from penguin_training.run.saved_state import begin_state, end_state, save_trainer
from penguin_training.run.step import training_step


def train(run: Run, stop_at: int | None = None) -> None:
    """Runs the stage to its end and writes the result; `stop_at` saves a state and returns after that step.

    Raises PenguinError if too many samples cannot be used, training diverged, or the run is already past `stop_at`.
    """
    progress, settings, tracking = run.progress, run.settings, run.tracking
    if stop_at is not None and stop_at < progress.step:
        raise TrainingError(f"the run is at step {progress.step} and cannot stop at {stop_at}; give a later step")
    tracking.start(settings.name, vars(settings), progress.step)
    if run.accelerator.is_main_process and not progress.step:
        tracking.unusable(0, run.data.unusable)
    run.accelerator.wait_for_everyone()
    try:
        _run_steps(run, run.steps if stop_at is None else min(stop_at, run.steps))
        if progress.step == run.steps:
            _save_checkpoint(run, run.output)
    finally:
        tracking.close()


def _run_steps(run: Run, end: int) -> None:
    engine, progress = run.settings.engine, run.progress
    since, metrics = time.perf_counter(), list[dict[str, float]]()
    run.model.train()
    while progress.step < end:
        metrics.append(training_step(run))
        progress.step += 1
        run.tracking.advance(progress.step)
        if progress.step % engine.log_every == 0 or progress.step == end:
            now = time.perf_counter()
            run.tracking.log(progress.step, _mean(metrics, now - since))
            since, metrics = now, []
        if progress.step == end or (engine.save_every and progress.step % engine.save_every == 0):
            save_state(run)


def save_state(run: Run) -> None:
    """Writes a state that a run can be resumed from, with a checkpoint for use."""
    main = run.accelerator.is_main_process
    name = f"step-{run.progress.step:08d}"
    folder = run.output / "checkpoints" / f".{name}.partial"
    if main:
        begin_state(folder, run.fingerprint)
    run.accelerator.wait_for_everyone()
    save_trainer(folder, run.model, run.optimizers, run.progress, run.accelerator.process_index)
    _save_checkpoint(run, folder)
    if main:
        end_state(folder, folder.with_name(name), run.settings.engine.keep)
    run.accelerator.wait_for_everyone()


def _save_checkpoint(run: Run, folder: Path) -> None:
    state = gather_weights(run.model)
    if run.accelerator.is_main_process:
        write_checkpoint(state, run.settings, run.blueprint, folder)
    run.accelerator.wait_for_everyone()


def _mean(steps: Sequence[dict[str, float]], seconds: float) -> dict[str, float]:
    """Averages the metrics of several steps; counts are summed, tokens and patches given per second."""
    means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    for name in ("tokens", "patches"):
        means[f"{name}_per_s"] = means.pop(name) * len(steps) / seconds
    for name in ("read", "unusable", "label_tokens", "label_weight", "with_frames"):
        means[name] *= len(steps)
    return means
