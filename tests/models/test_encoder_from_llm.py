"""An encoder is initialised with an LLM's layers."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from penguin_models import convert_llm_to_encoder, load_encoder
from penguin_models.encoder import FrameShape
from penguin_models.errors import CheckpointError
from penguin_models.types import Size

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


_LEFT_OUT = ("rope_parameters", "rope_theta", "head_dim")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """Returns a Qwen3 checkpoint as transformers writes it: (model, folder)."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, rope_theta=5e5, tie_word_embeddings=False))
    for parameter in model.parameters():  # norms would all be ones and could not be told apart
        torch.nn.init.normal_(parameter)
    folder = tmp_path_factory.mktemp("llm")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("layers", [None, 2])
def test_layers_and_norms_are_copied(llm, layers):
    model, folder = llm
    encoder = convert_llm_to_encoder(folder, num_hidden_layers=layers)
    theirs = dict(model.model.named_parameters())
    ours = dict(encoder.encoder.named_parameters())
    assert len(encoder.encoder.layers) == (layers or 3)
    for name, parameter in ours.items():
        assert torch.equal(parameter, theirs[name]), name
    assert encoder.config.rope_theta == 5e5
    with torch.inference_mode():
        features = encoder(torch.randn(12, 588), [FrameShape(Size(3, 4), 1)])
    assert features.shape == (12, 32) and features.isfinite().all()


def test_a_base_model_without_head_is_accepted(llm, tmp_path):
    model, folder = llm
    model.model.save_pretrained(tmp_path)
    ours, base = convert_llm_to_encoder(folder), convert_llm_to_encoder(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), base.parameters(), strict=True))


def test_patch_embedding_is_new_and_seeded(llm):
    first, again, other = (convert_llm_to_encoder(llm[1], seed=seed).embeddings.patch_embedding for seed in (1, 1, 2))
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)
    assert abs(first.weight.std() - 0.02) < 0.002 and (first.bias == 0).all()


def test_too_many_layers_are_refused(llm):
    with pytest.raises(CheckpointError, match=r"4 encoder layers were requested, but .* has 3"):
        convert_llm_to_encoder(llm[1], num_hidden_layers=4)


@pytest.mark.parametrize(("family", "config"), [(LlamaForCausalLM, LlamaConfig), (MistralForCausalLM, MistralConfig)])
def test_a_llama_gets_norms_of_queries_and_keys(tmp_path, family, config):
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    llm = family(config(**sizes))
    llm.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    raw = {name: value for name, value in json.loads(file.read_text()).items() if name not in _LEFT_OUT}
    file.write_text(json.dumps(raw | {"head_dim": None}))  # as older files have it
    encoder = convert_llm_to_encoder(tmp_path)
    assert (encoder.config.head_dim, encoder.config.rope_theta) == (8, 1e4)
    theirs = dict(llm.model.named_parameters())
    for name, parameter in encoder.encoder.named_parameters():
        assert torch.equal(parameter, theirs.get(name, torch.ones(8))), name
    assert load_encoder(tmp_path)([np.zeros((70, 70, 3), np.uint8)])[0].isfinite().all()


def test_other_models_are_refused(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="a 'qwen2' model; an encoder starts from one of 'qwen3', 'llama', 'mist"):
        convert_llm_to_encoder(tmp_path)


def test_mismatched_shapes_are_refused(llm, tmp_path):
    model, _ = llm
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40'))
    with pytest.raises(CheckpointError, match=r"9 misshapen: model\.layers"):
        convert_llm_to_encoder(tmp_path)
