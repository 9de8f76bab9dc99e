"""Independent turns: learnt together, each has the loss of its own conversation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from penguin_models.checkpoint import load_pretrained
from penguin_models.errors import DataError
from penguin_training.data.annotations import AnnotationFile, parse_annotation
from penguin_training.data.batch import collate
from penguin_training.data.independent_turns import split_turns
from penguin_training.data.sample_reader import SampleReader
from penguin_training.model.stage_model import StageModel
from penguin_training.settings.data import DataFile, DataSettings

SHOWN = {"type": "image"}
QUESTIONS = ("What is it?", "Where is it?", "How many are there?")
ANSWERS = ("A red square.", "On the left.", "One")


@pytest.fixture
def reader(processor):
    return SampleReader(processor, DataSettings(files=[DataFile("x")]), max_tokens=512, max_visual_tokens=128)


@pytest.fixture
def asked(drawn):
    """Makes an annotation with these turns about the first drawn image."""
    image = AnnotationFile(drawn / "captions.jsonl")[0].media[0].path

    def make(*numbers, **fields):
        turns = []
        for place, number in enumerate(numbers):
            turns.append({"from": "human", "value": ("" if place else "<image>\n") + QUESTIONS[number]})
            turns.append({"from": "gpt", "value": ANSWERS[number]})
        return parse_annotation({"image": str(image), "conversations": turns, **fields}, image.parent, "x")

    return make


def encoded(reader, annotation):
    return reader.encode(annotation, reader.measure(annotation))


def test_the_image_appears_once_and_each_turn_equals_its_own_conversation(reader, asked):
    apart = encoded(reader, asked(0, 1, 2, independent_turns=True))
    alone = [encoded(reader, asked(number)) for number in range(3)]
    shared = int(np.flatnonzero(alone[0].ids == reader.processor.image_token_id)[-1]) + 1
    assert apart.turns == tuple(len(example.ids) - shared for example in alone)
    for field in ("ids", "labels"):
        whole = [getattr(alone[0], field)[:shared], *(getattr(example, field)[shared:] for example in alone)]
        np.testing.assert_array_equal(getattr(apart, field), np.concatenate(whole))
    assert len(apart.images) == 1 and encoded(reader, asked(0, 1, 2)).turns == ()


def test_the_loss_equals_that_of_single_conversations(reader, asked, checkpoint):
    model, _ = load_pretrained(checkpoint, dtype="float32")
    stage = StageModel(model.language_model, model.vision_encoder, model.vision_projector)

    def loss(*annotations):
        examples = [encoded(reader, annotation) for annotation in annotations]
        with torch.no_grad():
            return stage(collate(examples, reader.processor))["cross_entropy"]

    alone = sum(loss(asked(number)) for number in range(3))
    torch.testing.assert_close(loss(asked(0, 1, 2, independent_turns=True)), alone, rtol=1e-5, atol=1e-4)
    packed = loss(asked(1), asked(0, 1, 2, independent_turns=True), asked(2, 0))  # packed with others
    torch.testing.assert_close(packed, alone + loss(asked(1)) + loss(asked(2, 0)), rtol=1e-5, atol=1e-4)
    assert abs(loss(asked(0, 1, 2)) - alone) > 1e-3  # together they see each other


def test_no_turn_predicts_the_first_token_of_another(reader, asked):
    everything = replace(reader, data=replace(reader.data, train_on="all"))
    example = encoded(everything, asked(0, 1, independent_turns=True))
    batch = collate([example], reader.processor)
    assert len(example.ids) - 1 - example.turns[1] not in batch.predict_from
    assert batch.positions[len(example.ids) - example.turns[1]] == len(example.ids) - sum(example.turns)


def test_a_system_message_stays_before_every_question():
    system, said = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}
    first = {"role": "user", "content": [SHOWN, {"type": "text", "text": "A?"}]}
    again = {"role": "user", "content": "B?"}
    alone = split_turns([system, first, said, again, said, said])
    assert alone[0] == [system, first, said]
    assert alone[1] == [system, {"role": "user", "content": [SHOWN, {"type": "text", "text": "B?"}]}, said, said]


def test_turns_that_cannot_be_independent_are_refused(reader, asked):
    later = {"role": "user", "content": [{"type": "text", "text": "And this?"}, SHOWN]}
    first, said = {"role": "user", "content": "A?"}, {"role": "assistant", "content": "Yes."}
    with pytest.raises(DataError, match="an image or video comes after the first question"):
        split_turns([first, said, later, said])
    with pytest.raises(DataError, match="an image or video comes after the first question"):
        split_turns([later, said])
    with pytest.raises(DataError, match="an answer comes before the first question"):
        split_turns([said, first, said])
    with pytest.raises(DataError, match="independent_turns must be true or false, not 'yes'"):
        asked(0, independent_turns="yes")
