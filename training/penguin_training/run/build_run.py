"""From a stage's settings to a `Run` that is ready to go; every error that can be found beforehand is found here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from penguin_models.errors import TrainingError
from penguin_training.data.batch import Batch
from penguin_training.data.indexed_data import IndexedData
from penguin_training.data.open_data import open_data
from penguin_training.data.streamed_data import StreamedData
from penguin_training.model.blueprint import Blueprint, make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.model.teachers import Teacher, load_teacher
from penguin_training.post_training.rollouts import Rollouts
from penguin_training.run.checks import check_settings
from penguin_training.run.optimizers import Optimizers
from penguin_training.run.parallel import make_accelerator, place
from penguin_training.run.saved_state import Progress, check_fingerprint, find_states, load_trainer, resume_fingerprint
from penguin_training.run.tracking import Tracking
from penguin_training.settings.stage import StageSettings


@dataclass(eq=False)
class Run:
    """A stage that is ready to go."""

    settings: StageSettings
    fingerprint: dict[str, Any]  # What must not change when the run is resumed
    blueprint: Blueprint
    accelerator: Accelerator
    model: nn.Module  # `StageModel`, placed
    optimizers: Optimizers
    teacher: Teacher | None  # On its device, or None
    rollouts: Rollouts | None  # Samples answers, in a stage with rewards
    data: IndexedData | StreamedData
    batches: Iterator[Batch]  # Micro-batches of this process from `progress` on
    progress: Progress
    tracking: Tracking

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return self.data.steps

    @property
    def output(self) -> Path:
        """Folder of the result."""
        return Path(self.settings.output)

    @property
    def epoch(self) -> float:
        """Passes over the data so far; for a stream, the fraction of the steps."""
        if self.data.micro_batches_per_epoch is None:
            return self.progress.step / self.steps
        return self.progress.step * self.settings.budgets.micro_batches / self.data.micro_batches_per_epoch


def build_run(settings: StageSettings, resume: bool, console: Console) -> Run:
    """Makes everything that a stage needs, in the order in which errors are cheap; raises PenguinError.

    With `resume`, it continues from the newest state; otherwise the output must hold no run and no checkpoint.
    """
    check_settings(settings)
    output = Path(settings.output)
    state = _state_to_resume(output, resume)
    accelerator = make_accelerator(settings)
    rank, world = accelerator.process_index, accelerator.num_processes
    blueprint = make_blueprint(settings)
    data = open_data(settings, blueprint)
    steps = data.steps
    fingerprint = resume_fingerprint(settings, data.digests, world)
    if state:
        check_fingerprint(state, fingerprint)
    teacher, width, reading = None, None, None
    if settings.reconstruction:
        teacher = load_teacher(settings.reconstruction.teacher, blueprint.processor.images.patch_size)
        teacher.to(accelerator.device, torch.bfloat16 if settings.engine.precision == "bf16" else torch.float32)
        width, reading = teacher.width, teacher.reading if settings.reconstruction.reading else None
    model = place(build_model(settings, blueprint, width, reading), settings, accelerator)
    optimizers = Optimizers(model, settings)
    torch.manual_seed(settings.engine.seed + rank)
    progress = load_trainer(state, model, optimizers, rank) if state else Progress()
    return Run(
        settings=settings,
        fingerprint=fingerprint,
        blueprint=blueprint,
        accelerator=accelerator,
        model=model,
        optimizers=optimizers,
        teacher=teacher,
        rollouts=Rollouts(settings, blueprint, accelerator) if settings.rewards else None,
        data=data,
        batches=data.batches(progress.step, progress.stream, rank, world),
        progress=progress,
        tracking=Tracking(accelerator, output, steps, console),
    )


def _state_to_resume(output: Path, resume: bool) -> Path | None:
    found = find_states(output)
    if resume:
        if not found:
            raise TrainingError(f"{output} has no state to resume from; remove --resume to begin a run")
        return found[-1]
    if found:
        raise TrainingError(f"{output} already holds a run (newest {found[-1].name}); add --resume or change output")
    for name in ("config.json", "model.safetensors"):
        if (output / name).exists():
            raise TrainingError(f"{output} already holds a checkpoint ({name}); change output, or move it away")
    return None
