"""How a stage's model is spread over processes: one process, replicas (DDP), or shards (FSDP2).

accelerate finds the processes and devices, and does replicas and mixed precision. Sharding uses torch's `fully_shard`
directly: accelerate shards on GPUs only, and GPUs should run the same code as the tests on a CPU.
"""

from __future__ import annotations

import logging
import math
import os
import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from penguin_models.errors import SettingError, TrainingError
from penguin_training.model.stage_model import StageModel
from penguin_training.settings.stage import StageSettings


def make_accelerator(settings: StageSettings) -> Accelerator:
    """Finds this process's siblings (`torchrun`) and device; raises SettingError if they do not fit the settings."""
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    engine = settings.engine
    sharded = engine.sharding == "fsdp2"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if sharded and "RANK" not in os.environ:
        raise SettingError("engine.sharding is fsdp2, which needs processes: start with torchrun, or set it to none")
    if settings.budgets.micro_batches % processes:
        raise SettingError(
            f"budgets.micro_batches is {settings.budgets.micro_batches}, which {processes} processes cannot share "
            f"evenly; make it a multiple of {processes}"
        )
    accelerator = Accelerator(
        mixed_precision="no" if sharded or engine.precision == "float32" else "bf16",
        log_with=list(engine.trackers) or None,
        project_config=ProjectConfiguration(project_dir=settings.output, logging_dir=f"{settings.output}/trackers"),
        cpu=not torch.cuda.is_available(),
    )
    if engine.precision == "bf16" and accelerator.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SettingError("engine.precision is bf16, which this GPU does not support; set it to float32")
    return accelerator


def place(model: StageModel, settings: StageSettings, accelerator: Accelerator) -> nn.Module:
    """Puts the model on its device, replicated or sharded; optimisers must be made afterwards."""
    if settings.engine.sharding == "none":
        model.to(accelerator.device)  # shards go there one by one: no device ever holds the whole model
    if settings.engine.compile:
        for layer in model.layers():
            layer.compile(dynamic=True)
    if settings.engine.sharding == "none":
        return accelerator.prepare(model)  # type: ignore[no-any-return]
    return _shard(model, settings, accelerator)


def place_frozen(model: StageModel, settings: StageSettings, accelerator: Accelerator) -> nn.Module:
    """Puts a model that is not trained on its device, sharded like the one that is."""
    model.requires_grad_(False).eval()
    if settings.engine.sharding == "none":
        return accelerator.prepare_model(model, evaluation_mode=True)  # type: ignore[no-any-return]
    return _shard(model, settings, accelerator)


def _shard(model: StageModel, settings: StageSettings, accelerator: Accelerator) -> nn.Module:
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    dtype = torch.bfloat16 if settings.engine.precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=torch.float32)
    layer_policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in model.layers():
        fully_shard(layer, mesh=mesh, mp_policy=layer_policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def clip_gradients(model: nn.Module, limit: float | None) -> float:
    """Scales gradients down to a norm of at most `limit` and returns the norm before; raises if it is not finite."""
    gradients = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(gradients, math.inf if limit is None else limit)
    value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if not math.isfinite(value):
        raise TrainingError(
            f"the norm of the gradients is {value}: training diverged; resume with lower learning_rates or float32; at "
            "the first step, check the weights of model.start for NaN"
        )
    return value


def end_processes() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_if_distributed() -> None:
    """Exits at once with code 0 if this process is one of several.

    Gloo's threads outlive the process group, because shards stay in DTensor's caches. A thread that releases a tensor
    while the interpreter shuts down aborts its process, and torchrun reports a finished run as failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
