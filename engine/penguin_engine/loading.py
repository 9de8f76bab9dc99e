"""Opens a model by the name of its runtime: what the command line and the node both call."""

from __future__ import annotations

from penguin_engine.runtime import Runtime
from penguin_models.errors import CheckpointError
from penguin_models.processor import Processor

RUNTIMES = ("torch",)


def open_runtime(
    name: str, model: str, device: str = "auto", precision: str | None = None
) -> tuple[Runtime, Processor]:
    """Loads a model.

    Args:
        name: of the runtime.
        model: checkpoint folder, or owner/name on the model hub.
        device: cpu, cuda, cuda:1; auto takes cuda where there is one.
        precision: type of the weights; as stored if None.

    Raises:
        CheckpointError: no such runtime, or the model cannot be loaded.
    """
    if name not in RUNTIMES:
        raise CheckpointError(f"there is no runtime {name!r}; there are {', '.join(RUNTIMES)}")
    import torch

    from penguin_engine.runtimes.torch import TorchRuntime
    from penguin_models.checkpoint import load_pretrained

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, processor = load_pretrained(model, precision, device)
    return TorchRuntime(loaded), processor
