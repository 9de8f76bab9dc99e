"""The whole model puts visual tokens at their places in the prompt and nowhere else."""

import pytest
import torch

from penguin_models.errors import PromptError
from penguin_models.processor import Visual
from penguin_models.types import Size


@pytest.fixture(scope="module")
def prompt(processor):
    """Returns ids and images of a question about two images of different sizes."""
    import numpy as np

    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((70, 112), (140, 84))]
    visuals = [Visual(Size(*p.shape[:2])) for p in pixels]
    allocations = processor.allocate(visuals, 256)
    images = [
        image
        for p, v, a in zip(pixels, visuals, allocations, strict=True)
        for image in processor.patch([p], v.kinds, a)
    ]
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Why?"}]}
    ]
    return torch.from_numpy(processor.prompt_ids(conversation, [i.tokens for i in images]))[None], images


def test_each_image_keeps_its_own_size(prompt):
    _, images = prompt
    assert [tuple(image.grid) for image in images] == [(5, 8), (10, 6)]


def test_input_ids_are_not_modified(model, prompt):
    ids, images = prompt
    before = ids.clone()
    with torch.inference_mode():
        model(ids, images)
    assert torch.equal(ids, before)


def test_a_mismatch_is_reported_before_anything_runs(model, prompt, monkeypatch):
    ids, images = prompt
    monkeypatch.setattr(model.vision_encoder, "forward", lambda *a: pytest.fail("the encoder ran"))
    with pytest.raises(PromptError, match="100 <image> places but its images make 40 visual tokens"):
        model(ids, images[:1])
    with pytest.raises(PromptError, match="100 <image> places but its images make 0"):
        model.generate(ids, [])


def test_generate_returns_the_answer_without_the_prompt(model, prompt):
    ids, images = prompt
    with torch.inference_mode():
        first = int(model(ids, images, logits_to_keep=1).logits[0, -1].argmax())
    answer = model.generate(ids, images, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert answer.shape == (1, 5) and int(answer[0, 0]) == first


def test_loss_covers_labelled_positions_only(model, prompt):
    ids, images = prompt
    labels = torch.full_like(ids, -100)
    labels[0, -3:] = ids[0, -3:]
    with torch.inference_mode():
        output = model(ids, images, labels=labels)
        expected = torch.nn.functional.cross_entropy(output.logits[0, -4:-1].float(), ids[0, -3:])
    torch.testing.assert_close(output.loss, expected)
