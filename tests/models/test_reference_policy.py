"""The released keyframe labels, one frame at a time."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from penguin_models import reference_policy
from penguin_models.reference_policy import ReferencePolicy, comparison_size
from penguin_models.types import Frame, FrameKind, Size

KEY, INTERMEDIATE = FrameKind
# (0, 255, 20) and (0, 0, 255) in HSV, nearly orthogonal. Red and blue would not be, because both are bright.
DARK_RED, WHITE = (20, 0, 0), (255, 255, 255)


def frame(rgb):
    return Frame(np.ascontiguousarray(rgb, dtype=np.uint8), 0)


def uniform(value, size=(56, 70)):
    return frame(np.broadcast_to(np.array(value, np.uint8), (*size, 3)))


@pytest.mark.parametrize("run", [0, 1])
def test_labels_and_similarities_equal_the_released_ones(reference, run):
    expected = json.loads((reference / "tra_labels.json").read_text())["runs"][run]
    policy = ReferencePolicy()
    for name, label, similarity in zip(
        expected["files"], expected["frame_types"], expected["similarity_to_last_keyframe"], strict=True
    ):
        rgb = np.array(Image.open(reference / "media" / expected["source"] / name).convert("RGB"))
        assert policy.observe(frame(rgb)) == label
        assert policy.similarity == pytest.approx(similarity, abs=1e-6)


def test_frames_are_compared_with_the_last_keyframe():
    """A change from dark red to white is a cut, white to white is not, and back to dark red is one again."""
    policy = ReferencePolicy()
    red, white = uniform(DARK_RED), uniform(WHITE)
    assert [policy.observe(f) for f in (red, red, white, white, red)] == [KEY, INTERMEDIATE, KEY, INTERMEDIATE, KEY]


def test_similarity_is_the_share_of_similar_patches():
    policy = ReferencePolicy()
    policy.observe(uniform(DARK_RED, (140, 140)))
    partly = np.array(uniform(DARK_RED, (140, 140)).rgb)
    partly[:28] = WHITE
    assert policy.observe(frame(partly)) == KEY
    assert policy.similarity == pytest.approx(0.8)


def test_black_patches_do_not_count():
    policy = ReferencePolicy()
    black = np.zeros((140, 140, 3), np.uint8)
    spot = black.copy()
    spot[:14, :14] = 255
    assert policy.observe(frame(spot)) == KEY
    assert policy.observe(frame(black)) == KEY  # the only patch that counts went dark
    assert policy.observe(frame(black)) == INTERMEDIATE
    assert policy.similarity == 1.0


def test_reset_and_a_change_of_size_start_over():
    policy, grey = ReferencePolicy(), uniform((9, 9, 9))
    assert [policy.observe(grey), policy.observe(grey)] == [KEY, INTERMEDIATE]
    policy.reset()
    assert policy.observe(grey) == KEY
    assert policy.observe(uniform((9, 9, 9), (70, 70))) == KEY
    assert policy.observe(uniform((9, 9, 9), (70, 70))) == INTERMEDIATE


@pytest.mark.parametrize(
    ("source_size", "expected"),
    [
        (Size(240, 320), Size(238, 322)),  # as in the released labels
        (Size(1080, 1920), Size(1050, 1876)),  # more than 10240 patches
        (Size(5, 9), Size(42, 70)),  # fewer than 10
        (Size(1, 2000), Size(14, 2002)),
    ],
)
def test_comparison_size(source_size, expected):
    assert comparison_size(source_size) == expected


def test_the_banded_resize_changes_no_similarity(monkeypatch, picture):
    """Similarities are equal to the last bit, at a size that shrinks and at one that grows."""
    from penguin_models.banded_resize import BandedResize

    for size in ((1200, 1920), (121, 165)):
        noise = np.random.default_rng(0)
        views = [picture(*size, seed) for seed in (0, 0, 1)]
        frames = [frame(np.clip(view + noise.integers(-9, 10, view.shape), 0, 255)) for view in views]
        seen = []
        for suits in (True, False):
            monkeypatch.setattr(BandedResize, "suits", lambda source_size, size, suits=suits: suits)
            policy = ReferencePolicy()
            seen.append([(policy.observe(shown), policy.similarity) for shown in frames])
        assert seen[0] == seen[1]
        assert 0 < seen[0][-1][1] < seen[0][1][1], "another image is less similar than noise"


def test_memory_does_not_grow_with_the_stream():
    """The policy holds as many numbers after a hundred frames as after one."""
    import gc

    import torch

    def tensors():
        gc.collect()
        return sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor)

    policy, random = ReferencePolicy(), np.random.default_rng(0)
    policy.observe(frame(random.integers(0, 256, (140, 140, 3))))
    before = tensors()
    for _ in range(100):
        policy.observe(frame(random.integers(0, 256, (140, 140, 3))))
    assert tensors() == before


def test_the_policy_works_inside_and_outside_inference_mode():
    frames = [Frame(np.full((280, 350, 3), value, np.uint8), number) for number, value in enumerate((90, 90, 200))]
    with torch.inference_mode():
        policy = ReferencePolicy()
        inside = policy.observe(frames[0])
    assert [inside, policy.observe(frames[1])] == [FrameKind.KEY, FrameKind.INTERMEDIATE]


def test_a_frame_that_fails_does_not_become_the_keyframe(monkeypatch):
    policy, good = ReferencePolicy(), uniform(WHITE)
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr(reference_policy.cv2, "cvtColor", lambda *_: (_ for _ in ()).throw(MemoryError()))
        policy.observe(good)
    assert [policy.observe(good), policy.observe(good)] == [KEY, INTERMEDIATE]
