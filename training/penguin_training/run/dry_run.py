"""A stage without its weights: everything is checked that can be, one micro-batch is read, and its memory is counted.

The largest micro-batch of the first epoch goes through a model of fake tensors: shapes are checked by torch itself,
what autograd would keep is added up, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from penguin_models.encoder import patch_positions
from penguin_models.errors import DataError
from penguin_training.data.batches import Batch
from penguin_training.data.loader import IndexedData
from penguin_training.model.initial_weights import check_weights, empty_model
from penguin_training.model.stage_model import part_of
from penguin_training.model.teachers import Teacher, check_teacher, empty_teacher
from penguin_training.run.optimisation import takes_muon
from penguin_training.run.output_folder import check_output
from penguin_training.run.setup import Source, open_source
from penguin_training.run.tracking import check_trackers
from penguin_training.settings.blueprint import Blueprint, make_blueprint
from penguin_training.settings.stage import StageSettings

_ADAM_BYTES = 8  # two float32 moments
_MUON_BYTES = 4  # one
_GRADIENT_BYTES = 4
_COMPUTED_BYTES = {"float32": 4, "bf16": 2}
_SCANNED = 2000
"""Micro-batches among which the largest is looked for."""


@dataclass
class Report:
    """What a stage would do.

    Attributes:
        name: of the stage.
        trained: parameters that are trained, by part.
        frozen: parameters that are not, by part.
        steps: optimiser steps.
        micro_batches_per_epoch: of all processes; None for streams.
        filled: share of the token budget that is filled; None for streams.
        unusable: samples that the length indexes leave out, and those of the micro-batch that cannot be read.
        shapes: of the micro-batch that was read.
        sharded: whether processes share the weights and what belongs to them.
        bytes: memory by what it is for; what a kernel needs for a moment is not in it.
    """

    name: str
    trained: dict[str, int]
    frozen: dict[str, int]
    steps: int
    micro_batches_per_epoch: int | None
    filled: float | None
    unusable: int
    shapes: dict[str, Any]
    sharded: bool = False
    bytes: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return vars(self) | {"total_bytes": sum(self.bytes.values())}

    def lines(self) -> list[str]:
        """For people."""
        trained = [f"{part} {_count(n)}" for part, n in self.trained.items()]
        frozen = [f"{part} {_count(n)}" for part, n in self.frozen.items()]
        pace = "a stream" if self.micro_batches_per_epoch is None else f"{self.micro_batches_per_epoch} an epoch"
        fill = "" if self.filled is None else f", {self.filled:.1%} of the budget filled"
        memory = [f"{name} {_bytes(size)}" for name, size in self.bytes.items()]
        shared = "; processes share all but the activations and the teacher" if self.sharded else " in each process"
        return [
            f"{self.name}: {self.steps} steps; micro-batches: {pace}{fill}; {self.unusable} samples unusable",
            f"trained: {', '.join(trained)}",
            f"frozen: {', '.join(frozen) or 'nothing'}",
            "largest micro-batch: " + ", ".join(f"{name} {shape}" for name, shape in self.shapes.items()),
            f"memory: {_bytes(sum(self.bytes.values()))} ({', '.join(memory)}){shared}",
        ]


def dry_run(settings: StageSettings) -> Report:
    """Checks a stage and says what it would do; reads configuration files and data, but no weights.

    Raises:
        PenguinError: something is missing, does not fit, or contradicts something else.
    """
    check_output(settings)
    check_trackers(settings.engine.trackers)
    blueprint = make_blueprint(settings)
    check_weights(settings)
    teacher = None
    if settings.reconstruction:
        teacher = empty_teacher(settings.reconstruction.teacher)
        check_teacher(teacher, blueprint.processor.images.patch_size)
    source = open_source(settings, blueprint)
    batch = _largest(source)
    trained, frozen, memory = _measure(settings, blueprint, teacher, batch)
    data = source.data
    return Report(
        settings.name,
        trained,
        frozen,
        source.steps,
        source.micro_batches_per_epoch,
        data.plan.fill() if isinstance(data, IndexedData) else None,
        len(source.unusable()) + len(batch.unusable),
        _shapes(batch),
        settings.engine.sharding != "none",
        memory,
    )


def _largest(source: Source) -> Batch:
    """The micro-batch with the most patches, of a stream the first one; read for real."""
    data = source.data
    if isinstance(data, IndexedData):
        candidates = data.plan.micro_batches(0)[:_SCANNED]
        batch = data.batch(max(candidates, key=lambda numbers: (data.patches(numbers), data.plan.size(numbers))))
    else:
        batch = data.first()
    if not batch.samples:
        name, reason = batch.unusable[0]
        raise DataError(f"no sample of the first micro-batch can be read; for example {name}: {reason}")
    return batch


def _measure(
    settings: StageSettings, blueprint: Blueprint, teacher: Teacher | None, batch: Batch
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Parameters by part, and memory by what it is for.

    All layers of a kind are alike: models with one and with two of them say what a model with all of them takes.
    """
    width = teacher.width if teacher else None
    taught = sum(p.numel() for p in teacher.parameters()) if teacher else 0
    depths = _depths(blueprint)
    ones = dict.fromkeys(depths, 1)
    base = _pass(settings, _with_depths(blueprint, ones), width, batch)
    sizes = dict(base)
    for kind, depth in depths.items():
        deeper = _pass(settings, _with_depths(blueprint, ones | {kind: 2}), width, batch)
        for name in deeper:
            sizes[name] = sizes.get(name, 0) + (depth - 1) * (deeper[name] - base.get(name, 0))
    trained = {name.removeprefix("trained "): size for name, size in sizes.items() if name.startswith("trained ")}
    frozen = {name.removeprefix("frozen "): size for name, size in sizes.items() if name.startswith("frozen ")}
    memory = {
        "weights": sizes["weights"],
        "gradients": _GRADIENT_BYTES * sum(trained.values()),
        "optimiser": _ADAM_BYTES * (sum(trained.values()) - sizes["muon"]) + _MUON_BYTES * sizes["muon"],
        "average": 4 * sum(trained.values()) if settings.engine.ema_decay else 0,
        "teacher": _COMPUTED_BYTES[settings.engine.precision] * taught,
        "activations": sizes["activations"],
    }
    return trained, frozen, {name: size for name, size in memory.items() if size}


def _depths(blueprint: Blueprint) -> dict[str, int]:
    depths = {"decoder": int(blueprint.decoder["num_hidden_layers"])}
    if blueprint.penguin is not None:
        depths["encoder"] = blueprint.penguin.encoder.num_hidden_layers
    return depths


def _with_depths(blueprint: Blueprint, depths: dict[str, int]) -> Blueprint:
    """The blueprint with other numbers of layers."""
    decoder = {k: v for k, v in blueprint.decoder.items() if k not in ("layer_types", "max_window_layers")}
    penguin = blueprint.penguin
    if penguin is not None:
        penguin = replace(penguin, encoder=replace(penguin.encoder, num_hidden_layers=depths["encoder"]))
    return replace(blueprint, decoder=decoder | {"num_hidden_layers": depths["decoder"]}, penguin=penguin)


def _pass(settings: StageSettings, blueprint: Blueprint, width: int | None, batch: Batch) -> dict[str, int]:
    """A forward pass of fake tensors: parameters by part and of Muon, bytes of weights and of what autograd keeps."""
    with torch.device("meta"):
        model = empty_model(settings, blueprint, width)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.device("cpu"):
        _give_fakes(model)
        kept = _Kept(model)
        tensors = {name: fake.from_tensor(value) for name, value in vars(batch).items() if isinstance(value, Tensor)}
        faked = Batch(**{**vars(batch), **tensors})
        features = None if width is None else torch.zeros(sum(batch.frame_tokens), width)
        with kept.counting(), torch.autocast("cpu", torch.bfloat16, enabled=settings.engine.precision == "bf16"):
            model(faked, features)
    patch_positions.cache_clear()  # it would give fake positions to whoever asks next
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    sizes = {"weights": weights, "activations": kept.bytes, "muon": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and takes_muon(name, parameter, settings.optimizer):
            sizes["muon"] += parameter.numel()
        part = f"{'trained' if parameter.requires_grad else 'frozen'} {part_of(name)}"
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    return sizes


def _give_fakes(model: nn.Module) -> None:
    """Puts fake tensors of the CPU in place of those on the meta device; call under FakeTensorMode."""
    made: dict[int, nn.Parameter] = {}  # tied ones stay tied
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) not in made:
                made[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad)
            if p is not None:
                module._parameters[name] = made[id(p)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Kept:
    """Adds up what autograd keeps for the backward pass, beside the weights."""

    def __init__(self, model: nn.Module):
        self.bytes = 0
        self._seen: set[int] = {p.untyped_storage()._cdata for p in model.parameters()}
        self._alive: list[Tensor] = []

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)  # or its number would be given away again
            self.bytes += storage.nbytes()
        return tensor

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts while it is open."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield


def _shapes(batch: Batch) -> dict[str, Any]:
    return {
        "tokens": list(batch.ids.shape),
        "samples": batch.samples,
        "label tokens": list(batch.targets.shape),
        "patches": list(batch.patches.shape),
        "frames": len(batch.frames) if batch.real_frames else 0,
        "visual tokens": sum(batch.frame_tokens) if batch.real_frames else 0,
    }


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number < 1e9 else f"{number / 1e9:.2f} G"


def _bytes(number: int) -> str:
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"
