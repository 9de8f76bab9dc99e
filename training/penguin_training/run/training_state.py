"""What a run needs to go on exactly where it stopped: trained weights, optimiser, averages, random states, position.

A state is a folder `step-00000123` in the run's `checkpoints`: the checkpoint in the released layout for use, and
`trainer/` for resuming. It is written under another name and renamed when it is complete, so that one that exists is
whole. Processes on several machines must share the file system.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from penguin_models.errors import TrainingError
from penguin_training.run.optimisation import MovingAverage

_TRAINER = "trainer"
_FIXED = "settings.json"
_NAME = re.compile(r"step-(\d{8})$")
_OPTIONS = StateDictOptions(ignore_frozen_params=True)
_LOADING = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        read: samples read by all processes.
        unusable: samples among them that were left out.
        stream: where this process stands in streamed data.
        window: micro-batches of a step, over all processes.
        world: processes; the same when streamed data is resumed.
    """

    step: int = 0
    read: int = 0
    unusable: int = 0
    stream: dict[str, Any] = field(default_factory=dict)
    window: int = 1
    world: int = 1


def states(output: Path) -> list[Path]:
    """Complete states of a run, oldest first."""
    folder = output / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _NAME.search(path.name) and (path / _TRAINER).is_dir())


def begin_state(output: Path, step: int, fixed: Mapping[str, Any]) -> Path:
    """Makes the folder in which a state is written, before `end_state` gives it its name; on the first process.

    Args:
        output: of the run.
        step: at which it stands.
        fixed: settings that resuming compares, see resuming.py.
    """
    folder = output / "checkpoints" / f".step-{step:08d}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _TRAINER).mkdir(parents=True)
    (folder / _TRAINER / _FIXED).write_text(json.dumps(fixed, indent=1) + "\n", encoding="utf-8")
    return folder


def written_with(folder: Path) -> dict[str, Any]:
    """The settings that a state was begun with.

    Raises:
        TrainingError: it has none.
    """
    file = folder / _TRAINER / _FIXED
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise TrainingError(
            f"{file} cannot be read ({err}); begin a new run: another output, with model.start {folder}"
        ) from err
    return found


def end_state(folder: Path, keep: int) -> Path:
    """Names a complete state, and removes the oldest beyond `keep`; on the first process."""
    final = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    shutil.rmtree(final, ignore_errors=True)
    folder.replace(final)
    for stale in states(folder.parents[1])[:-keep]:
        shutil.rmtree(stale)
    return final


def save_trainer(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: MovingAverage | None,
    progress: Progress,
    rank: int,
) -> None:
    """Writes what resuming needs into a folder that `begin_state` made; every process must call this."""
    tensors = _tensors(model, optimizers, average)
    with _quietly():
        dcp.save(tensors, checkpoint_id=str(folder / _TRAINER), no_dist=not dist.is_initialized())
    own = {"torch": torch.get_rng_state(), "progress": vars(progress)}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    torch.save(own, folder / _TRAINER / f"process-{rank}.pt")


def load_trainer(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: MovingAverage | None,
    now: Progress,
    rank: int,
) -> Progress:
    """Brings a run back to a state; every process must call this.

    Args:
        folder: of the state.
        model: with its frozen weights; the trained ones are replaced.
        optimizers: over the trained ones.
        average: of the weights, where the run keeps one.
        now: the number of processes of this run.
        rank: of this process.

    Raises:
        TrainingError: the state is of another run.
    """
    # Random states and counts are per process; with another number of processes the first one's must do.
    own_file = folder / _TRAINER / f"process-{rank}.pt"
    file = own_file if own_file.is_file() else folder / _TRAINER / "process-0.pt"
    own = torch.load(file, weights_only=True)
    progress = Progress(**own["progress"])
    if progress.stream and progress.world != now.world:
        raise TrainingError(
            f"{folder} was written by {progress.world} processes that read streams, this run has {now.world}; "
            "resume with as many"
        )
    state = _tensors(model, optimizers, average)
    try:
        with _quietly():
            dcp.load(state, checkpoint_id=str(folder / _TRAINER), no_dist=not dist.is_initialized())
    except (RuntimeError, ValueError, KeyError, dcp.api.CheckpointException) as err:
        reason = " ".join(str(err).split())[:300]
        raise TrainingError(f"{folder} does not fit this stage's model and settings: {reason}") from err
    set_state_dict(
        model, optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=_LOADING
    )
    torch.set_rng_state(own["torch"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])
    progress.world = now.world
    return progress


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: MovingAverage | None
) -> dict[str, Any]:
    """What is saved of the tensors; loading fills these very tensors."""
    weights, states_of_optimizer = get_state_dict(model, optimizers, options=_OPTIONS)
    averages = {} if average is None else {"average": average.weights}
    return {"model": weights, "optimizer": states_of_optimizer, **averages}
