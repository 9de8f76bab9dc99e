"""The model of a stage: packing changes no loss, fillers give no gradient, frozen parts stay frozen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from penguin_models.checkpoint import load_pretrained
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.batch import collate
from penguin_training.data.sample_reader import SampleReader
from penguin_training.model.stage_model import StageModel, part_of
from penguin_training.model.tiny_teacher import TinyTeacher
from penguin_training.settings.data import DataFile, DataSettings


@pytest.fixture(scope="module")
def reader(checkpoint):
    _, processor = load_pretrained(checkpoint)
    return SampleReader(processor, DataSettings(files=[DataFile("x")], fps=2.0), 512, 128)


@pytest.fixture(scope="module")
def examples(reader, drawn):
    """A caption, a text, a clip, a chart without conversation, and another caption."""
    file = AnnotationFile(drawn / "everything.jsonl")
    return [reader.encode(file[row], reader.measure(file[row])) for row in (0, 60, 51, 42, 5)]


@pytest.fixture(scope="module")
def teacher(teacher_folder):
    return TinyTeacher.from_pretrained(teacher_folder)


@pytest.fixture
def stage(checkpoint, teacher):
    model, _ = load_pretrained(checkpoint, dtype="float32")
    torch.manual_seed(0)
    parts = (model.language_model, model.vision_encoder, model.vision_projector)
    return StageModel(*parts, teacher_width=teacher.width).train()


def batch_of(reader, examples):
    return collate(examples, reader.processor)


def run(stage, teacher, batch):
    features = teacher.features(batch.patches, batch.frames) if batch.real_frames else None
    return stage(batch, features)


def gradients(stage):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in stage.named_parameters()}


def test_packing_does_not_change_losses_and_gradients(reader, stage, teacher, examples):
    packed = run(stage, teacher, batch_of(reader, examples))
    packed["cross_entropy"].backward()
    expected = gradients(stage)
    stage.zero_grad()
    alone = [run(stage, teacher, batch_of(reader, [example])) for example in examples]
    total = sum(losses["cross_entropy"] for losses in alone)
    total.backward()
    torch.testing.assert_close(packed["cross_entropy"], total, rtol=1e-5, atol=1e-4)
    for name, gradient in gradients(stage).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    # The relation of each image is averaged over images, so it does not depend on what else is there either.
    frames = [len(batch_of(reader, [e]).frames) if e.images else 0 for e in examples]
    mean = sum(n * losses["relation"] for n, losses in zip(frames, alone, strict=True)) / sum(frames)
    torch.testing.assert_close(packed["relation"], mean, rtol=1e-5, atol=1e-6)


def test_the_loss_equals_that_of_the_released_model(reader, stage, teacher, examples, checkpoint):
    model, _ = load_pretrained(checkpoint, dtype="float32")
    example = examples[2]
    labels = torch.from_numpy(np.array(example.labels))[None]
    with torch.no_grad():
        output = model(torch.from_numpy(example.ids)[None], example.images, labels=labels)
        ours = run(stage, teacher, batch_of(reader, [example]))["cross_entropy"]
    torch.testing.assert_close(ours / (labels >= 0).sum(), output.loss, rtol=1e-5, atol=1e-6)


def test_reconstruction_trains_the_encoder_but_not_the_decoder(reader, stage, teacher, examples):
    losses = run(stage, teacher, batch_of(reader, [examples[3]]))
    assert losses["cross_entropy"] == 0 and losses["direction"] > 0
    sum(losses.values()).backward()
    moved = {part_of(name) for name, gradient in gradients(stage).items() if gradient.abs().sum() > 0}
    assert moved == {"encoder", "patch_embedding", "adapter"}


def test_a_teacher_with_classifiers_adds_its_loss(reader, stage, teacher, examples):
    batch = batch_of(reader, examples)
    plain = run(stage, teacher, batch)
    stage.reading = teacher.reading
    read = run(stage, teacher, batch)
    assert set(read) - set(plain) == {"reading"} and all(torch.equal(read[name], plain[name]) for name in plain)
    read["reading"].backward()
    moved = {part_of(name) for name, gradient in gradients(stage).items() if gradient.abs().sum() > 0}
    assert moved == {"encoder", "patch_embedding", "adapter"}
    assert run(stage, teacher, batch_of(reader, []))["reading"] == 0


def test_every_parameter_has_a_gradient_in_every_batch(reader, stage, teacher, examples):
    for chosen in ([], [examples[1]], [examples[3]], [examples[0]]):
        stage.zero_grad()
        losses = run(stage, teacher, batch_of(reader, chosen))
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in stage.parameters()), chosen
    stage.zero_grad()
    sum(run(stage, teacher, batch_of(reader, [])).values()).backward()
    assert all(p.grad.abs().sum() == 0 for p in stage.parameters())  # fillers teach nothing


def test_a_frozen_part_gets_no_gradient(reader, stage, teacher, examples):
    for name, parameter in stage.named_parameters():
        parameter.requires_grad_(part_of(name) in {"projector", "adapter"})
    sum(run(stage, teacher, batch_of(reader, examples)).values()).backward()
    assert {part_of(n) for n, p in stage.named_parameters() if p.grad is not None} == {"projector", "adapter"}


def test_gradient_checkpointing_changes_nothing(reader, stage, teacher, examples):
    batch = batch_of(reader, examples)
    results = []
    for _ in range(2):
        stage.zero_grad()
        losses = run(stage, teacher, batch)
        sum(losses.values()).backward()
        results.append((losses["cross_entropy"].detach(), gradients(stage)))
        stage.checkpoint_activations()
    torch.testing.assert_close(results[1][0], results[0][0])
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(gradient, results[0][1][name], msg=name)


def test_collate_records_where_everything_is(reader, examples):
    batch = batch_of(reader, examples)
    image = reader.processor.image_token_id
    assert batch.lengths == tuple(len(e.ids) for e in examples if len(e.ids)) and batch.samples == 5
    assert batch.positions.tolist() == [i for length in batch.lengths for i in range(length)]
    assert (batch.ids[batch.visual_positions] == image).all()
    assert (batch.ids == image).sum() == len(batch.visual_positions)
    chart_tokens = sum(i.tokens for i in examples[3].images)
    assert batch.size == sum(batch.lengths) + chart_tokens and batch_of(reader, []).size == 0
    assert len(batch.visual_rows) == len(batch.visual_positions) == sum(batch.frame_tokens) - chart_tokens
    labels = np.concatenate([e.labels for e in examples])
    first = np.concatenate(([0], np.cumsum(batch.lengths)[:-1]))
    labels[first] = -100
    assert batch.targets.tolist() == labels[labels >= 0].tolist()
    assert batch.ids[batch.predict_from + 1].tolist() == batch.targets.tolist()
    assert not set((batch.predict_from + 1).tolist()) & set(first.tolist())


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_answers_are_weighted_by_their_length(reader, stage, teacher, examples, balance):
    """An answer of n tokens contributes n ** -balance times its own loss."""
    total = 0.0
    for example in examples:
        answers = np.split(np.arange(len(example.ids)), np.flatnonzero(np.diff(example.labels >= 0)) + 1)
        for places in answers:
            if len(places) and example.labels[places[0]] >= 0:
                only = np.full_like(example.labels, -100)
                only[places] = example.labels[places]
                only[0] = -100  # nothing stands before a text's first token
                loss = run(stage, teacher, batch_of(reader, [replace(example, labels=only)]))["cross_entropy"]
                total += float(loss.detach()) * int((only >= 0).sum()) ** -balance
    packed = collate(examples, reader.processor, answer_balance=balance)
    assert float(run(stage, teacher, packed)["cross_entropy"].detach()) == pytest.approx(total, rel=1e-5)
    assert packed.weights.min() < packed.weights.max() <= 1
