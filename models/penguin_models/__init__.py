"""The model, without ROS and without runtimes.

Start with `load_pretrained` and `save_pretrained`, or with `load_encoder` for the vision encoder by itself. Importing
the package does not import torch.
"""

from typing import Any

__all__ = ["convert_llm_to_encoder", "load_encoder", "load_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    if name in ("load_pretrained", "save_pretrained"):
        from penguin_models import checkpoint

        return getattr(checkpoint, name)
    if name == "load_encoder":
        from penguin_models.image_encoder import load_encoder

        return load_encoder
    if name == "convert_llm_to_encoder":
        from penguin_models.encoder_from_llm import convert_llm_to_encoder

        return convert_llm_to_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
