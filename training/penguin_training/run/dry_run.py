"""Checks a stage without its weights: reads one micro-batch, counts parameters and estimates memory.

The largest micro-batch of the first epoch goes through a model of fake tensors: torch itself checks the shapes, the
tensors that autograd would store are added up, and nothing is computed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from penguin_models.errors import DataError
from penguin_training.data.batch import Batch
from penguin_training.data.indexed_data import IndexedData
from penguin_training.data.open_data import check_unusable, open_data
from penguin_training.model.blueprint import Blueprint, make_blueprint
from penguin_training.model.build_model import check_weights, empty_model
from penguin_training.model.stage_model import StageModel, part_of
from penguin_training.model.teachers import Teacher, load_teacher
from penguin_training.post_training.rollouts import longest_batch
from penguin_training.run.checks import check_settings
from penguin_training.run.optimizers import uses_muon
from penguin_training.settings.stage import StageSettings

_ADAM_BYTES = 8  # two float32 moments
_MUON_BYTES = 4  # one
_GRADIENT_BYTES = 4
_COMPUTE_BYTES = {"float32": 4, "bf16": 2}


@dataclass
class DryRunReport:
    """What a stage would do."""

    name: str
    trained: dict[str, int]  # Number of trained parameters, by part
    frozen: dict[str, int]  # Number of frozen parameters, by part
    steps: int
    micro_batches_per_epoch: int | None  # Summed over all processes; None for streams
    filled: float | None  # Fraction of the token budget that is filled; None for streams
    unusable: int  # Samples that the length indexes leave out, and those of the micro-batch that cannot be read
    shapes: dict[str, Any]
    sharded: bool  # Whether processes share the weights and what belongs to them
    bytes: dict[str, int]  # Memory by purpose, without temporary buffers of kernels

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values."""
        return vars(self) | {"total_bytes": sum(self.bytes.values())}

    def lines(self) -> list[str]:
        """Returns the report as text."""
        trained = [f"{part} {_format_count(n)}" for part, n in self.trained.items()]
        frozen = [f"{part} {_format_count(n)}" for part, n in self.frozen.items()]
        epoch = "a stream" if self.micro_batches_per_epoch is None else f"{self.micro_batches_per_epoch} per epoch"
        fill = "" if self.filled is None else f", {self.filled:.1%} of the budget filled"
        memory = [f"{name} {_format_bytes(size)}" for name, size in self.bytes.items()]
        shared = "; processes share all but activations, teacher and sampling" if self.sharded else " in each process"
        return [
            f"{self.name}: {self.steps} steps; micro-batches: {epoch}{fill}; {self.unusable} samples unusable",
            f"trained: {', '.join(trained)}",
            f"frozen: {', '.join(frozen) or 'nothing'}",
            "largest micro-batch: " + ", ".join(f"{name} {shape}" for name, shape in self.shapes.items()),
            f"memory: {_format_bytes(sum(self.bytes.values()))} ({', '.join(memory)}){shared}",
        ]


def dry_run(settings: StageSettings) -> DryRunReport:
    """Checks a stage and reports what it would do; raises PenguinError if something is missing or does not fit."""
    check_settings(settings)
    blueprint = make_blueprint(settings)
    check_weights(settings)
    teacher = None
    if settings.reconstruction:
        patch_size = blueprint.processor.images.patch_size
        teacher = load_teacher(settings.reconstruction.teacher, patch_size, weights=False)
    data = open_data(settings, blueprint)
    batch = data.sample_batch()
    if not batch.samples:
        name, reason = batch.unusable[0]
        raise DataError(f"no sample of the first micro-batch can be read; for example {name}: {reason}")
    if batch.unusable:  # as the first step would
        read = batch.samples + len(batch.unusable)
        check_unusable(len(batch.unusable), read, settings.data.max_bad_share, batch.unusable[0])
    if settings.rewards:
        batch = longest_batch(batch, settings)
    trained, frozen, memory = _measure(settings, blueprint, teacher, batch)
    return DryRunReport(
        name=settings.name,
        trained=trained,
        frozen=frozen,
        steps=data.steps,
        micro_batches_per_epoch=data.micro_batches_per_epoch,
        filled=data.plan.fill() if isinstance(data, IndexedData) else None,
        unusable=len(data.unusable) + len(batch.unusable),
        shapes={
            "tokens": list(batch.ids.shape),
            "samples": batch.samples,
            "label tokens": list(batch.targets.shape),
            "patches": list(batch.patches.shape),
            "frames": len(batch.frames) * batch.real_frames,
            "visual tokens": sum(batch.frame_tokens) * batch.real_frames,
        },
        sharded=settings.engine.sharding != "none",
        bytes=memory,
    )


def _measure(
    settings: StageSettings, blueprint: Blueprint, teacher: Teacher | None, batch: Batch
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Returns trained and frozen parameters by part, and memory by purpose."""
    width = teacher.width if teacher else None
    with torch.device("meta"):
        model = empty_model(settings, blueprint, width)
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    muon = 0
    for name, parameter in model.named_parameters():
        counts[parameter.requires_grad][part_of(name)] += parameter.numel()
        if parameter.requires_grad and uses_muon(name, parameter, settings.optimizer):
            muon += parameter.numel()
    trained, taught = counts[True].total(), sum(p.numel() for p in teacher.parameters()) if teacher else 0
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    parameters = sum(p.numel() for p in model.parameters())
    memory = {
        "weights": weights,
        "gradients": _GRADIENT_BYTES * trained,
        "optimiser": _ADAM_BYTES * (trained - muon) + _MUON_BYTES * muon,
        "teacher": _COMPUTE_BYTES[settings.engine.precision] * taught,
        "reference": weights if settings.rewards and settings.rewards.kl else 0,
        "sampling": _COMPUTE_BYTES[settings.engine.precision] * parameters if settings.rewards else 0,
        "activations": _activation_bytes(model, settings, width, batch),
    }
    return dict(counts[True]), dict(counts[False]), {name: size for name, size in memory.items() if size}


def _activation_bytes(model: StageModel, settings: StageSettings, width: int | None, batch: Batch) -> int:
    """Adds up what autograd stores in a forward pass of fake tensors, besides the weights of a model on meta."""
    stored: dict[int, Tensor] = {}  # alive, or storage addresses would be reused

    def store(tensor: Tensor) -> Tensor:
        stored.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.device("cpu"):
        model.to_empty(device="cpu")
        model.language_model.tie_weights()
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        fake_batch = replace(batch, **{name: fake.from_tensor(value) for name, value in batch.tensors.items()})  # type: ignore[arg-type]
        features = None if width is None else torch.zeros(sum(batch.frame_tokens), width)
        with (
            torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=settings.engine.precision == "bf16"),
        ):
            model(fake_batch, features)
    return sum(t.untyped_storage().nbytes() for address, t in stored.items() if address not in weights)


def _format_count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number < 1e9 else f"{number / 1e9:.2f} G"


def _format_bytes(number: int) -> str:
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"
