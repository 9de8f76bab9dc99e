"""The manifest of an exported encoder: what is needed to run it without its checkpoint.

Imports neither torch nor onnx, because robots read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from penguin_engine.export.manifest import VISION, Dtype, Files, ProfileName, check_files, read_json
from penguin_models.config import Count, ImageConfig
from penguin_models.config import read_json as read_object
from penguin_models.errors import EngineError

ENCODER_MANIFEST = "encoder.json"
PREPROCESSOR = "preprocessor_config.json"
ENCODER_FILES = {ENCODER_MANIFEST, PREPROCESSOR, VISION, f"{VISION}.data"}
"""Names of all files of an exported encoder."""


@dataclass(frozen=True)
class EncoderManifest:
    """Description of an exported encoder."""

    source: Annotated[str, Field(max_length=4096)]  # checkpoint from which it was exported
    profile: ProfileName  # see `Manifest`
    dtype: Dtype  # type of the weights and of the features
    patch_dim: Count  # values in one flattened patch
    hidden: Count  # length of a feature vector
    files: Files = field(default_factory=dict)  # every other file

    @classmethod
    def read(cls, folder: Path) -> EncoderManifest:
        """Reads and checks an exported folder; raises EngineError if it is damaged or of another version."""
        path = folder / ENCODER_MANIFEST
        try:
            manifest = read_json(cls, path)
        except (OSError, ValueError) as err:
            raise EngineError(f"{path} cannot be read as a manifest ({err}); export the encoder again") from err
        if missing := [name for name in ENCODER_FILES - {ENCODER_MANIFEST} if name not in manifest.files]:
            raise EngineError(f"{path} lacks {', '.join(sorted(missing))}; export the encoder again")
        check_files(folder, manifest.files)
        return manifest

    def image_config(self, folder: Path) -> ImageConfig:
        """Returns the image settings; raises EngineError if their patches have another size."""
        images = ImageConfig.from_dict(read_object(folder / PREPROCESSOR))
        if 3 * images.patch_size**2 != self.patch_dim:
            raise EngineError(
                f"{folder}: {PREPROCESSOR} has patches of {3 * images.patch_size**2} values, {ENCODER_MANIFEST} of "
                f"{self.patch_dim}; export the encoder again"
            )
        return images
