"""From a stage's settings to a run that is ready to go; every error that can be found beforehand is found here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from penguin_models.errors import DataError, TrainingError
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.batches import Batch
from penguin_training.data.length_index import load_index
from penguin_training.data.loader import IndexedData, check_unusable, iterate
from penguin_training.data.packing import PackingPlan
from penguin_training.data.samples import SampleReader
from penguin_training.data.streamed import StreamedData
from penguin_training.model.initial_weights import build_model
from penguin_training.model.teachers import Teacher, check_teacher, load_teacher
from penguin_training.run.loop import Run
from penguin_training.run.optimisation import MovingAverage, Optimizers
from penguin_training.run.output_folder import check_output
from penguin_training.run.parallel import make_accelerator, place
from penguin_training.run.resuming import check_unchanged, resume_fingerprint
from penguin_training.run.tracking import Tracking, check_trackers
from penguin_training.run.training_state import Progress, load_trainer, states, written_with
from penguin_training.settings.blueprint import Blueprint, make_blueprint
from penguin_training.settings.stage import StageSettings


@dataclass(frozen=True, eq=False)
class Source:
    """The data of a stage and how long it lasts.

    Attributes:
        data: indexed or streamed.
        steps: optimiser steps of the stage.
        micro_batches_per_epoch: of all processes; None for streams.
    """

    data: IndexedData | StreamedData
    steps: int
    micro_batches_per_epoch: int | None

    def unusable(self) -> list[tuple[str, str]]:
        """(id, reason) of samples that the length indexes leave out; those of a stream are found on the way."""
        return self.data.unusable() if isinstance(self.data, IndexedData) else []

    def digests(self) -> list[str]:
        """Of the annotation files and their lengths, see `LengthIndex`; none of streams."""
        return [index.digest for _, index in self.data.files] if isinstance(self.data, IndexedData) else []


def make_reader(settings: StageSettings, blueprint: Blueprint) -> SampleReader:
    """Measures and encodes samples as the stage wants them."""
    budgets = settings.budgets
    return SampleReader(
        blueprint.processor,
        settings.data,
        min(budgets.tokens, blueprint.context or budgets.tokens),
        budgets.visual_tokens,
        sees=settings.kind == "multimodal",
        reconstructs=settings.reconstruction is not None,
    )


def annotation_files(settings: StageSettings) -> list[AnnotationFile]:
    """Opens the stage's annotation files.

    Raises:
        DataError: one is missing, empty or not JSON.
    """
    root = Path(settings.data.root) if settings.data.root else None
    if root is not None and not root.is_dir():
        raise DataError(f"data.root {root} is not a folder")
    return [
        AnnotationFile((root or Path()) / file.name, root, file.only, file.conversations)
        for file in settings.data.files
    ]


def open_source(settings: StageSettings, blueprint: Blueprint) -> Source:
    """Opens the stage's data and says how many steps it makes.

    Raises:
        DataError: a file or its length index is missing or does not fit, too many samples cannot be used, or there is
            too little for one step.
    """
    reader = make_reader(settings, blueprint)
    schedule, window = settings.schedule, settings.budgets.micro_batches
    if settings.data.streamed:
        assert schedule.steps is not None
        return Source(StreamedData(settings, reader), schedule.steps, None)
    files = [(file, load_index(file, reader)) for file in annotation_files(settings)]
    sizes = torch.cat([torch.from_numpy(index.packed_sizes()) for _, index in files]).numpy()
    repeats = [(len(file), wanted.repeat) for (file, _), wanted in zip(files, settings.data.files, strict=True)]
    plan = PackingPlan(sizes, repeats, settings.budgets.tokens, settings.engine.seed)
    data = IndexedData(files, plan, reader)
    if unusable := data.unusable():
        check_unusable(len(unusable), data.samples, settings.data.max_bad_share, unusable[0])
    per_epoch = len(plan.micro_batches(0))
    if not per_epoch:
        raise DataError("no sample of data.files can be used")
    return Source(data, schedule.steps or _steps(plan, float(schedule.epochs or 0), window), per_epoch)


def _steps(plan: PackingPlan, epochs: float, window: int) -> int:
    """Whole optimiser steps in so many passes over the data."""
    whole, part = int(epochs), epochs % 1
    micro_batches = sum(len(plan.micro_batches(epoch)) for epoch in range(whole))
    if part:
        micro_batches += int(part * len(plan.micro_batches(whole)))
    plan.micro_batches(0)
    if micro_batches < window:
        raise DataError(
            f"{epochs:g} epochs make {micro_batches} micro-batches, one step takes {window}; "
            "lower budgets.micro_batches or train for more epochs"
        )
    return micro_batches // window


def prepare_run(settings: StageSettings, resume: bool, console: Console) -> Run:
    """Makes everything that a stage needs, in the order in which errors are cheap.

    Args:
        settings: of the stage.
        resume: go on from the newest state; without this, the output must hold no run and no checkpoint.
        console: where progress is shown.

    Raises:
        PenguinError: something is missing, does not fit, or contradicts something else.
    """
    check_output(settings)
    state = _state_to_begin_from(Path(settings.output), resume)
    check_trackers(settings.engine.trackers)
    accelerator = make_accelerator(settings, settings.output)
    blueprint = make_blueprint(settings)
    source = open_source(settings, blueprint)
    fixed = resume_fingerprint(settings, source.digests())
    if state:
        check_unchanged(written_with(state), fixed, settings, state)
    teacher = open_teacher(settings, blueprint)
    model, optimizers, average = _make_model(settings, blueprint, teacher, accelerator)
    progress = Progress(window=settings.budgets.micro_batches, world=accelerator.num_processes)
    rank = accelerator.process_index
    torch.manual_seed(settings.engine.seed + rank)
    if state:
        progress = load_trainer(state, model, optimizers.all, average, progress, rank)
    return Run(
        settings,
        fixed,
        blueprint,
        accelerator,
        model,
        optimizers,
        teacher,
        average,
        _batches(source, settings, progress, rank, accelerator.num_processes),
        source.steps,
        source.micro_batches_per_epoch,
        progress,
        Tracking(accelerator, Path(settings.output), source.steps, console, source.unusable()),
    )


def _state_to_begin_from(output: Path, resume: bool) -> Path | None:
    """The newest state of a run that is to be resumed; None where a run begins."""
    found = states(output)
    if found and not resume:
        raise TrainingError(f"{output} holds a run already (newest {found[-1].name}); give --resume or another output")
    checkpoint = next((name for name in ("config.json", "model.safetensors") if (output / name).exists()), None)
    if checkpoint and not resume:
        raise TrainingError(f"{output} holds a checkpoint already ({checkpoint}); give another output, or move it away")
    if resume and not found:
        raise TrainingError(f"{output} has no state to resume from; leave --resume out")
    return found[-1] if found else None


def _make_model(
    settings: StageSettings, blueprint: Blueprint, teacher: Teacher | None, accelerator: Accelerator
) -> tuple[nn.Module, Optimizers, MovingAverage | None]:
    """The model and what steps it, placed; the teacher goes to the same device."""
    width, reading = None, None
    if teacher and settings.reconstruction:
        width, reading = teacher.width, teacher.reading if settings.reconstruction.reading else None
        teacher.to(accelerator.device, torch.bfloat16 if settings.engine.precision == "bf16" else torch.float32)
    model = place(build_model(settings, blueprint, width, reading), settings, accelerator)
    decay = settings.engine.ema_decay
    return model, Optimizers(model, settings), MovingAverage(model, decay) if decay else None


def open_teacher(settings: StageSettings, blueprint: Blueprint) -> Teacher | None:
    """The stage's teacher on the CPU, if it has one.

    Raises:
        CheckpointError: its checkpoint is missing or broken.
        SettingError: it cannot read the student's patches.
    """
    if settings.reconstruction is None:
        return None
    teacher = load_teacher(settings.reconstruction.teacher)
    check_teacher(teacher, blueprint.processor.images.patch_size)
    return teacher


def _batches(source: Source, settings: StageSettings, progress: Progress, rank: int, world: int) -> Iterator[Batch]:
    pin = torch.cuda.is_available()
    if isinstance(source.data, StreamedData):
        return source.data.iterate(progress, rank, world, settings.data.workers, pin)
    start = progress.step * progress.window
    return iterate(source.data, start, rank, world, settings.data.workers, pin)
