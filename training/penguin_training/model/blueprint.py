"""Sizes and tokenizer of the model that a stage trains, known from configuration files before weights are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penguin_models.checkpoint import read_config
from penguin_models.config import DecoderFields, ImageConfig, PenguinConfig, read_json
from penguin_models.encoder_from_llm import encoder_config
from penguin_models.errors import CheckpointError, SettingError
from penguin_models.hub import resolve_checkpoint
from penguin_models.processor import CALIBRATION, Processor
from penguin_training.settings.model import NewLanguageModel, NewModel
from penguin_training.settings.stage import StageSettings

_TOKEN_FIELDS = ("eos_token_id", "pad_token_id", "bos_token_id")


@dataclass(frozen=True, eq=False)
class Blueprint:
    """Sizes and tokenizer of a model."""

    decoder: dict[str, Any]  # Fields of a Qwen3 `config.json`, with its special token ids
    penguin: PenguinConfig | None  # Configuration of the whole model; None in a text stage
    processor: Processor  # Prepares the samples

    @property
    def context_tokens(self) -> int | None:
        """Maximum sequence length of the decoder; None if its configuration does not say."""
        return self.decoder.get("max_position_embeddings")


def make_blueprint(settings: StageSettings) -> Blueprint:
    """Reads the configuration files that a stage starts from; raises PenguinError if they do not fit the stage."""
    model = settings.model
    if model.new_language_model:
        blueprint = _new_decoder(model.new_language_model)
    elif model.new_model:
        blueprint = _new_penguin(model.new_model)
    elif settings.kind == "text":
        folder, raw = read_llm_config(str(model.start))
        blueprint = Blueprint(decoder_fields(raw), None, Processor.from_llm(folder, ImageConfig()))
    else:
        folder = resolve_checkpoint(str(model.start), weights=False)
        config = read_config(folder)
        processor = Processor.from_pretrained(folder, config.image_token_id)
        processor.side_files.pop(CALIBRATION, None)  # it is that of the weights before training
        blueprint = Blueprint(config.decoder, config, processor)
    rows, image = int(blueprint.decoder["vocab_size"]), blueprint.processor.image_token_id
    if blueprint.penguin is not None and image >= rows:
        raise SettingError(f"<image> has the token id {image}, but the decoder's embeddings have only {rows} rows")
    longest, context = settings.budgets.tokens, blueprint.context_tokens
    if context and longest > context and settings.kind == "multimodal":
        raise SettingError(f"budgets.tokens is {longest}, the decoder's context is {context}; lower budgets.tokens")
    return blueprint


def read_llm_config(path: str) -> tuple[Path, dict[str, Any]]:
    """Returns the folder and the `config.json` of a Qwen3 checkpoint, without downloading weights."""
    folder = resolve_checkpoint(path, weights=False)
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(f"{folder} is a {raw.get('model_type')!r} model; a text-only 'qwen3' model is needed")
    return folder, raw


def is_local(path: str) -> bool:
    """Returns whether a checkpoint is a local folder; the weights of others may still have to be downloaded."""
    return Path(path).expanduser().is_dir()


def decoder_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a Qwen3 `config.json` that describe the decoder."""
    return {name: raw[name] for name in (*DecoderFields.__annotations__, *_TOKEN_FIELDS) if raw.get(name) is not None}


def _new_decoder(new: NewLanguageModel) -> Blueprint:
    processor = Processor.from_llm(resolve_checkpoint(new.tokenizer, weights=False), ImageConfig())
    decoder = {name: value for name, value in vars(new).items() if name in DecoderFields.__annotations__}
    size = processor.tokenizer.get_vocab_size(with_added_tokens=True)
    special = {"eos_token_id": processor.end_token_ids[0], "pad_token_id": None, "bos_token_id": None}
    return Blueprint(decoder | {"vocab_size": size} | special, None, processor)


def _new_penguin(new: NewModel) -> Blueprint:
    folder, raw = read_llm_config(new.llm)
    encoder_folder = resolve_checkpoint(new.encoder_llm, weights=False) if new.encoder_llm else folder
    encoder = encoder_config(encoder_folder, read_json(encoder_folder / "config.json"))
    layers = new.encoder_layers or encoder.num_hidden_layers
    if layers > encoder.num_hidden_layers:
        raise SettingError(
            f"model.new_model.encoder_layers is {layers}, {new.encoder_llm or new.llm} has {encoder.num_hidden_layers}"
        )
    images = ImageConfig(patch_size=encoder.patch_size, min_tokens=new.min_tokens, max_tokens=new.max_tokens)
    processor = Processor.from_llm(folder, images)
    decoder = decoder_fields(raw)
    config = PenguinConfig.create(replace(encoder, num_hidden_layers=layers), decoder, processor.image_token_id)
    return Blueprint(decoder, config, processor)
