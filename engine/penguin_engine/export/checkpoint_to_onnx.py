"""A checkpoint -> a folder with everything that a robot needs: graphs, weights, embedding table, tokenizer, manifest.

    vision.onnx, vision.onnx.data       patches -> visual tokens
    decoder.onnx, decoder.onnx.data     embeddings and cache -> logits
    embeddings.bin                      embedding table, row by row; also the head where the two are tied
    tokenizer.json, ...                 as in the checkpoint
    manifest.json                       sizes, settings, hashes

Weights stream from the checkpoint into their files. Neither torch nor transformers is needed to run the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penguin_engine.export.calibration import QUESTION, SCORES, VISUAL_TOKENS, Calibration, calibrate
from penguin_engine.export.graphs.decoder import EMBEDDING_TABLE, build_decoder
from penguin_engine.export.graphs.graph import Graph, WeightFile
from penguin_engine.export.graphs.layers import Layers
from penguin_engine.export.graphs.quantized import QuantizedLinears
from penguin_engine.export.graphs.vision import build_vision
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_engine.export.manifest import (
    DECODER,
    DECODER_PLAN,
    DTYPES,
    EMBEDDINGS,
    PLAN_FOLDER,
    PLAN_MANIFEST,
    PLAN_STAGING,
    PROFILES,
    TIMING_CACHE,
    VISION,
    VISION_PLAN,
    DecoderShape,
    Manifest,
    Profile,
    exported_names,
    hash_files,
)
from penguin_engine.export.quantize import REPORT, Quantization
from penguin_engine.export.staging import check_movable, put_into_place, staging, writing
from penguin_models.checkpoint import load_pretrained, open_checkpoint, stored_dtype
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, UInt8Array
from penguin_models.vlm import PenguinVL


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        profile: "portable", "fused" or "onnxruntime"; see manifest.py.
        dtype: type of the decoder; if None that of the checkpoint, or what goes with the quantisation.
        vision_dtype: type of encoder and projector; if None as the decoder, 16-bit with quantised weights.
        quantization: of the decoder's weights.
        samples: images, uint8 [H, W, 3] each, on which a float16 or quantised export is calibrated; drawn ones if
            empty.
        question: asked about the samples.
        calibration: what the model's layers see, where that is known already.
    """

    profile: str = "portable"
    dtype: str | None = None
    vision_dtype: str | None = None
    quantization: Quantization | None = None
    samples: Sequence[UInt8Array] = field(default=(), repr=False)
    question: str = QUESTION
    calibration: Calibration | None = field(default=None, repr=False)


def export(model: str | Path, folder: str | Path, options: ExportOptions | None = None) -> Manifest:
    """Exports a checkpoint.

    The folder appears when it is complete; one that an earlier export made is replaced, its plans too, but for what
    TensorRT timed when they were built. A folder that holds anything else is left alone.

    Args:
        model: checkpoint folder, or `owner/name` on the model hub.
        folder: where the result goes.
        options: what to write.

    Raises:
        CheckpointError: the checkpoint is missing or incomplete.
        EngineError: an option is unknown, the folder holds something else or cannot be written, or the model cannot be
            exported so.
    """
    options = options or ExportOptions()
    profile = _profile(options.profile)
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
        if calibration is None and (options.quantization or "float16" in vars(types).values()):
            calibration = _calibrate(model, stored_dtype(stored), options)
        source = _Source(CheckpointWeights(stored), profile, calibration, options.quantization)
        source.check(shape, types)
        with writing(folder):
            staged = temporary / "export"
            processor.save_pretrained(staged)
            tokenizer = sorted(file.name for file in staged.iterdir())
            tied = checkpoint.config.tie_word_embeddings
            _write_embeddings(staged / EMBEDDINGS, source.weights, types.decoder)
            with WeightFile(staged / f"{VISION}.data") as file:
                layers = source.layers("vision", file, types.vision)
                build_vision(layers, checkpoint.config.encoder, shape.hidden, types.decoder)
                layers.graph.save(staged / VISION)
            with WeightFile(staged / f"{DECODER}.data") as file:
                layers = source.layers("decoder", file, types.decoder, shape.layers)
                build_decoder(layers, shape, frequencies, types.cache, staged / EMBEDDINGS if tied else None)
                layers.graph.save(staged / DECODER)
            manifest = Manifest(
                source=str(model),
                profile=profile.name,
                opset=source.opset,
                dtype=types.decoder,
                cache_dtype=types.cache,
                vision_dtype=types.vision,
                patch_dim=checkpoint.config.encoder.patch_dim,
                decoder=shape,
                image_token_id=processor.image_token_id,
                end_token_ids=processor.end_token_ids,
                preprocessor=processor.images.to_dict(),
                tokenizer=tuple(tokenizer),
                quantization=options.quantization.describe() if options.quantization else None,
                activation_ranges=calibration.summary() if calibration else {},
                files=hash_files(staged, [file.name for file in staged.iterdir()]),
            )
            manifest.write(staged)
            _check_replaceable(folder)  # again: the work may have taken hours
            _keep_timings(folder, staged)
            put_into_place(staged, folder, temporary / "replaced")
    return manifest


def decoder_shape(model: PenguinVL) -> tuple[DecoderShape, Float32Array]:
    """Sizes of a model's decoder, and the angle per position of each rotary frequency, float32 [head_dim / 2].

    Raises:
        EngineError: the decoder uses something that no released checkpoint does and the graphs do not write.
    """
    text: Any = model.language_model.config
    rotary: Any = model.language_model.model.rotary_emb
    rotary = type(rotary)(text)  # that of a model without memory has no frequencies
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


def _types(options: ExportOptions, profile: Profile, stored: str) -> _Types:
    """The types of an export. With quantised weights all that is not an integer is float16, in which ONNX Runtime can
    compare it on any CPU, but for what it calculates there in float32."""
    if options.quantization is None:
        decoder = _dtype(options.dtype or stored)
        return _Types(decoder, decoder, _dtype(options.vision_dtype or decoder))
    decoder = _dtype(options.dtype or ("float32" if profile.contrib else "float16"))
    cache = "float16" if profile.contrib else decoder
    return _Types(decoder, cache, _dtype(options.vision_dtype or ("float16" if decoder == "float32" else decoder)))


@dataclass(frozen=True)
class _Source:
    """What both graphs are written from."""

    weights: CheckpointWeights
    profile: Profile
    calibration: Calibration | None
    quantization: Quantization | None

    @property
    def opset(self) -> int:
        """Quantised weights need operators that the profile's own opset may not have."""
        needed = {"int4": 21, "fp8": 19}.get(self.quantization.kind, 0) if self.quantization else 0
        return self.profile.opset if self.profile.contrib else max(self.profile.opset, needed)

    def check(self, shape: DecoderShape, types: _Types) -> None:
        """Raises EngineError where what float16 is to hold does not fit, beside the layers that are float16."""
        if self.calibration is None or not self.calibration.outputs:
            return
        if types.decoder == "float16":  # visual tokens are cast to it, whatever wrote them
            self.calibration.written_by(VISUAL_TOKENS).check_fits([VISUAL_TOKENS])
        if self.quantization is not None and types.cache == "float16":
            attention = [f"language_model.model.layers.{i}.self_attn" for i in range(shape.layers)]
            self.calibration.check_fits([f"{prefix}.{name}" for prefix in attention for name in ("v_proj", SCORES)])

    def layers(self, name: str, file: WeightFile, dtype: str, blocks: int = 0) -> Layers:
        """Where a graph is written; the linear layers of its first `blocks` decoder blocks may be quantised."""
        graph = Graph(name, self.opset, file, self.profile.contrib)
        prefix = "language_model." if blocks else "vision_"
        shrink = self.calibration.shrink(prefix) if self.calibration and dtype == "float16" else {}
        quantized = None
        if self.quantization and self.calibration and blocks:
            schemes = self.quantization.schemes(blocks)
            contrib = self.profile.contrib
            quantized = QuantizedLinears(graph, self.weights, schemes, self.calibration, dtype, contrib)
        return Layers(graph, self.weights, self.profile, dtype, shrink, quantized)


def _write_embeddings(path: Path, weights: CheckpointWeights, dtype: str) -> None:
    with path.open("wb") as file:
        for block in weights.blocks(EMBEDDING_TABLE, dtype):
            file.write(np.ascontiguousarray(block).view(np.uint8).data)


def _calibrate(model: str | Path, stored: torch.dtype, options: ExportOptions) -> Calibration:
    """Runs the model, loaded in a type that does not overflow, on the samples; it is freed again."""
    if not options.samples:
        raise EngineError(
            "float16 and quantised exports are calibrated on sample images, and none were given; pass some, or export "
            "float32 or bfloat16"
        )
    loaded, processor = load_pretrained(model, torch.bfloat16 if stored == torch.float16 else stored)
    return calibrate(loaded, processor, options.samples, options.question)


def _check_replaceable(folder: Path) -> None:
    """Raises EngineError where a folder cannot be renamed, or holds what neither an export nor its build wrote."""
    check_movable(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    own = exported_names(folder)
    if own is None:
        raise EngineError(f"{folder} exists and is no exported folder; choose another, nothing was changed")
    if other := _not_written_here(folder, own):
        raise EngineError(
            f"{folder} would be replaced, and {other} is no part of the export in it; choose another folder or move it "
            "away, nothing was changed"
        )


def _not_written_here(folder: Path, own: set[str]) -> Path | None:
    """The first file that is neither one of the export's own nor what `quantize` and `build` add to them."""
    plans = {VISION_PLAN, DECODER_PLAN, PLAN_MANIFEST, TIMING_CACHE, Path(TIMING_CACHE).with_suffix(".partial").name}
    inner = folder / PLAN_FOLDER
    found = [path for path in folder.iterdir() if path.name not in own | {REPORT, PLAN_FOLDER, PLAN_STAGING}]
    found += [path for path in inner.iterdir() if path.name not in plans] if inner.is_dir() else []
    return min(found, default=None)


def _keep_timings(earlier: Path, folder: Path) -> None:
    if (earlier / PLAN_FOLDER / TIMING_CACHE).is_file():
        (folder / PLAN_FOLDER).mkdir()
        shutil.copy2(earlier / PLAN_FOLDER / TIMING_CACHE, folder / PLAN_FOLDER / TIMING_CACHE)


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise EngineError(f"profile {name!r} is unknown; choose from {', '.join(PROFILES)}")
    return PROFILES[name]


def _check_operators(profile: Profile, quantization: Quantization | None) -> None:
    """Raises EngineError where a profile has no operators for quantised weights."""
    kind = quantization.kind if quantization else ""
    if (kind == "int8" and not profile.contrib) or (kind == "fp8" and profile.contrib):
        wanted = "onnxruntime" if kind == "int8" else "portable or fused"
        why = "; TensorRT multiplies 16-bit inputs with 4-bit weights, not with 8-bit ones" if kind == "int8" else ""
        raise EngineError(f"{kind} weights need the profile {wanted}, not {profile.name}{why}")


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise EngineError(f"type {name!r} cannot be exported; choose from {', '.join(DTYPES)}")
    return name
