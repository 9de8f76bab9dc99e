"""The manifest of an exported folder: what a runtime must know without the checkpoint, and what the files hash to.

No torch and no ONNX here: a robot reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from penguin_models.errors import EngineError
from penguin_models.processor import Processor

MANIFEST = "manifest.json"
VISION, DECODER, EMBEDDINGS = "vision.onnx", "decoder.onnx", "embeddings.bin"
PLAN_FOLDER, PLAN_MANIFEST = "tensorrt", "plan.json"
VISION_PLAN, DECODER_PLAN, TIMING_CACHE = "vision.plan", "decoder.plan", "timing.cache"
PLAN_STAGING = ".building"
"""TensorRT plans are staged in this folder of an export while they are built."""
MASKED = -1e9
"""Added to scores of what must not be seen: finite, so that a fully masked part gives 0 and not NaN."""
FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")
_HASH_BLOCK_BYTES = 2**24
_SMALL_BYTES = 2**24
"""Files up to here, graphs and tokenizer, are compared by their hash whenever a folder is read."""


@dataclass(frozen=True)
class Profile:
    """A way to write the same graphs.

    Attributes:
        name: "portable", "fused" or "onnxruntime".
        opset: version of the standard operators; quantised weights may need a newer one.
        contrib: whether ONNX Runtime's own operators (`com.microsoft`) are used.
        native_operators: whether norms, rotary embedding and attention are operators of their own.
        cache: "rows": the graph reads a prefix of the cache [past, kv_heads, head_dim] and writes the new rows, which
            the runtime has lie right behind it; "buffer": it updates a buffer [1, kv_heads, capacity, head_dim].
        equal_frames: whether all frames of one call to the vision graph must have the same number of patches.
    """

    name: str
    opset: int
    contrib: bool
    native_operators: bool
    cache: str
    equal_frames: bool


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("portable", 18, contrib=False, native_operators=False, cache="rows", equal_frames=False),
        Profile("fused", 24, contrib=False, native_operators=True, cache="buffer", equal_frames=True),
        Profile("onnxruntime", 18, contrib=True, native_operators=False, cache="buffer", equal_frames=True),
    )
}


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of the decoder.

    Attributes:
        layers: transformer layers.
        hidden: width of an embedding.
        intermediate: width of the gated feed-forward layer.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocab: rows of the embedding table.
        context_length: longest sequence in tokens.
        eps: of every norm.
        rope_theta: base of the rotary frequencies.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    eps: float
    rope_theta: float

    @property
    def linear_weights(self) -> int:
        """Numbers in the linear layers of all blocks."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Numbers in the head."""
        return self.vocab * self.hidden


@dataclass(frozen=True)
class ExportedFile:
    """Size and hash of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an exported folder holds.

    Attributes:
        source: the checkpoint it was made from.
        profile: name of the profile.
        opset: of the graphs.
        dtype: type of the decoder's embeddings, and of its weights where they are not quantised.
        cache_dtype: type of the KV cache.
        vision_dtype: the same for the vision graph's weights.
        patch_dim: numbers in one flattened patch.
        decoder: sizes of the decoder.
        image_token_id: id of `<image>`.
        end_token_ids: ids that end an answer.
        preprocessor: how pixels become patches, as in `preprocessor_config.json`.
        tokenizer: names of the tokenizer's files.
        quantization: how the decoder's weights were quantised; None where they were not.
        activation_ranges: what the check of float16 found; empty for other types.
        files: every file by its name.
    """

    source: str
    profile: str
    opset: int
    dtype: str
    cache_dtype: str
    vision_dtype: str
    patch_dim: int
    decoder: DecoderShape
    image_token_id: int
    end_token_ids: tuple[int, ...]
    preprocessor: dict[str, Any]
    tokenizer: tuple[str, ...]
    quantization: dict[str, Any] | None = None
    activation_ranges: dict[str, float] = field(default_factory=dict)
    files: dict[str, ExportedFile] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """What is asked for by `--precision`: the quantisation's name, or the type of the weights."""
        return str(self.quantization["name"]) if self.quantization else self.dtype

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        (folder / MANIFEST).write_text(text + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Reads the manifest of an exported folder and compares its files: the sizes of all, the hashes of small ones.

        Those of the weights take seconds to minutes; see `verify`.

        Raises:
            EngineError: the folder is missing, not an exported one, of another version, or incomplete.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            what = "has no manifest.json" if folder.is_dir() else "is not a folder"
            raise EngineError(
                f"{folder} {what}; make an exported folder with: penguin-vl export --model M --out {folder}"
            )
        try:
            manifest = cls._parse(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            raise EngineError(f"{path} cannot be read as a manifest ({err}); export the checkpoint again") from err
        for name, file in manifest.files.items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != file.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise EngineError(f"{folder / name} {found}, its manifest says {file.bytes}; copy or export it again")
        manifest._compare(folder, {name: file for name, file in manifest.files.items() if file.bytes <= _SMALL_BYTES})
        return manifest

    @classmethod
    def _parse(cls, raw: Any) -> Manifest:
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        if raw.get("format") != FORMAT:
            raise ValueError(f"its format is {raw.get('format')!r}, this version reads {FORMAT}")
        known = {f.name: raw[f.name] for f in fields(cls)}
        known["decoder"] = DecoderShape(**raw["decoder"])
        known["end_token_ids"] = tuple(raw["end_token_ids"])
        known["tokenizer"] = tuple(raw["tokenizer"])
        known["files"] = {name: ExportedFile(**value) for name, value in raw["files"].items()}
        if known["profile"] not in PROFILES:
            raise ValueError(f"profile {known['profile']!r} is unknown")
        return cls(**known)

    def verify(self, folder: Path) -> None:
        """Compares the hash of every file.

        Raises:
            EngineError: a file is not what was exported.
        """
        self._compare(folder, self.files)

    def _compare(self, folder: Path, files: Mapping[str, ExportedFile]) -> None:
        for name, file in files.items():
            if hash_file(folder / name).sha256 != file.sha256:
                raise EngineError(
                    f"{folder / name} is not what was exported: its hash differs; copy or export it again"
                )

    def processor(self, folder: Path) -> Processor:
        """The processor of the exported checkpoint."""
        return Processor.from_pretrained(folder, self.image_token_id, self.end_token_ids)


def exported_names(folder: Path) -> set[str] | None:
    """Names of the files that an export by this or an earlier version wrote; None where a folder has no manifest."""
    try:
        raw = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    version, files = (raw.get("format"), raw.get("files")) if isinstance(raw, dict) else (None, None)
    if not isinstance(version, int) or not 1 <= version <= FORMAT or not isinstance(files, dict):
        return None
    return {MANIFEST, *files}


def hash_file(path: Path) -> ExportedFile:
    """Size and hash of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return ExportedFile(path.stat().st_size, digest.hexdigest())


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, ExportedFile]:
    """Size and hash of several files of a folder."""
    return {name: hash_file(folder / name) for name in sorted(names)}
