"""The manifest of an exported folder: what a runtime needs to know without the checkpoint, and a hash of every file.

Imports neither torch nor onnx, because robots read it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from penguin_engine.export.progress import Phase, Progress, silent
from penguin_models.config import Count, Layers, Positive
from penguin_models.errors import EngineError
from penguin_models.processor import Processor

T = TypeVar("T")
MANIFEST = "manifest.json"
VISION, DECODER, EMBEDDINGS = "vision.onnx", "decoder.onnx", "embeddings.bin"
PLAN_FOLDER, PLAN_MANIFEST = "tensorrt", "plan.json"
VISION_PLAN, DECODER_PLAN, TIMING_CACHE, KERNEL_CACHE = "vision.plan", "decoder.plan", "timing.cache", "kernel.cache"
PLAN_FILES = {VISION_PLAN, DECODER_PLAN, PLAN_MANIFEST, TIMING_CACHE, KERNEL_CACHE}
PLAN_STAGING = ".building"
"""Folder inside an export in which TensorRT plans are staged while they are built."""
MASKED = -1e9
"""Added to masked attention scores. It is finite so that a fully masked row gives 0 and not NaN."""
FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")
QUANTIZED = ("int8", "int4", "fp8")
_NEEDED = (VISION, DECODER, EMBEDDINGS, "tokenizer.json", "preprocessor_config.json")
_HASH_BLOCK_BYTES = 2**24
_SMALL_BYTES = 2**24
"""Files up to this size (graphs and tokenizer) are verified by hash each time a folder is read."""


def _one_of(names: Iterable[str]) -> Any:
    return Field(pattern=f"^({'|'.join(names)})$")


def _file_name(name: str) -> str:
    if PurePath(name).name != name or "\0" in name or not 0 < len(name.encode(errors="replace")) < 256:
        raise ValueError(f"it names {name[:200]!r}, which is not a file of this folder")
    return name


TokenId = Annotated[int, Field(strict=True, ge=0, lt=100_000_000)]
Dtype = Annotated[str, _one_of(DTYPES)]


@dataclass(frozen=True)
class Profile:
    """A choice of operators and cache layout for the graphs.

    With the cache layout "rows", the graph reads a prefix of the cache [past, kv_heads, head_dim] and outputs the new
    rows, which the runtime places right after the prefix. With "buffer", the graph updates a buffer
    [1, kv_heads, capacity, head_dim] in place.
    """

    name: str  # "portable" or "onnxruntime"
    opset: int  # version of the standard operators; quantised weights may need a newer one
    contrib: bool  # whether the graphs use ONNX Runtime's own operators (`com.microsoft`)
    cache: str  # "rows" or "buffer"
    equal_frames: bool  # whether all frames of one vision pass must have the same number of patches


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("portable", 18, contrib=False, cache="rows", equal_frames=False),
        Profile("onnxruntime", 18, contrib=True, cache="buffer", equal_frames=True),
    )
}


ProfileName = Annotated[str, _one_of(PROFILES)]


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of the decoder."""

    layers: Layers  # transformer blocks
    hidden: Count  # width of an embedding
    intermediate: Count  # width of the gated feed-forward layer
    heads: Count  # query heads
    kv_heads: Count  # key and value heads
    head_dim: Count  # width of a head
    vocab: Count  # rows of the embedding table
    context_length: Count  # longest sequence in tokens
    eps: Positive  # epsilon of every norm
    rope_theta: Positive  # base of the rotary frequencies

    @property
    def cache_names(self) -> list[str]:
        """Names of the KV cache's tensors, which follow "past_" and "present_" or "new_" in the graph."""
        return [f"{name}_{layer}" for layer in range(self.layers) for name in ("key", "value")]

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linear layers of all blocks."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Number of weights in the language-model head."""
        return self.vocab * self.hidden


@dataclass(frozen=True)
class ExportedFile:
    """Size and hash of one file."""

    bytes: Annotated[int, Field(strict=True, ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


Files = dict[Annotated[str, AfterValidator(_file_name)], ExportedFile]
"""Files of a folder by name."""


@dataclass(frozen=True)
class Manifest:
    """Description of an exported folder."""

    source: Annotated[str, Field(max_length=4096)]  # checkpoint from which it was exported
    profile: ProfileName
    opset: Annotated[int, Field(strict=True, ge=1, le=100)]  # version of the standard operators in the graphs
    dtype: Dtype  # type of the decoder's embeddings, and of its weights that are not quantised
    cache_dtype: Dtype  # type of the KV cache
    vision_dtype: Dtype  # type of the vision graph's weights
    patch_dim: Count  # values in one flattened patch
    decoder: DecoderShape
    image_token_id: TokenId  # id of `<image>`
    end_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=1000)]  # ids that end an answer
    embeddings_dtype: Dtype | None = None  # type of the embedding table; None, in older exports, for `dtype`
    quantization: dict[str, Any] | None = None  # how the decoder's weights were quantised; None if they were not
    activation_ranges: dict[str, float] = field(default_factory=dict)  # result of the float16 check; empty without it
    files: Files = field(default_factory=dict)  # every file

    def __post_init__(self) -> None:
        shape, ids = self.decoder, (self.image_token_id, *self.end_token_ids)
        if shape.heads % shape.kv_heads or shape.head_dim % 2:
            raise ValueError(
                f"decoder: {shape.heads} heads of width {shape.head_dim} with {shape.kv_heads} key-value heads; the "
                "first is a multiple of the last, and the width is even"
            )
        if max(ids) >= shape.vocab:
            raise ValueError(f"token id {max(ids)} is not below the vocabulary's {shape.vocab}")
        if self.embeddings_dtype not in (None, self.dtype) and self.dtype != "float32":
            raise ValueError(f"embeddings_dtype {self.embeddings_dtype} does not go with the decoder's {self.dtype}")
        if self.quantization is not None and self.quantization.get("kind") not in QUANTIZED:
            raise ValueError(f"quantization.kind is not one of {', '.join(QUANTIZED)}")

    @property
    def table_dtype(self) -> str:
        """Type of the embedding table on disk."""
        return self.embeddings_dtype or self.dtype

    @property
    def precision(self) -> str:
        """Name that `--precision` accepts for this folder: the quantisation, or the type of the weights."""
        return str(self.quantization["kind"]) if self.quantization else self.dtype

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Reads the manifest of an exported folder and checks sizes of all files and hashes of small ones.

        `verify` also hashes the weights, which takes seconds to minutes.

        Raises:
            EngineError: The folder is missing, not an exported folder, incomplete or of another version.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            problem = "has no manifest.json" if folder.is_dir() else "is not a folder"
            raise EngineError(
                f"{folder} {problem}; create an exported folder with: penguin-vl export --model M --out {folder}"
            )
        try:
            manifest = read_json(cls, path)
        except (OSError, ValueError) as err:
            raise EngineError(f"{path} cannot be read as a manifest ({err}); export the checkpoint again") from err
        manifest.check_complete(path)
        check_files(folder, manifest.files)
        return manifest

    def check_complete(self, path: Path) -> None:
        """Raises EngineError if it lacks a file, or if the embedding table has another size than its shape needs."""
        if missing := [name for name in _NEEDED if name not in self.files]:
            raise EngineError(f"{path} lacks {', '.join(missing)}; export the checkpoint again")
        needed = self.decoder.head_weights * (4 if self.table_dtype == "float32" else 2)
        if self.files[EMBEDDINGS].bytes != needed:
            raise EngineError(
                f"{path}: {EMBEDDINGS} has {self.files[EMBEDDINGS].bytes} bytes, but {self.decoder.vocab} rows of "
                f"{self.decoder.hidden} {self.table_dtype} numbers take {needed}; export the checkpoint again"
            )

    def verify(self, folder: Path, largest_bytes: float = math.inf) -> None:
        """Raises EngineError if the hash of a file of at most this size has changed since the export."""
        _check_hashes(folder, self.files, largest_bytes)

    def processor(self, folder: Path) -> Processor:
        """Returns the processor of the exported checkpoint; raises EngineError if its patches have another size."""
        processor = Processor.from_pretrained(folder, self.image_token_id, self.end_token_ids)
        if (patch_dim := 3 * processor.images.patch_size**2) != self.patch_dim:
            raise EngineError(
                f"{folder}: preprocessor_config.json has patches of {patch_dim} values, {MANIFEST} of "
                f"{self.patch_dim}; export the checkpoint again"
            )
        return processor


def check_files(folder: Path, files: Files) -> None:
    """Raises EngineError if a file is missing or has another size, or if the hash of a small one has changed."""
    for name, file in files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"has {size} bytes instead of {file.bytes}"
            raise EngineError(f"{folder / name} {found}; copy or export the folder again")
    _check_hashes(folder, files, _SMALL_BYTES)


def _check_hashes(folder: Path, files: Files, largest_bytes: float) -> None:
    for name, file in files.items():
        if file.bytes <= largest_bytes and hash_file(folder / name).sha256 != file.sha256:
            raise EngineError(
                f"{folder / name} has changed since the export: its hash differs; copy or export it again"
            )


def exported_names(folder: Path) -> set[str] | None:
    """Returns the names of the files that an export wrote to a folder; None if it has no valid manifest."""
    try:
        raw = json.loads((folder / MANIFEST).read_text())
        return {MANIFEST, *(PurePath(name).name for name in raw["files"])} if raw["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_json(content: Any, path: Path) -> None:
    """Writes a dataclass with the version of its format."""
    path.write_text(json.dumps({"format": FORMAT, **asdict(content)}, indent=1) + "\n")


def read_json(kind: type[T], path: Path) -> T:
    """Reads a dataclass that `write_json` wrote; raises ValueError if it is damaged or of another version."""
    return parse_json(kind, path.read_bytes())


def parse_json(kind: type[T], content: bytes) -> T:
    """Returns a dataclass from the content of its file; raises ValueError if it is damaged or of another version."""
    try:
        raw = json.loads(content)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise ValueError(f"it is not a JSON object of format {FORMAT}")
    try:
        return _adapter(kind).validate_python(raw)  # type: ignore[no-any-return, arg-type]
    except ValidationError as err:
        first = err.errors()[0]
        where, value = ".".join(map(str, first["loc"]))[:200], repr(first["input"])[:200]
        if first["type"] == "value_error":
            raise ValueError(str(first["ctx"]["error"])) from err
        found = "" if first["type"] == "missing" else f" is {value}"
        raise ValueError(f"{where}{found}: {first['msg'][:200]}") from err


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def hash_file(path: Path) -> ExportedFile:
    """Returns the size and hash of a file, which is read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return ExportedFile(path.stat().st_size, digest.hexdigest())


def hash_files(folder: Path, names: Iterable[str], show: Progress = silent) -> dict[str, ExportedFile]:
    """Returns the size and hash of some files of a folder by name."""
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}
    phase = Phase(show, "hashing", sum(sizes.values()))
    files = {}
    for name, size in sizes.items():
        files[name] = hash_file(folder / name)
        phase.add(size)
    return files
