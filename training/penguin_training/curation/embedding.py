"""Embeddings of samples: the interface of encoders, and CLIP, SigLIP and the like through transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from penguin_models.errors import CheckpointError, PenguinError
from penguin_models.types import Float32Array, UInt8Array
from penguin_training.curation.inspection import Views, decoded
from penguin_training.curation.shards import Shard

_IMAGES_PER_PASS = 32


class Embedder(Protocol):
    """Turns pictures into vectors."""

    def __call__(self, images: Sequence[UInt8Array]) -> Float32Array:
        """Returns a vector for each image, uint8 [H, W, 3] of any sizes: float32 [N, D]; raises PenguinError."""


OpenEmbedder = Callable[[], Embedder]
"""Opens an encoder, in the process that uses it; raises PenguinError."""


class TransformersEmbedder:
    """An image encoder that transformers' AutoModel reads."""

    def __init__(self, path_or_repo: str, device: str = "auto", dtype: str | None = None):
        """Loads model and image processor; raises CheckpointError if there is none, or it does not embed images."""
        import torch
        from transformers import AutoImageProcessor, AutoModel

        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if dtype is None and self._device == "cpu":
            dtype = "float32"  # the fastest there
        try:
            self._processor = AutoImageProcessor.from_pretrained(path_or_repo, trust_remote_code=False)
            self._model = (
                AutoModel.from_pretrained(path_or_repo, trust_remote_code=False, dtype=dtype).to(self._device).eval()
            )
        except (OSError, ValueError, KeyError) as err:
            reason = " ".join(str(err).split())[:200]
            raise CheckpointError(f"{path_or_repo} is no image encoder that transformers reads: {reason}") from err
        self._no_grad = torch.no_grad

    def __call__(self, images: Sequence[UInt8Array]) -> Float32Array:
        """Returns the model's image features, or the pooled output of a model of images alone."""
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._device)
        with self._no_grad():
            found: Any = getattr(self._model, "get_image_features", self._model)(**inputs)
        found = getattr(found, "pooler_output", found)
        return np.asarray(found.float().cpu().numpy(), np.float32)


def embed_shard(shard: Shard, wanted: set[int], embedder: Embedder) -> tuple[Float32Array, dict[int, str]]:
    """Embeds samples of a shard.

    Returns:
        A unit vector for each number in `wanted`, in ascending order, float32 [samples, D], zero for one that cannot be
        embedded; and why it cannot be, by its number.
    """
    vectors: dict[int, Float32Array] = {}
    problems: dict[int, str] = {}
    waiting: list[tuple[int, Views]] = []
    for number, _, views in decoded(shard, wanted):
        if isinstance(views, PenguinError):
            problems[number] = str(views)
            continue
        waiting.append((number, views))
        if sum(len(views.images) for _, views in waiting) >= _IMAGES_PER_PASS:
            _embed(waiting, embedder, vectors, problems)
            waiting.clear()
    _embed(waiting, embedder, vectors, problems)
    width = next((len(vector) for vector in vectors.values()), 1)
    missing = dict.fromkeys(wanted - vectors.keys() - problems.keys(), "it is no longer in the file")
    rows = [vectors.get(number, np.zeros(width, np.float32)) for number in sorted(wanted)]
    return np.stack(rows) if rows else np.empty((0, width), np.float32), problems | missing


def _embed(
    samples: list[tuple[int, Views]], embedder: Embedder, vectors: dict[int, Float32Array], problems: dict[int, str]
) -> None:
    """Adds the vectors of samples; if the encoder refuses them together, they are tried one by one."""
    if not samples:
        return
    try:
        found = iter(embedder([rgb for _, views in samples for rgb in views.images]))
    except PenguinError as err:
        if len(samples) == 1:
            problems[samples[0][0]] = str(err)
            return
        for sample in samples:
            _embed([sample], embedder, vectors, problems)
        return
    for number, views in samples:
        vector = _unit(np.mean([_unit(next(found)) for _ in views.images], axis=0))
        if np.isfinite(vector).all() and vector.any():
            vectors[number] = vector
        else:
            problems[number] = "its features are zero or not finite; use another --dtype"


def _unit(vector: Float32Array) -> Float32Array:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
