"""Exports a vision encoder by itself: a folder from which features are computed without torch.

vision.onnx, vision.onnx.data       patches -> features, without projector
preprocessor_config.json            as in the checkpoint
encoder.json                        sizes, type, hashes
"""

from __future__ import annotations

import json
from pathlib import Path

from penguin_engine.export.encoder_manifest import ENCODER_FILES, ENCODER_MANIFEST, PREPROCESSOR, EncoderManifest
from penguin_engine.export.graphs.graph import Graph
from penguin_engine.export.graphs.layers import Layers
from penguin_engine.export.graphs.vision import build_vision
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_engine.export.manifest import PROFILES, VISION, hash_files, write_json
from penguin_engine.export.progress import Progress, silent
from penguin_engine.export.staging import check_movable, put_into_place, staging
from penguin_models.atomic_write import writing
from penguin_models.config import EncoderConfig
from penguin_models.errors import EngineError
from penguin_models.image_encoder import read_encoder
from penguin_models.tensor_files import ENCODER_PREFIX


def export_encoder(
    model: str | Path, folder: str | Path, profile: str = "portable", dtype: str = "float32", show: Progress = silent
) -> EncoderManifest:
    """Exports the encoder of a checkpoint, a folder or `owner/name` on the hub; `load_encoder` says which.

    float16 is refused: whether activations fit it is only checked for whole models.

    The folder appears when it is complete. It replaces an earlier export of an encoder.

    Raises:
        CheckpointError: The checkpoint holds no encoder, or is incomplete.
        EngineError: The type is not supported, or the folder contains other files.
        WriteError: The folder cannot be written; nothing in it was changed.
    """
    if dtype not in ("float32", "bfloat16"):
        raise EngineError(f"an encoder by itself is exported in float32 or bfloat16, not in {dtype}")
    folder = Path(folder).expanduser()
    with writing(folder):
        folder = folder.resolve()
        _check_replaceable(folder)
    config, images, stored = read_encoder(model)
    weights = CheckpointWeights({ENCODER_PREFIX + name: tensor for name, tensor in stored.items()}, show)
    with staging(folder.parent / f".{folder.name}.exporting", folder) as temporary, writing(folder):
        staged = temporary / "export"
        staged.mkdir()
        (staged / PREPROCESSOR).write_text(json.dumps(images.to_dict(), indent=2) + "\n")
        _write_graph(staged, weights, config, profile, dtype)
        files = hash_files(staged, [file.name for file in staged.iterdir()], show)
        manifest = EncoderManifest(str(model), profile, dtype, config.patch_dim, config.hidden_size, files)
        write_json(manifest, staged / ENCODER_MANIFEST)
        _check_replaceable(folder)
        put_into_place(staged, folder, temporary / "replaced")
    return manifest


def _write_graph(folder: Path, weights: CheckpointWeights, config: EncoderConfig, profile: str, dtype: str) -> None:
    weights.begin("vision", ENCODER_PREFIX)
    with (folder / f"{VISION}.data").open("wb") as file:
        layout = PROFILES[profile]
        graph = Graph("vision", layout.opset, file, layout.contrib)
        build_vision(Layers(graph, weights, layout, dtype), config, None, dtype)
        graph.save(folder / VISION)


def _check_replaceable(folder: Path) -> None:
    check_movable(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    foreign = {path.name for path in folder.iterdir()} - ENCODER_FILES if folder.is_dir() else {folder.name}
    if foreign or not (folder / ENCODER_MANIFEST).is_file():
        found = f"{min(foreign)} in it" if foreign else "it"
        raise EngineError(
            f"{folder} would be replaced, but {found} is not part of an exported encoder; choose another folder, "
            "nothing was changed"
        )
