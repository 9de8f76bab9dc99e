"""Builds a stage's model with its initial weights: loaded, or random from the stage's seed; in float32 on the CPU."""

from __future__ import annotations

import torch
import transformers
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from penguin_models.checkpoint import load_pretrained, open_checkpoint
from penguin_models.config import EncoderConfig
from penguin_models.encoder import PenguinEncoder
from penguin_models.encoder_from_llm import convert_llm_to_encoder
from penguin_models.hub import resolve_checkpoint
from penguin_models.projector import Projector
from penguin_models.tensor_files import StoredTensor, check_tensors, copy_tensors, index_tensors
from penguin_training.model.blueprint import Blueprint, decoder_fields, is_local, read_llm_config
from penguin_training.model.lora import add_lora
from penguin_training.model.stage_model import ReadingLoss, StageModel, part_of
from penguin_training.settings.model import NewModel
from penguin_training.settings.stage import StageSettings

transformers.utils.logging.disable_progress_bar()  # the run has a progress line of its own

_INITIALIZER_RANGE = 0.02
_DECODER = "language_model"
_Modules = tuple[Qwen3ForCausalLM, PenguinEncoder | None, Projector | None]


def build_model(
    settings: StageSettings, blueprint: Blueprint, teacher_width: int | None, reading: ReadingLoss | None = None
) -> StageModel:
    """Returns the stage's model with its weights; parts that are not trained are frozen.

    Random parts depend on `engine.seed` alone, so every process makes the same ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.engine.seed)
        model = _assemble(settings, teacher_width, _load_modules(settings, blueprint))
    model.reading = reading
    return model


def empty_model(settings: StageSettings, blueprint: Blueprint, teacher_width: int | None) -> StageModel:
    """Returns the same model without loading weights; parameters hold what torch initialises them with."""
    decoder = Qwen3ForCausalLM(Qwen3Config(**blueprint.decoder))
    encoder = projector = None
    if blueprint.penguin is not None:
        encoder = PenguinEncoder(blueprint.penguin.encoder)
        projector = Projector(blueprint.penguin.encoder.hidden_size, blueprint.penguin.hidden_size)
    return _assemble(settings, teacher_width, (decoder, encoder, projector))


def check_weights(settings: StageSettings) -> None:
    """Raises CheckpointError if stored tensors that a stage starts from are missing or do not fit their configuration.

    Reads only their headers, and downloads nothing.
    """
    model = settings.model
    if model.start and settings.kind == "multimodal" and is_local(model.start):
        open_checkpoint(model.start)
    llms = [model.start] if settings.kind == "text" else []
    llms += [model.new_model.llm, model.new_model.encoder_llm] if model.new_model else []
    for llm in llms:
        if llm and is_local(llm):
            _open_llm(llm)


def _assemble(settings: StageSettings, teacher_width: int | None, modules: _Modules) -> StageModel:
    relation_over = settings.reconstruction.relation_over if settings.reconstruction else "image"
    model = StageModel(*modules, teacher_width, relation_over)
    if settings.lora:
        add_lora(model.language_model, settings.lora)
    trained, engine = settings.learning_rates.trained(), settings.engine
    # Frozen weights are rounded now if they are saved so; but shards need all weights in one type.
    rounded = engine.precision == "bf16" and engine.save_dtype == "bfloat16" and engine.sharding == "none"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in trained)
        if rounded and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    if engine.gradient_checkpointing:
        model.checkpoint_activations()
    return model.train()


def _load_modules(settings: StageSettings, blueprint: Blueprint) -> _Modules:
    new = settings.model.new_model
    if settings.model.new_language_model:
        return Qwen3ForCausalLM(Qwen3Config(**blueprint.decoder)), None, None
    if new:
        assert blueprint.penguin is not None
        config = blueprint.penguin
        encoder = _new_encoder(new, config.encoder, settings.engine.seed)
        return _load_llm(new.llm), encoder, Projector(config.encoder.hidden_size, config.hidden_size)
    if settings.kind == "text":
        return _load_llm(str(settings.model.start)), None, None
    model, _ = load_pretrained(str(settings.model.start), dtype="float32")
    return model.language_model, model.vision_encoder, model.vision_projector


def _new_encoder(new: NewModel, config: EncoderConfig, seed: int) -> PenguinEncoder:
    if new.encoder_init == "llm":
        return convert_llm_to_encoder(new.encoder_llm or new.llm, config.num_hidden_layers, config.patch_size, seed)
    encoder = PenguinEncoder(config)
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=_INITIALIZER_RANGE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return encoder


def _load_llm(path: str) -> Qwen3ForCausalLM:
    resolve_checkpoint(path)
    model, stored = _open_llm(path)
    model.to_empty(device="cpu")
    copy_tensors(stored, {name: model.get_parameter(name.removeprefix(f"{_DECODER}.")) for name in stored})
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its frequencies are not parameters
    return model


def _open_llm(path: str) -> tuple[Qwen3ForCausalLM, dict[str, StoredTensor]]:
    """Returns the model on the meta device and the places of its parameters on disk, or raises CheckpointError."""
    folder, raw = read_llm_config(path)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**decoder_fields(raw)))
    expected = {f"{_DECODER}.{name}": tuple(p.shape) for name, p in model.named_parameters()}
    stored = index_tensors(folder)
    # A base model stores its tensors without this prefix; additional tensors do no harm.
    short = {name: name.removeprefix(f"{_DECODER}.model.") for name in expected}
    found = {name: stored[key] for name in expected for key in (name, short[name]) if key in stored}
    check_tensors(folder, expected, found)
    return model, found
