"""Exports a checkpoint to a folder with everything that a robot needs to run the model.

    vision.onnx, vision.onnx.data       patches -> visual tokens
    decoder.onnx, decoder.onnx.data     embeddings and KV cache -> logits
    embeddings.bin                      embedding table, row by row; also the head, if that is tied and of this type
    tokenizer.json, ...                 as in the checkpoint
    manifest.json                       sizes, settings, hashes

Weights stream from the checkpoint to their files. Running the result needs neither torch nor transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from penguin_engine.export.calibration import SCORES, VISUAL_TOKENS, Calibration, calibrate, check_fits_float16
from penguin_engine.export.graphs.decoder import EMBEDDING_TABLE, build_decoder
from penguin_engine.export.graphs.graph import Graph
from penguin_engine.export.graphs.layers import Layers
from penguin_engine.export.graphs.quantized import QuantizedLinears, Squares
from penguin_engine.export.graphs.vision import build_vision
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_engine.export.manifest import (
    DECODER,
    DTYPES,
    EMBEDDINGS,
    MANIFEST,
    PLAN_FILES,
    PLAN_FOLDER,
    PLAN_STAGING,
    PROFILES,
    TIMING_CACHE,
    VISION,
    DecoderShape,
    Manifest,
    Profile,
    exported_names,
    hash_files,
    write_json,
)
from penguin_engine.export.progress import Progress, silent
from penguin_engine.export.quantize import REPORT, Quantization, relative_errors
from penguin_engine.export.staging import check_movable, put_into_place, staging
from penguin_engine.export.streamed_model import streamed
from penguin_models.atomic_write import PARTIAL_SUFFIX, writing
from penguin_models.checkpoint import open_checkpoint, stored_dtype
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, UInt8Array
from penguin_models.vlm import PenguinVL


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export."""

    profile: str = "portable"  # "portable" or "onnxruntime"; see manifest.py
    dtype: str | None = None  # type of the decoder; None for the checkpoint's, or the default of the quantisation
    vision_dtype: str | None = None  # type of encoder and projector; None for the decoder's, 16-bit if quantised
    quantization: Quantization | None = None  # of the decoder's weights
    samples: Sequence[UInt8Array] = field(default=(), repr=False)  # [H, W, 3]; int8 and int4 weights need none
    calibration: Calibration | None = field(default=None, repr=False)  # earlier result, used instead of the samples


def export(
    model: str | Path, folder: str | Path, options: ExportOptions | None = None, show: Progress = silent
) -> Manifest:
    """Exports a checkpoint, a folder or `owner/name` on the model hub, and shows its progress.

    The model is run on the samples to calibrate float16 and quantised exports. Without samples, int8 and int4 weights
    are rounded by themselves, and it is not checked whether activations fit float16.

    The folder appears when it is complete. It replaces an earlier export of the same name and that export's TensorRT
    plans, except for their timing cache; a folder that contains anything else is left unchanged.

    Raises:
        CheckpointError: The checkpoint is missing or incomplete.
        EngineError: An option is unknown, the folder contains other files, or the model cannot be exported with these
            options.
        WriteError: The folder cannot be written; nothing in it was changed.
    """
    options = options or ExportOptions()
    profile = PROFILES[_check_known("profile", options.profile, PROFILES)]
    folder = Path(folder).expanduser()
    with writing(folder):
        folder = folder.resolve()
        _check_replaceable(folder)
    checkpoint, stored, processor = open_checkpoint(model)
    _check_operators(profile, options.quantization)
    types = _types(options, profile, str(stored_dtype(stored)).removeprefix("torch."))
    shape, frequencies = decoder_shape(checkpoint)
    with staging(folder.parent / f".{folder.name}.exporting", folder) as temporary:
        calibration = options.calibration
        if calibration is None and (options.quantization or "float16" in (types.decoder, types.vision)):
            calibration = _calibrate(model, options, show)
        graphs = _GraphWriter(CheckpointWeights(stored, show), profile, types, calibration, options.quantization)
        graphs.check_fits_float16(shape)
        with writing(folder):
            staged = temporary / "export"
            processor.save_pretrained(staged)
            squares = graphs.write(staged, checkpoint, shape, frequencies)
            manifest = Manifest(
                source=str(model),
                profile=profile.name,
                opset=graphs.opset,
                dtype=types.decoder,
                cache_dtype=types.cache,
                vision_dtype=types.vision,
                patch_dim=checkpoint.config.encoder.patch_dim,
                decoder=shape,
                image_token_id=processor.image_token_id,
                end_token_ids=processor.end_token_ids,
                embeddings_dtype=types.embeddings,
                quantization=_describe(options.quantization, calibration, squares) if options.quantization else None,
                activation_ranges=calibration.summary() if calibration else {},
                files=hash_files(staged, [file.name for file in staged.iterdir()], show),
            )
            write_json(manifest, staged / MANIFEST)
            _check_replaceable(folder)  # again, because the export may have taken hours
            if (timings := folder / PLAN_FOLDER / TIMING_CACHE).is_file():
                (staged / PLAN_FOLDER).mkdir()
                shutil.copy2(timings, staged / PLAN_FOLDER)
            put_into_place(staged, folder, temporary / "replaced")
    return manifest


def decoder_shape(model: PenguinVL) -> tuple[DecoderShape, Float32Array]:
    """Returns the sizes of a model's decoder and its rotary angles per position, float32 [head_dim / 2].

    Raises:
        EngineError: The decoder uses a feature that no released checkpoint has and the graphs do not support.
    """
    text: Any = model.language_model.config
    rotary: Any = model.language_model.model.rotary_emb
    rotary = type(rotary)(text)  # a new one, because a model on the meta device has no frequencies
    unsupported = {
        "attention_bias": bool(text.attention_bias),
        "rope_scaling": text.rope_parameters.get("rope_type", "default") != "default",
        "use_sliding_window": any(kind != "full_attention" for kind in text.layer_types),
    }
    if used := [name for name, is_used in unsupported.items() if is_used]:
        raise EngineError(f"config.json sets {', '.join(used)}, which cannot be exported; use the torch runtime")
    shape = DecoderShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        vocab=text.vocab_size,
        context_length=text.max_position_embeddings,
        eps=text.rms_norm_eps,
        rope_theta=float(text.rope_parameters["rope_theta"]),
    )
    return shape, rotary.inv_freq.numpy().astype(np.float32)


@dataclass(frozen=True)
class _Types:
    decoder: str
    cache: str
    vision: str
    embeddings: str


def _types(options: ExportOptions, profile: Profile, stored: str) -> _Types:
    """Chooses types. With quantised weights the default is float16, except that ONNX Runtime's decoder computes in
    float32 because that is fast on every CPU. A float32 decoder has a 16-bit embedding table if the checkpoint has one
    or if the weights are quantised."""
    if options.quantization is None:
        decoder = options.dtype or stored
        table = stored if decoder == "float32" else decoder
        types = _Types(decoder, decoder, options.vision_dtype or decoder, table)
    else:
        decoder = options.dtype or ("float32" if profile.contrib else "float16")
        cache = "float16" if profile.contrib else decoder
        vision = options.vision_dtype or ("float16" if decoder == "float32" else decoder)
        table = decoder if decoder != "float32" else "float16" if stored == "float32" else stored
        types = _Types(decoder, cache, vision, table)
    for name in (types.decoder, types.vision):
        _check_known("type", name, DTYPES)
    return types


@dataclass(frozen=True)
class _GraphWriter:
    """Writes both graphs with their weights, and the embedding table."""

    weights: CheckpointWeights
    profile: Profile
    types: _Types
    calibration: Calibration | None
    quantization: Quantization | None

    @property
    def opset(self) -> int:
        """Version of the standard operators; quantised weights may need a newer one than the profile."""
        needed = {"int4": 21, "fp8": 19}.get(self.quantization.kind, 0) if self.quantization else 0
        return self.profile.opset if self.profile.contrib else max(self.profile.opset, needed)

    def check_fits_float16(self, shape: DecoderShape) -> None:
        """Raises EngineError if a value that is float16 outside float16 layers does not fit."""
        if self.calibration is None or not self.calibration.outputs:
            return
        if self.types.decoder == "float16":  # the type to which visual tokens are cast, whatever wrote them
            check_fits_float16({VISUAL_TOKENS: self.calibration.outputs[VISUAL_TOKENS]})
        if self.quantization is not None and self.types.cache == "float16":
            attention = [f"language_model.model.layers.{i}.self_attn" for i in range(shape.layers)]
            names = [f"{prefix}.{name}" for prefix in attention for name in ("v_proj", SCORES)]
            check_fits_float16(self.calibration.largest(names))

    def write(
        self, folder: Path, checkpoint: PenguinVL, shape: DecoderShape, frequencies: Float32Array
    ) -> dict[str, Squares]:
        """Writes embeddings.bin, then the vision and decoder graphs, and returns the squares of quantised layers."""
        types, tied = self.types, checkpoint.config.tie_word_embeddings
        self.weights.begin("embedding table", EMBEDDING_TABLE)
        with (folder / EMBEDDINGS).open("wb") as file:
            for block in self.weights.blocks(EMBEDDING_TABLE, types.embeddings):
                file.write(np.ascontiguousarray(block).view(np.uint8).data)
        self.weights.begin("vision", "vision_")
        with (folder / f"{VISION}.data").open("wb") as file:
            layers = self._layers("vision", file, types.vision)
            build_vision(layers, checkpoint.config.encoder, shape.hidden, types.decoder)
            layers.graph.save(folder / VISION)
        table = folder / EMBEDDINGS if types.embeddings == types.decoder else None
        self.weights.begin("decoder", "language_model.")
        with (folder / f"{DECODER}.data").open("wb") as file:
            layers = self._layers("decoder", file, types.decoder, shape.layers)
            build_decoder(layers, shape, frequencies, types.cache, tied, table)
            layers.graph.save(folder / DECODER)
        return layers.squares

    def _layers(self, name: str, file: IO[bytes], dtype: str, decoder_blocks: int = 0) -> Layers:
        graph = Graph(name, self.opset, file, self.profile.contrib)
        prefix = "language_model." if decoder_blocks else "vision_"
        factors = self.calibration.shrink_factors(prefix) if self.calibration and dtype == "float16" else {}
        quantized = None
        if self.quantization and self.calibration and decoder_blocks:
            kinds = self.quantization.layer_kinds(decoder_blocks)
            quantized = QuantizedLinears(graph, self.weights, kinds, self.calibration, dtype, graph.contrib)
        return Layers(graph, self.weights, self.profile, dtype, factors, quantized)


def _calibrate(model: str | Path, options: ExportOptions, show: Progress) -> Calibration:
    """Runs the model on the samples in float32."""
    kind = options.quantization.kind if options.quantization else "float16"
    if not options.samples and kind in ("int8", "int4"):
        return Calibration({}, {})
    if not options.samples:
        raise EngineError(f"{kind} exports need sample images for their calibration; pass some, or export bfloat16")
    checkpoint, stored, processor = open_checkpoint(model)
    with streamed(checkpoint, stored):
        return calibrate(checkpoint, processor, options.samples, show)


def _describe(
    quantization: Quantization, calibration: Calibration | None, squares: Mapping[str, Squares]
) -> dict[str, Any]:
    """Returns what the manifest says about quantised weights."""
    calibrated = calibration is not None and bool(calibration.mean_squares)
    return {**asdict(quantization), "calibrated": calibrated, "relative_error": relative_errors(squares)}


def _check_replaceable(folder: Path) -> None:
    """Raises EngineError if a folder cannot be renamed or contains files that neither an export nor a build wrote."""
    check_movable(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    exported = exported_names(folder)
    if exported is None:
        raise EngineError(f"{folder} exists and is not an exported folder; choose another, nothing was changed")
    if foreign := _foreign_file(folder, exported):
        raise EngineError(
            f"{folder} would be replaced, but {foreign} is not part of the export in it; choose another folder or move "
            "that file, nothing was changed"
        )


def _foreign_file(folder: Path, exported: set[str]) -> Path | None:
    """Returns the first file that was written neither by the export nor by `quantize` or `build`."""
    plans = folder / PLAN_FOLDER
    found = [path for path in folder.iterdir() if path.name not in exported | {REPORT, PLAN_FOLDER, PLAN_STAGING}]
    found += [path for path in plans.iterdir() if path.name not in PLAN_FILES] if plans.is_dir() else []
    return min((path for path in found if path.suffix != PARTIAL_SUFFIX), default=None)


def _check_operators(profile: Profile, quantization: Quantization | None) -> None:
    """Raises EngineError if a profile has no operators for quantised weights."""
    kind = quantization.kind if quantization else ""
    if (kind == "int8" and not profile.contrib) or (kind == "fp8" and profile.contrib):
        needed = "onnxruntime" if kind == "int8" else "portable"
        reason = "; TensorRT multiplies 16-bit inputs with 4-bit weights, not with 8-bit ones" if kind == "int8" else ""
        raise EngineError(f"{kind} weights need the profile {needed}, not {profile.name}{reason}")


def _check_known(option: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise EngineError(f"{option} {value!r} is unknown; choose from {', '.join(known)}")
    return value
