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
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penguin_engine.event_clips import EventClip
from penguin_engine.graphs.decoder import EMBEDDING_TABLE, build_decoder
from penguin_engine.graphs.graph import Graph, WeightFile
from penguin_engine.graphs.layers import Layers
from penguin_engine.graphs.vision import build_vision
from penguin_engine.graphs.weights import CheckpointWeights
from penguin_engine.manifest import (
    DECODER,
    DTYPES,
    EMBEDDINGS,
    MANIFEST,
    PROFILES,
    VISION,
    DecoderShape,
    Manifest,
    Profile,
    hash_files,
)
from penguin_engine.ranges import ActivationRanges, measure_ranges
from penguin_models.checkpoint import load_pretrained, open_checkpoint, stored_dtype
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, UInt8Array
from penguin_models.vlm import PenguinVL


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        profile: "portable", "fused" or "onnxruntime"; see manifest.py.
        dtype: type of the decoder; that of the checkpoint if None.
        vision_dtype: type of encoder and projector; `dtype` if None.
        samples: images, uint8 [H, W, 3] each, on which a float16 export checks its ranges; drawn ones if empty.
        question: asked about the samples.
    """

    profile: str = "portable"
    dtype: str | None = None
    vision_dtype: str | None = None
    samples: Sequence[UInt8Array] = field(default=(), repr=False)
    question: str = "Describe what you see in detail."


def export(model: str | Path, folder: str | Path, options: ExportOptions | None = None) -> Manifest:
    """Exports a checkpoint.

    The folder appears when it is complete; one that an earlier export made is replaced.

    Args:
        model: checkpoint folder, or `owner/name` on the model hub.
        folder: where the result goes.
        options: what to write.

    Raises:
        CheckpointError: the checkpoint is missing or incomplete.
        EngineError: an option is unknown, the folder holds something else, or the model cannot be exported so.
    """
    options = options or ExportOptions()
    folder = Path(folder).expanduser()
    profile = _profile(options.profile)
    _check_replaceable(folder)
    checkpoint, stored, processor = open_checkpoint(model)
    dtype = _dtype(options.dtype or str(stored_dtype(stored)).removeprefix("torch."))
    vision_dtype = _dtype(options.vision_dtype or dtype)
    shape, frequencies = decoder_shape(checkpoint)
    ranges = _measure(model, stored_dtype(stored), options) if "float16" in (dtype, vision_dtype) else None
    source = _Source(CheckpointWeights(stored), profile, ranges.shrink() if ranges else {})

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staging = Path(temporary) / "export"
        processor.save_pretrained(staging)
        tokenizer = sorted(file.name for file in staging.iterdir())
        tied = checkpoint.config.tie_word_embeddings
        _write_embeddings(staging / EMBEDDINGS, source.weights, dtype)
        with WeightFile(staging / f"{VISION}.data") as file:
            layers = source.layers("vision", file, vision_dtype)
            build_vision(layers, checkpoint.config.encoder, shape.hidden, dtype)
            layers.graph.save(staging / VISION)
        with WeightFile(staging / f"{DECODER}.data") as file:
            layers = source.layers("decoder", file, dtype)
            build_decoder(layers, shape, frequencies, staging / EMBEDDINGS if tied else None)
            layers.graph.save(staging / DECODER)
        manifest = Manifest(
            source=str(model),
            profile=profile.name,
            opset=profile.opset,
            dtype=dtype,
            vision_dtype=vision_dtype,
            patch_dim=checkpoint.config.encoder.patch_dim,
            decoder=shape,
            image_token_id=processor.image_token_id,
            end_token_ids=processor.end_token_ids,
            preprocessor=processor.images.to_dict(),
            tokenizer=tuple(tokenizer),
            activation_ranges=ranges.summary() if ranges else {},
            files=hash_files(staging, [file.name for file in staging.iterdir()]),
        )
        manifest.write(staging)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
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
class _Source:
    weights: CheckpointWeights
    profile: Profile
    shrink: Mapping[str, float]

    def layers(self, name: str, file: WeightFile, dtype: str) -> Layers:
        graph = Graph(name, self.profile.opset, file, self.profile.contrib)
        return Layers(graph, self.weights, self.profile, dtype, self.shrink if dtype == "float16" else {})


def _write_embeddings(path: Path, weights: CheckpointWeights, dtype: str) -> None:
    with path.open("wb") as file:
        for block in weights.blocks(EMBEDDING_TABLE, dtype):
            file.write(np.ascontiguousarray(block).view(np.uint8).data)


def _measure(model: str | Path, stored: torch.dtype, options: ExportOptions) -> ActivationRanges:
    """Ranges on sample data; the model is loaded in a type that does not overflow, and freed again."""
    loaded, processor = load_pretrained(model, torch.bfloat16 if stored == torch.float16 else stored)
    samples = options.samples or [frame.rgb for frame in islice(EventClip(seed=0, seconds=2.0), 1)]
    return measure_ranges(loaded, processor, samples, options.question)


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder / MANIFEST).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise EngineError(f"{folder} exists and is no exported folder; choose another, nothing was changed")


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise EngineError(f"profile {name!r} is unknown; choose from {', '.join(PROFILES)}")
    return PROFILES[name]


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise EngineError(f"type {name!r} cannot be exported; choose from {', '.join(DTYPES)}")
    return name
