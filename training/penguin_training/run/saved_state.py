"""What a run resumes from: trained weights, optimiser, random states and position in the data.

A state is a folder `checkpoints/step-00000123` in the output: a checkpoint in the released layout for use, and
`trainer/` for resuming. It is written under another name and renamed when complete, so a state that exists is whole.
Processes on several machines must share the file system.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import Field, TypeAdapter
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from penguin_models.config import read_json
from penguin_models.errors import CheckpointError, TrainingError
from penguin_training.run.optimizers import Optimizers
from penguin_training.run.safe_reader import SafePlanner, SafeReader
from penguin_training.settings.stage import StageSettings

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as intended in a single process

_TRAINER = "trainer"
_FINGERPRINT = "settings.json"
_SAVING = StateDictOptions(ignore_frozen_params=True)
_LOADING = StateDictOptions(ignore_frozen_params=True, strict=False)
_CHANGEABLE_ENGINE = ("compile", "gradient_checkpointing", "sharding", "keep", "log_every", "save_every", "trackers")
"""Settings of the engine that do not change what is learnt by more than rounding."""


@dataclass
class Progress:
    """Where a run is."""

    step: Annotated[int, Field(ge=0)] = 0  # Optimiser steps done
    read: Annotated[int, Field(ge=0)] = 0  # Samples read by all processes
    unusable: Annotated[int, Field(ge=0)] = 0  # How many of them were left out
    stream: dict[str, Any] = field(default_factory=dict)  # Position of this process in streamed data


def resume_fingerprint(settings: StageSettings, digests: Sequence[str], world: int) -> dict[str, Any]:
    """Returns what must not change when a run is resumed: settings by dotted key, and the content of the data.

    `digests` are hashes of the annotation files and their lengths. A stream has none, but the number of processes and
    workers that divide it must not change.
    """
    changeable = ["name.", "output.", *(f"engine.{name}." for name in _CHANGEABLE_ENGINE)]
    if not settings.data.streamed:
        changeable.append("data.workers.")
    flat = _flatten(asdict(settings))
    fixed = {key: value for key, value in flat.items() if not f"{key}.".startswith(tuple(changeable))}
    if settings.data.streamed:
        fixed["number of processes"] = world
    return fixed | {f"the content of data.files.{number}": digest for number, digest in enumerate(digests)}


def check_fingerprint(state: Path, now: Mapping[str, Any]) -> None:
    """Raises TrainingError if a state was written with other settings or other data than those of now."""
    file = state / _TRAINER / _FINGERPRINT
    remedy = f"begin a new run from it: another output, with model.start {state}"
    try:
        before = read_json(file)
    except CheckpointError as err:
        raise TrainingError(f"{err}; {remedy}") from err
    changed = [
        f"{key} was {repr(before.get(key))[:200]}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise TrainingError(
            f"{state} was written with other settings: {'; '.join(changed)}. Change them back, or {remedy}"
        )


def find_states(output: Path) -> list[Path]:
    """Returns the complete states of a run, oldest first."""
    return sorted(path for path in (output / "checkpoints").glob("step-*") if (path / _TRAINER).is_dir())


def begin_state(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Creates the folder in which a state is written until it is complete; called by the first process only."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _TRAINER).mkdir(parents=True)
    (folder / _TRAINER / _FINGERPRINT).write_text(json.dumps(fingerprint, indent=1) + "\n", encoding="utf-8")


def end_state(folder: Path, final: Path, keep: int) -> None:
    """Renames the folder of a complete state, and removes the oldest states beyond `keep`; first process only."""
    shutil.rmtree(final, ignore_errors=True)
    folder.replace(final)
    for stale in find_states(final.parents[1])[:-keep]:
        shutil.rmtree(stale)


def save_trainer(folder: Path, model: nn.Module, optimizers: Optimizers, progress: Progress, rank: int) -> None:
    """Writes what resuming needs into a partial folder; every process must call this."""
    tensors = _tensors(model, optimizers)
    failure: BaseException | None = None
    try:
        save(tensors, checkpoint_id=str(folder / _TRAINER), no_dist=not dist.is_initialized())
    except CheckpointException as err:  # a BaseException
        failure = next(iter(err.failures.values()))[0]
    if failure is not None:
        raise failure  # with its own context, which holds the reason
    own = {"torch": torch.get_rng_state(), "progress": vars(progress)}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    torch.save(own, folder / _TRAINER / f"process-{rank}.pt")


def load_trainer(folder: Path, model: nn.Module, optimizers: Optimizers, rank: int) -> Progress:
    """Restores a state into model and optimisers, and returns where the run was; every process must call this."""
    # Random states and counts are per process; a process that did not exist then uses those of the first.
    own_file = folder / _TRAINER / f"process-{rank}.pt"
    own = _read_own(own_file if own_file.is_file() else own_file.with_name("process-0.pt"))
    progress: Progress = own["progress"]
    state = _tensors(model, optimizers)
    reader = SafeReader(folder / _TRAINER)
    reader.read_metadata()  # raises its own errors, which `load` would replace
    try:
        load(state, storage_reader=reader, planner=SafePlanner(), no_dist=not dist.is_initialized())
    except (RuntimeError, ValueError, KeyError, UnpicklingError, CheckpointException) as err:
        reason = " ".join(str(err).split())[:300]
        raise TrainingError(f"{folder} does not fit this stage's model and settings: {reason}") from err
    weights, optimizer_states = state["model"], state["optimizer"]
    set_state_dict(model, optimizers.all, model_state_dict=weights, optim_state_dict=optimizer_states, options=_LOADING)
    torch.set_rng_state(own["torch"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])
    return progress


def _read_own(file: Path) -> dict[str, Any]:
    """Reads the random states and the progress of a process; raises TrainingError if they are damaged."""
    try:
        own: dict[str, Any] = torch.load(file, weights_only=True)
        return own | {
            "progress": TypeAdapter(Progress).validate_python(vars(Progress(**own["progress"]))),
            "torch": own["torch"],
        }
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, UnpicklingError) as err:
        raise TrainingError(f"{file} cannot be read: {' '.join(str(err).split())[:200]}") from err


def _tensors(model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Returns the tensors to save; loading writes into them."""
    weights, optimizer_states = get_state_dict(model, optimizers.all, options=_SAVING)
    return {"model": weights, "optimizer": optimizer_states}


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Returns the values of nested settings by dotted key; empty containers are left out."""
    if isinstance(value, dict):
        items = [(str(name), below) for name, below in value.items()]
    elif isinstance(value, list):
        items = [(str(number), below) for number, below in enumerate(value)]
    else:
        return {key: value}
    return {k: v for name, below in items for k, v in _flatten(below, f"{key}.{name}" if key else name).items()}
