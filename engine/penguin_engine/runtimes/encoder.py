"""The vision encoder by itself on torch or ONNX Runtime: images of any sizes -> features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penguin_engine.export.encoder_manifest import ENCODER_MANIFEST, EncoderManifest
from penguin_engine.export.manifest import MANIFEST
from penguin_models.config import ImageConfig
from penguin_models.errors import EngineError
from penguin_models.images import patch_whole_image
from penguin_models.types import Float32Array, PatchedImage, UInt8Array


@dataclass(frozen=True)
class OpenEncoder:
    """An encoder that is ready to run.

    Attributes:
        hidden_size: Length of a feature vector.
        images: How images are cut into patches.
        run: Encodes images that are cut into patches, float32 [tokens, hidden_size] each.
    """

    hidden_size: int
    images: ImageConfig
    run: Callable[[Sequence[PatchedImage]], list[Float32Array]]

    def patch(self, rgb: UInt8Array, max_tokens: int | None = None) -> PatchedImage:
        """Cuts an image into patches, see `patch_whole_image`."""
        return patch_whole_image(rgb, self.images, max_tokens)

    def __call__(self, images: Sequence[UInt8Array], max_tokens: int | None = None) -> list[Float32Array]:
        """Returns the features of images, uint8 [H, W, 3]: float32 [tokens, hidden_size] each, in raster order."""
        return self.run([self.patch(rgb, max_tokens) for rgb in images])


def open_encoder(
    path_or_repo: str | Path, device: str = "auto", dtype: str | None = None, revision: str | None = None
) -> OpenEncoder:
    """Opens an encoder: on ONNX Runtime if it was exported (`penguin-vl export --encoder`), else on torch.

    Args:
        path_or_repo: Exported encoder, or anything that `penguin_models.load_encoder` reads.
        device: "cpu", "cuda", "cuda:1", ..., or "auto" for CUDA if there is a GPU.
        dtype: Type of the weights; if None, float32 on a CPU, where it is fastest, else as stored. An exported encoder
            must have it.
        revision: Branch, tag or commit on the model hub.

    Raises:
        CheckpointError: The checkpoint holds no encoder, or is incomplete.
        EngineError: The exported folder is damaged or of another kind, or cannot run on this device.
    """
    folder = Path(path_or_repo).expanduser()
    if (folder / ENCODER_MANIFEST).is_file():
        if revision is not None:
            raise EngineError(f"{folder} is an exported encoder, which has no revision {revision!r}; omit the revision")
        return _open_onnx(folder, device, dtype)
    if (folder / MANIFEST).is_file():
        raise EngineError(
            f"{folder} is an exported model, whose vision graph ends with the projector; export the encoder by itself: "
            "penguin-vl export --encoder"
        )
    return _open_torch(path_or_repo, device, dtype, revision)


def _open_onnx(folder: Path, device: str, dtype: str | None) -> OpenEncoder:
    from penguin_engine.runtimes.onnx_session import Device, best_device
    from penguin_engine.runtimes.onnx_vision import OnnxVision

    manifest = EncoderManifest.read(folder)
    if dtype not in (None, manifest.dtype):
        raise EngineError(
            f"{folder} contains {manifest.dtype}, but {dtype} was requested; export the encoder in {dtype}"
        )
    target = Device.parse(best_device() if device == "auto" else device)
    if target.kind == "cpu" and manifest.dtype == "bfloat16":
        raise EngineError(f"{folder} is bfloat16, which ONNX Runtime cannot run on a CPU; export float32")
    shape = (manifest.patch_dim, manifest.hidden, manifest.dtype)
    vision = OnnxVision(folder, target, None, manifest.profile, *shape)
    return OpenEncoder(manifest.hidden, manifest.image_config(folder), lambda images: _float32(vision.encode(images)))


def _float32(features: list[np.ndarray]) -> list[Float32Array]:
    """Widens bfloat16, which numpy stores as the upper half of a float32."""
    return [
        (tokens.astype(np.uint32) << 16).view(np.float32) if tokens.dtype == np.uint16 else tokens.astype(np.float32)
        for tokens in features
    ]


def _open_torch(path_or_repo: str | Path, device: str, dtype: str | None, revision: str | None) -> OpenEncoder:
    import torch

    from penguin_models.checkpoint import usable_device
    from penguin_models.image_encoder import load_encoder

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None and usable_device(device).type == "cpu":
        dtype = "float32"
    loaded = load_encoder(path_or_repo, dtype, device, revision)

    def run(images: Sequence[PatchedImage]) -> list[Float32Array]:
        return [tokens.float().cpu().numpy() for tokens in loaded.encode(images)]

    return OpenEncoder(loaded.hidden_size, loaded.images, run)
