"""The training loop: steps of a stage, from wherever it stands to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from penguin_models.errors import TrainingError
from penguin_training.data.batches import Batch
from penguin_training.data.loader import check_unusable
from penguin_training.model.stage_model import RECONSTRUCTION
from penguin_training.model.teachers import Teacher
from penguin_training.run.optimisation import MovingAverage, Optimizers, rate_share
from penguin_training.run.parallel import clip_gradients, gradients_stay
from penguin_training.run.tracking import Tracking
from penguin_training.run.trained_checkpoint import gather_weights, write_checkpoint
from penguin_training.run.training_state import Progress, begin_state, end_state, save_trainer
from penguin_training.settings.blueprint import Blueprint
from penguin_training.settings.stage import StageSettings


@dataclass(eq=False)
class Run:
    """A stage that is ready to go.

    Attributes:
        settings: of the stage.
        fixed: those that must not change when the run is resumed, see resuming.py.
        blueprint: of the model.
        accelerator: knows processes and device.
        model: `StageModel`, placed.
        optimizers: over what is trained.
        teacher: on its device, or None.
        average: of the weights, or None.
        batches: micro-batches of this process from `progress` on.
        steps: of the whole stage.
        micro_batches_per_epoch: of all processes; None where it is not known.
        progress: where the run stands.
        tracking: takes the figures.
    """

    settings: StageSettings
    fixed: dict[str, Any]
    blueprint: Blueprint
    accelerator: Accelerator
    model: nn.Module
    optimizers: Optimizers
    teacher: Teacher | None
    average: MovingAverage | None
    batches: Iterator[Batch]
    steps: int
    micro_batches_per_epoch: int | None
    progress: Progress
    tracking: Tracking

    @property
    def output(self) -> Path:
        """Folder of the result."""
        return Path(self.settings.output)

    def epoch(self) -> float:
        """Passes over the data so far; of a stream of unknown length, the share of the steps."""
        if self.micro_batches_per_epoch is None:
            return self.progress.step / self.steps
        return self.progress.step * self.progress.window / self.micro_batches_per_epoch


def train(run: Run, stop_at: int | None = None) -> None:
    """Runs the stage to its end and writes the result.

    Args:
        run: ready to go.
        stop_at: write a state and return after this step, as if interrupted (for tests and short jobs).

    Raises:
        DataError: too many samples cannot be used.
        TrainingError: training diverged, or the run is past the step at which it should stop.
    """
    if stop_at is not None and stop_at < run.progress.step:
        raise TrainingError(
            f"the run stands at step {run.progress.step}, it cannot stop at {stop_at}; give a later step"
        )
    run.tracking.start(run.settings.name, vars(run.settings), run.progress.step)
    run.accelerator.wait_for_everyone()
    try:
        _run_steps(run, run.steps if stop_at is None else min(stop_at, run.steps))
        if run.progress.step == run.steps:
            state = gather_weights(run.model, run.average.weights if run.average else None)
            if run.accelerator.is_main_process:
                write_checkpoint(state, run.settings, run.blueprint, run.output, run.settings.engine.save_dtype)
            run.accelerator.wait_for_everyone()
    finally:
        run.tracking.close()


def _run_steps(run: Run, end: int) -> None:
    """Steps up to `end`, with figures and states at their intervals and after the last."""
    settings, progress = run.settings.engine, run.progress
    since, figures = time.perf_counter(), _Figures()
    run.model.train()
    while progress.step < end:
        figures.add(_step(run))
        progress.step += 1
        run.tracking.advance(progress.step)
        if progress.step % settings.log_every == 0 or progress.step == end:
            now = time.perf_counter()
            run.tracking.log(progress.step, figures.mean(now - since))
            since, figures = now, _Figures()
        if progress.step == end or (settings.save_every and progress.step % settings.save_every == 0):
            save_state(run)


def save_state(run: Run) -> None:
    """Writes a state that a run can be resumed from, with a checkpoint for use."""
    main, step = run.accelerator.is_main_process, run.progress.step
    folder = run.output / "checkpoints" / f".step-{step:08d}.partial"
    if main:
        begin_state(run.output, step, run.fixed)
    run.accelerator.wait_for_everyone()
    save_trainer(folder, run.model, run.optimizers.all, run.average, run.progress, run.accelerator.process_index)
    state = gather_weights(run.model, run.average.weights if run.average else None)
    if main:
        write_checkpoint(state, run.settings, run.blueprint, folder, run.settings.engine.save_dtype)
    run.accelerator.wait_for_everyone()
    if main:
        end_state(folder, run.settings.engine.keep)
    run.accelerator.wait_for_everyone()


def _step(run: Run) -> dict[str, float]:
    """One optimiser step; its figures, of all processes together."""
    settings, accelerator = run.settings, run.accelerator
    window = [next(run.batches) for _ in range(run.progress.window // accelerator.num_processes)]
    counts = _count(run, window)
    share = rate_share(run.progress.step, run.steps, settings.schedule)
    weight = reconstruction_weight(settings, run.epoch())
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(window):
        with gradients_stay(run.model, accelerator, number == len(window) - 1):
            losses = _losses(run, batch)
            # Copies and shards average their gradients over processes; the objective is a sum over them.
            objective = accelerator.num_processes * _objective(run, losses, counts, weight)
            accelerator.backward(objective)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() * (name == "cross_entropy" or batch.real_frames)
    norm = clip_gradients(run.model, settings.optimizer.clip)
    run.optimizers.step(share)
    if run.average:
        run.average.update(run.model)
    return _summary(run, sums, counts, weight) | {"gradient_norm": norm, "rate_share": share}


def _losses(run: Run, batch: Batch) -> dict[str, Tensor]:
    batch = batch.to(run.accelerator.device)
    features = None
    if run.teacher is not None and batch.real_frames:
        features = run.teacher.features(batch.patches, batch.frames)
    return run.model(batch, features)  # type: ignore[no-any-return]


def _count(run: Run, window: list[Batch]) -> dict[str, float]:
    """What a window holds, over all processes; stops the run where too much of it cannot be used."""
    names = ("label_tokens", "label_weight", "tokens", "patches", "read", "unusable", "with_frames")
    totals = [0.0] * len(names)
    for batch in window:
        own = (
            len(batch.targets),
            float(batch.weights.sum(dtype=torch.float64)),
            batch.size,
            len(batch.patches),
            batch.samples + len(batch.unusable),
            len(batch.unusable),
            int(batch.real_frames),
        )
        totals = [total + value for total, value in zip(totals, own, strict=True)]
        run.tracking.unusable(run.progress.step, batch.unusable)
    summed = run.accelerator.reduce(torch.tensor(totals, dtype=torch.float64, device=run.accelerator.device))
    counts = dict(zip(names, summed.tolist(), strict=True))
    run.progress.read += int(counts["read"])
    run.progress.unusable += int(counts["unusable"])
    example = next((entry for batch in window for entry in batch.unusable), ("one", "see unusable.jsonl"))
    check_unusable(run.progress.unusable, run.progress.read, run.settings.data.max_bad_share, example)
    return counts


def reconstruction_weight(settings: StageSettings, epoch: float) -> float:
    """decay_epochs - epoch, at least 0 (released code: 3 - epoch); 0 where nothing is reconstructed."""
    return max(0.0, settings.reconstruction.decay_epochs - epoch) if settings.reconstruction else 0.0


def _objective(run: Run, losses: dict[str, Tensor], counts: dict[str, float], weight: float) -> Tensor:
    """What a micro-batch adds to the loss of its step.

    cross-entropy / label_weight + weight * (direction + amplitude + relation) / label_tokens, both of the whole step
    (released code, where all tokens weigh 1); or the reconstruction's mean over the micro-batches.
    """
    total = losses["cross_entropy"] / (counts["label_weight"] or 1.0)
    settings = run.settings.reconstruction
    if settings is not None:
        by_label = settings.divided_by == "label_tokens"
        divisor = max(1.0, counts["label_tokens"]) if by_label else float(run.progress.window)
        factors = (getattr(settings, name) * losses[name] for name in RECONSTRUCTION if name in losses)
        total = total + weight / divisor * sum(factors)
    return total


def _summary(run: Run, sums: dict[str, Tensor], counts: dict[str, float], weight: float) -> dict[str, float]:
    """Figures of a step: the loss, each part of it, and how much went through."""
    names = list(sums)
    values = run.accelerator.reduce(torch.stack([sums[name].float() for name in names])).tolist()
    totals = dict(zip(names, values, strict=True))
    figures = {"cross_entropy": totals["cross_entropy"] / (counts["label_weight"] or 1.0)}
    loss = figures["cross_entropy"]
    settings = run.settings.reconstruction
    if settings is not None:
        by_label = settings.divided_by == "label_tokens"
        divisor = max(1.0, counts["label_tokens"]) if by_label else float(run.progress.window)
        found = [name for name in RECONSTRUCTION if name in totals]
        loss += weight / divisor * sum(getattr(settings, name) * totals[name] for name in found)
        figures |= {name: totals[name] / max(1.0, counts["with_frames"]) for name in found}
        figures["reconstruction_weight"] = weight
    filled = counts["tokens"] / (run.settings.budgets.tokens * run.progress.window)
    return {"loss": loss, **figures, "epoch": run.epoch(), "filled": filled} | counts


class _Figures:
    """Mean of the figures of several steps; counts are summed and given per second."""

    def __init__(self) -> None:
        self._steps: list[dict[str, float]] = []

    def add(self, figures: dict[str, float]) -> None:
        self._steps.append(figures)

    def mean(self, seconds: float) -> dict[str, float]:
        means = {name: sum(s[name] for s in self._steps) / len(self._steps) for name in self._steps[0]}
        for name in ("tokens", "patches"):
            means[f"{name}_per_s"] = means.pop(name) * len(self._steps) / seconds
        for name in ("read", "unusable", "label_tokens", "label_weight", "with_frames"):
            means[name] *= len(self._steps)
        return means
