"""The training loop: takes a run from where it is to its end, with metrics and saved states on the way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from penguin_models.atomic_write import writing
from penguin_models.errors import TrainingError, WriteError
from penguin_training.data.batch import Batch
from penguin_training.data.open_data import check_unusable
from penguin_training.model.stage_model import RECONSTRUCTION
from penguin_training.post_training.rollouts import reward_metrics
from penguin_training.run.build_run import Run
from penguin_training.run.checkpoint import gather_weights, write_checkpoint
from penguin_training.run.optimizers import rate_share
from penguin_training.run.parallel import clip_gradients
from penguin_training.run.saved_state import begin_state, end_state, save_trainer

_Value = TypeVar("_Value", Tensor, float)
_SAMPLED = "sampled: "  # Begins the names of sums over sampled answers


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
        metrics.append(_training_step(run))
        progress.step += 1
        run.tracking.advance(progress.step)
        if progress.step % engine.log_every == 0 or progress.step == end:
            now = time.perf_counter()
            run.tracking.log(progress.step, _mean(metrics, now - since))
            since, metrics = now, []
        if progress.step == end or (engine.save_every and progress.step % engine.save_every == 0):
            save_state(run)


def save_state(run: Run) -> None:
    """Writes a state that a run can be resumed from, with a checkpoint for use.

    Raises WriteError if the disk is full; earlier states are unchanged.
    """
    main = run.accelerator.is_main_process
    name = f"step-{run.progress.step:08d}"
    folder = run.output / "checkpoints" / f".{name}.partial"
    try:
        with writing(folder.with_name(name)):
            if main:
                begin_state(folder, run.fingerprint)
            run.accelerator.wait_for_everyone()
            save_trainer(folder, run.model, run.optimizers, run.progress, run.accelerator.process_index)
            _save_checkpoint(run, folder)
            if main:
                end_state(folder, folder.with_name(name), run.settings.engine.keep)
    except WriteError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
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
    for name in ("read", "unusable", "dropped_turns", "label_tokens", "label_weight", "with_frames"):
        means[name] *= len(steps)
    sums = {name.removeprefix(_SAMPLED): means.pop(name) for name in [*means] if name.startswith(_SAMPLED)}
    return means | (reward_metrics(sums) if sums else {})


def _training_step(run: Run) -> dict[str, float]:
    """Takes one optimiser step; returns its metrics over all processes."""
    settings, accelerator = run.settings, run.accelerator
    batches = [next(run.batches) for _ in range(settings.budgets.micro_batches // accelerator.num_processes)]
    if run.rollouts is not None:
        batches = run.rollouts.answer(run.model, batches, run.progress.step)
    counts = _count(run, batches)
    share = rate_share(run.progress.step, run.steps, settings.schedule)
    decay_epochs = settings.reconstruction.decay_epochs if settings.reconstruction else 0.0
    weight = max(0.0, decay_epochs - run.epoch)  # released code: 3 - epoch
    sums: dict[str, Tensor] = {}
    for batch in batches:
        # Replicas exchange gradients only after the last micro-batch; shards always do, to stay small.
        with nullcontext() if batch is batches[-1] else accelerator.no_sync(run.model):
            losses = _forward(run, batch)
            # Replicas and shards average gradients over processes, but the objective is a sum over processes.
            accelerator.backward(accelerator.num_processes * _objective(run, losses, counts, weight))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() * (name not in RECONSTRUCTION or batch.real_frames)
    norm = clip_gradients(run.model, settings.optimizer.clip)
    run.optimizers.step(share)
    return _metrics(run, sums, counts, weight) | {"gradient_norm": norm, "rate_share": share}


def _forward(run: Run, batch: Batch) -> dict[str, Tensor]:
    batch = batch.to(run.accelerator.device)
    features = None
    if run.teacher is not None and batch.real_frames:
        features = run.teacher.features(batch.patches, batch.frames)
    return run.model(batch, features)  # type: ignore[no-any-return]


def _count(run: Run, batches: Sequence[Batch]) -> dict[str, float]:
    """Counts what a step holds over all processes; stops the run if too much of the data cannot be used."""
    own = {
        "label_tokens": sum(len(batch.targets) for batch in batches),
        "label_weight": sum(float(_counted(batch).sum(dtype=torch.float64)) for batch in batches),
        "tokens": sum(batch.size for batch in batches),
        "patches": sum(len(batch.patches) for batch in batches),
        "read": sum(batch.samples + len(batch.unusable) for batch in batches),
        "unusable": sum(len(batch.unusable) for batch in batches),
        "dropped_turns": sum(batch.dropped_turns for batch in batches),
        "with_frames": sum(batch.real_frames for batch in batches),
        **{f"{_SAMPLED}{name}": sum(batch.sums[name] for batch in batches) for name in batches[0].sums},
    }
    totals = torch.tensor([*own.values()], dtype=torch.float64, device=run.accelerator.device)
    counts = dict(zip(own, run.accelerator.reduce(totals).tolist(), strict=True))
    unusable = [entry for batch in batches for entry in batch.unusable]
    run.tracking.unusable(run.progress.step, unusable)
    run.progress.read += int(counts["read"])
    run.progress.unusable += int(counts["unusable"])
    example = unusable[0] if unusable else ("one", "see unusable.jsonl")
    check_unusable(run.progress.unusable, run.progress.read, run.settings.data.max_bad_share, example)
    return counts


def _counted(batch: Batch) -> Tensor:
    """Returns what each learnt token counts: its weight, or its share in one of the sampled answers."""
    return batch.weights if batch.shares is None else batch.shares


def _objective(run: Run, losses: Mapping[str, _Value], counts: Mapping[str, float], weight: float) -> _Value:
    """Returns what losses of a micro-batch, or their sums over a step, contribute to the loss of the step.

    cross-entropy / label_weight + weight * (direction + amplitude + relation) / label_tokens, with the counts of the
    whole step (released code, where all tokens weigh 1); or the mean of the reconstruction over the micro-batches.
    With rewards, (cross-entropy weighted by advantages + rewards.kl * divergence) / answers.
    """
    total = losses["cross_entropy"] / (counts["label_weight"] or 1.0)
    if "kl" in losses and run.settings.rewards:
        total = total + run.settings.rewards.kl * losses["kl"] / (counts["label_weight"] or 1.0)
    settings = run.settings.reconstruction
    if settings is not None:
        by_label = settings.divided_by == "label_tokens"
        divisor = max(1.0, counts["label_tokens"]) if by_label else float(run.settings.budgets.micro_batches)
        factors = (getattr(settings, name) * losses[name] for name in RECONSTRUCTION if name in losses)
        total = total + weight / divisor * sum(factors)
    return total


def _metrics(run: Run, sums: Mapping[str, Tensor], counts: Mapping[str, float], weight: float) -> dict[str, float]:
    """Returns the loss of a step, each part of it, and the counts."""
    reduced = run.accelerator.reduce(torch.stack([value.float() for value in sums.values()])).tolist()
    totals: dict[str, float] = dict(zip(sums, reduced, strict=True))
    metrics = {"loss": _objective(run, totals, counts, weight)}
    metrics["cross_entropy"] = totals["cross_entropy"] / (counts["label_weight"] or 1.0)
    if "kl" in totals:
        metrics["kl"] = totals["kl"] / (counts["label_weight"] or 1.0)
    if run.settings.reconstruction is not None:
        found = [name for name in RECONSTRUCTION if name in totals]
        metrics |= {name: totals[name] / max(1.0, counts["with_frames"]) for name in found}
        metrics["reconstruction_weight"] = weight
    filled = counts["tokens"] / (run.settings.budgets.tokens * run.settings.budgets.micro_batches)
    return {**metrics, "epoch": run.epoch, "filled": filled, **counts}
