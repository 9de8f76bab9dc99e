"""The trained tokenizer has the layout of released ones, and a whole small model can be built on it."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen3ForCausalLM

from penguin_models.checkpoint import load_pretrained
from penguin_models.encoder_from_llm import convert_llm_to_encoder
from penguin_models.errors import CheckpointError, SettingError
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.train_tokenizer import SPECIAL, WORDS, save_tokenizer, train_tokenizer
from penguin_training.model.blueprint import make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.run.loop import train


@pytest.fixture(scope="module")
def trained(drawn):
    return train_tokenizer([AnnotationFile(drawn / name) for name in ("captions.jsonl", "text.jsonl")], 300)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(trained, path)
    return path


def test_its_layout_is_that_of_the_reference(folder, checkpoint):
    ours, theirs = (json.loads((path / "tokenizer.json").read_text()) for path in (folder, checkpoint))
    for part in ("normalizer", "post_processor"):
        assert ours[part] == theirs[part], part
    (words, letters), (their_words, their_letters) = (part["pre_tokenizer"]["pretokenizers"] for part in (ours, theirs))
    assert letters == their_letters
    assert words == json.loads(json.dumps(their_words).replace(r"|\\p{N}|", r"|\\p{N}{1,4}|"))  # numbers stay whole
    assert ours["decoder"]["type"] == theirs["decoder"]["type"] and ours["model"].keys() >= {"vocab", "merges"}
    columns = ("content", "special", "normalized", "lstrip", "rstrip", "single_word")
    for our, their in zip(ours["added_tokens"], theirs["added_tokens"], strict=True):
        assert {c: our[c] for c in columns} == {c: their[c] for c in columns}
    ours, theirs = (json.loads((path / "tokenizer_config.json").read_text()) for path in (folder, checkpoint))
    assert [t["content"] for t in ours["added_tokens_decoder"].values()] == [*SPECIAL, *WORDS]
    assert ours["eos_token"] == theirs["eos_token"] and ours["pad_token"] == theirs["pad_token"]


def test_any_text_survives_a_round_trip(trained, folder):
    text = "A [red square](12,345,678,901) – é 漢字 \n\n 🐧"
    assert trained.decode(trained.encode(text).ids) == text
    assert AutoTokenizer.from_pretrained(folder).encode(text) == trained.encode(text).ids
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids == trained.encode(text).ids


def test_invalid_unicode_is_skipped(tmp_path, jsonl, conversation):
    rows = [{"text": "bad \udc80"}, {"conversations": conversation("Who?", "\ud800")}, {"text": "aa aa"}]
    file = AnnotationFile(jsonl(tmp_path / "x.jsonl", rows))
    assert train_tokenizer([file], 263).encode("aa").tokens == ["aa"]


def test_coordinates_and_special_tokens_are_single_tokens(trained, drawn, tmp_path):
    assert trained.encode("<|im_start|><image><think>").tokens == ["<|im_start|>", "<image>", "<think>"]
    assert trained.get_vocab_size() == 300 == max(trained.get_vocab().values()) + 1
    boxes = [f"[red square]({n},{n + 20},1000,{1000 - n})" for n in range(0, 1000, 10)] * 20
    path = tmp_path / "boxes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in boxes))
    save_tokenizer(train_tokenizer([AnnotationFile(path)], 370), tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path).tokenize("(430,90,1000,80)")
    assert tokens == ["(", "430", ",", "90", ",", "1000", ",", "80", ")"]


def test_an_impossible_vocabulary_is_refused(drawn, tmp_path):
    files = [AnnotationFile(drawn / "text.jsonl")]
    with pytest.raises(SettingError, match="of 200 is too small: bytes and special tokens already take 262"):
        train_tokenizer(files, 200)
    with pytest.raises(SettingError, match=r"the texts give only \d+ tokens of 5000"):
        train_tokenizer(files, 5000)


def test_a_multimodal_model_can_be_built_from_scratch(folder, values, reconstruction, start, losses, tmp_path):
    """As for penguin-tiny: tokenizer, random decoder, encoder made from that decoder, reconstruction."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = values | {
        "kind": "text",
        "output": str(tmp_path / "text"),
        "model": {"new_language_model": sizes | {"tokenizer": str(folder), "num_key_value_heads": 1, "head_dim": 16}},
        "learning_rates": {"llm": 3e-3},
        "data": values["data"] | {"files": [{"path": "text.jsonl"}], "train_on": "all"},
        "schedule": {"steps": 8},
    }
    run = start(text)
    train(run)
    assert losses(run)[-1] < losses(run)[0]
    decoder = Qwen3ForCausalLM.from_pretrained(run.output)
    assert decoder.config.vocab_size == 300 and decoder.config.eos_token_id == 294
    encoder = convert_llm_to_encoder(run.output)
    layer = decoder.model.layers[1].mlp.up_proj.weight
    assert torch.equal(encoder.encoder.layers[1].mlp.up_proj.weight, layer)

    values = reconstruction(values)
    values["model"] = {"new_model": {"llm": str(run.output), "encoder_layers": 1, "min_tokens": 8}}
    values["learning_rates"]["llm"] = None
    run = start(values)
    train(run)
    model, processor = load_pretrained(run.output)
    assert processor.images.min_tokens == 8 and model.config.encoder.num_hidden_layers == 1
    kept = model.language_model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(kept, layer)  # the decoder was frozen
    assert not torch.equal(
        model.vision_encoder.encoder.layers[0].mlp.up_proj.weight, decoder.model.layers[0].mlp.up_proj.weight
    )


def test_random_parts_depend_on_the_seed_alone(values, parse, llm_folder):
    values["model"] = {"new_model": {"llm": str(llm_folder), "encoder_init": "random"}}

    def build(seed):
        values["engine"]["seed"] = seed
        settings = parse(values)
        return dict(build_model(settings, make_blueprint(settings), None).named_parameters())

    first, again, other = build(1), build(1), build(2)
    layer = "vision_encoder.encoder.layers.0.mlp.up_proj.weight"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[layer], other[layer])
    values["model"]["new_model"]["encoder_init"] = "llm"
    assert torch.equal(build(1)[layer], first["language_model.model.layers.0.mlp.up_proj.weight"])


def test_models_that_do_not_fit_the_stage_are_refused(values, parse, llm_folder, checkpoint, tmp_path):
    values["model"] = {"new_model": {"llm": str(checkpoint)}}
    with pytest.raises(CheckpointError, match="is a 'penguinvl_qwen3' model; a text-only 'qwen3' model is needed"):
        make_blueprint(parse(values))
    values["model"] = {"new_model": {"llm": str(llm_folder), "encoder_layers": 9}}
    with pytest.raises(SettingError, match=r"encoder_layers is 9, .* has 2"):
        make_blueprint(parse(values))
    values["model"] = {"start": str(tmp_path / "none")}
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        make_blueprint(parse(values))
    values["model"] = {"start": str(checkpoint)}
    values["budgets"]["tokens"] = 50000
    with pytest.raises(SettingError, match=r"budgets\.tokens is 50000, the decoder's context is 40960"):
        make_blueprint(parse(values))
