"""The weights that a stage starts from: loaded, or new and random by the stage's seed. All in float32 on the CPU."""

from __future__ import annotations

import torch
import transformers
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from penguin_models.checkpoint import load_pretrained, open_checkpoint, resolve_checkpoint
from penguin_models.config import EncoderConfig
from penguin_models.encoder import PenguinEncoder
from penguin_models.encoder_from_llm import convert_llm_to_encoder
from penguin_models.errors import CheckpointError
from penguin_models.projector import Projector
from penguin_models.tensor_files import check_tensors, index_tensors
from penguin_training.model.lora import add_lora
from penguin_training.model.stage_model import Reading, StageModel, freeze
from penguin_training.settings.blueprint import Blueprint, decoder_fields, is_local, llm_config
from penguin_training.settings.model import NewModel
from penguin_training.settings.stage import StageSettings

transformers.utils.logging.disable_progress_bar()  # the run has a progress line of its own

_INITIALIZER_RANGE = 0.02
_DECODER = "language_model"


def build_model(
    settings: StageSettings, blueprint: Blueprint, teacher_width: int | None, reading: Reading | None = None
) -> StageModel:
    """The stage's model with its weights, what is not trained frozen.

    Random parts depend on `engine.seed` alone: every process makes the same ones.

    Raises:
        CheckpointError: weights are missing or do not fit.
        SettingError: LoRA names layers that the decoder does not have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.engine.seed)
        model = _assemble(settings, blueprint, teacher_width, *_parts(settings, blueprint))
    model.reading = reading
    _hold_frozen_in_half(model, settings)
    return model


def empty_model(settings: StageSettings, blueprint: Blueprint, teacher_width: int | None) -> StageModel:
    """The same without loading anything: parameters have what torch makes of them (under FakeTensorMode nothing)."""
    decoder = Qwen3ForCausalLM(decoder_config(blueprint))
    encoder = projector = None
    if blueprint.penguin is not None:
        encoder = PenguinEncoder(blueprint.penguin.encoder)
        projector = Projector(blueprint.penguin.encoder.hidden_size, blueprint.penguin.hidden_size)
    model = _assemble(settings, blueprint, teacher_width, decoder, encoder, projector)
    _hold_frozen_in_half(model, settings)
    return model


def check_weights(settings: StageSettings) -> None:
    """Compares the tensors that a stage starts from with their configuration, where their folder is here; reads none.

    Raises:
        CheckpointError: weights are missing or do not fit.
    """
    model = settings.model
    if model.start and settings.kind == "multimodal" and is_local(model.start):
        open_checkpoint(model.start)
    llms = [model.start] if settings.kind == "text" else []
    llms += [model.new_model.llm, model.new_model.encoder_llm] if model.new_model else []
    for llm in llms:
        if llm and is_local(llm):
            _check_llm(llm)


def decoder_config(blueprint: Blueprint) -> Qwen3Config:
    """The decoder's configuration for transformers."""
    return Qwen3Config(**blueprint.decoder)


def _assemble(
    settings: StageSettings,
    blueprint: Blueprint,
    teacher_width: int | None,
    decoder: Qwen3ForCausalLM,
    encoder: PenguinEncoder | None,
    projector: Projector | None,
) -> StageModel:
    over = settings.reconstruction.relation_over if settings.reconstruction else "image"
    model = StageModel(decoder, encoder, projector, teacher_width, over)
    if settings.lora:
        add_lora(model.language_model, settings.lora)
    freeze(model, settings.learning_rates.given())
    if settings.engine.gradient_checkpointing:
        model.checkpoint_activations()
    return model.train()


def _parts(
    settings: StageSettings, blueprint: Blueprint
) -> tuple[Qwen3ForCausalLM, PenguinEncoder | None, Projector | None]:
    if settings.model.new_language_model:
        return Qwen3ForCausalLM(decoder_config(blueprint)), None, None
    if settings.model.new_model:
        assert blueprint.penguin is not None
        new = settings.model.new_model
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
    folder = resolve_checkpoint(path)
    _check_llm(path)
    try:
        return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as err:
        raise CheckpointError(f"{folder} cannot be loaded: {' '.join(str(err).split())[:200]}") from err


def _check_llm(path: str) -> None:
    """Raises CheckpointError where a Qwen3 checkpoint lacks tensors that its configuration wants."""
    folder, raw = llm_config(path)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**decoder_fields(raw)))
    wanted = {f"{_DECODER}.{name}": tuple(p.shape) for name, p in model.named_parameters()}
    stored = index_tensors(folder)
    # A base model names its tensors without what comes before them; more of them than are wanted do no harm.
    short = {name: name.removeprefix(f"{_DECODER}.model.") for name in wanted}
    found = {name: stored[key] for name in wanted for key in (name, short[name]) if key in stored}
    check_tensors(folder, wanted, found)


def _hold_frozen_in_half(model: StageModel, settings: StageSettings) -> None:
    """Frozen weights take half the memory where they are computed with and stored as bfloat16; shards need one type."""
    engine = settings.engine
    if engine.precision == "bf16" and engine.save_dtype == "bfloat16" and engine.sharding == "none":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
