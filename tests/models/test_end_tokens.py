"""Ids that end an answer, wherever a checkpoint names them."""

import json

import pytest

from penguin_models import load_pretrained, save_pretrained
from penguin_models.errors import CheckpointError
from penguin_models.processor import Processor

TURN_END, END_OF_TEXT, OTHER = 1500, 1501, 17


def write(folder, file, **values):
    path = folder / file
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(found | values))


@pytest.mark.parametrize(
    ("file", "values", "expected"),
    [
        ("generation_config.json", {"eos_token_id": [TURN_END, END_OF_TEXT]}, (TURN_END, END_OF_TEXT)),
        ("generation_config.json", {"eos_token_id": [END_OF_TEXT, OTHER]}, (TURN_END, END_OF_TEXT, OTHER)),
        ("generation_config.json", {"eos_token_id": END_OF_TEXT}, (TURN_END, END_OF_TEXT)),
        ("generation_config.json", {"eos_token_id": None}, (TURN_END,)),
        ("generation_config.json", {"eos_token_id": []}, (TURN_END,)),
        ("generation_config.json", {"temperature": 0.6, "top_p": 0.8}, (TURN_END,)),
        ("config.json", {"eos_token_id": [OTHER, TURN_END]}, (TURN_END, OTHER)),
        ("config.json", {"text_config": {"eos_token_id": OTHER}}, (TURN_END, OTHER)),
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}, (TURN_END, END_OF_TEXT)),
        ("tokenizer_config.json", {"eos_token": {"content": "<|endoftext|>"}}, (TURN_END, END_OF_TEXT)),
        ("tokenizer_config.json", {"eos_token": "</s>"}, (TURN_END,)),  # the tokenizer has no such token
    ],
)
def test_every_file_may_name_end_tokens(edit_checkpoint, file, values, expected):
    folder = edit_checkpoint()
    write(folder, file, **values)
    assert Processor.from_pretrained(folder).end_token_ids == expected


def test_the_ids_survive_saving(edit_checkpoint, tmp_path):
    folder = edit_checkpoint()
    write(folder, "generation_config.json", eos_token_id=[TURN_END, END_OF_TEXT])
    model, processor = load_pretrained(folder)
    save_pretrained(model, processor, tmp_path / "saved")
    model, processor = load_pretrained(tmp_path / "saved")
    assert model.end_token_ids == processor.end_token_ids == (TURN_END, END_OF_TEXT)


@pytest.mark.parametrize("value", [99_999, -1, "1500", True, 1500.0, [1500, None], {"id": 1500}])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ids_outside_the_vocabulary_are_refused(edit_checkpoint, file, value):
    folder = edit_checkpoint()
    write(folder, file, eos_token_id=value)
    with pytest.raises(CheckpointError, match=rf"{file}: eos_token_id is .* must be a token id below 1536"):
        Processor.from_pretrained(folder)


def test_an_end_token_that_is_no_text_is_refused(edit_checkpoint):
    folder = edit_checkpoint()
    write(folder, "tokenizer_config.json", eos_token=5)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: eos_token is 5, not a token"):
        Processor.from_pretrained(folder)
    write(folder, "tokenizer_config.json", eos_token="\ud800")
    assert Processor.from_pretrained(folder).end_token_ids == (TURN_END,)


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_a_damaged_generation_config_is_refused(edit_checkpoint, content):
    folder = edit_checkpoint()
    (folder / "generation_config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        Processor.from_pretrained(folder)
