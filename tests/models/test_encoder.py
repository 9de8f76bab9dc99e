"""A frame's features depend only on its own pixels and size."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penguin_models import encoder as encoder_module
from penguin_models.config import EncoderConfig
from penguin_models.encoder import FrameShape, PenguinEncoder, rotary_table, rotate
from penguin_models.errors import CheckpointError
from penguin_models.types import Size

CONFIG = EncoderConfig(32, 64, 2, 4, 2, 16, patch_size=2)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return PenguinEncoder(CONFIG).eval()


def encode(encoder, frames, seed=0):
    """Returns random pixels of each frame, and their features when encoded together."""
    generator = torch.Generator().manual_seed(seed)
    pixels = [torch.randn(frame.patches, CONFIG.patch_dim, generator=generator) for frame in frames]
    with torch.inference_mode():
        return pixels, encoder(torch.cat(pixels), frames)


shapes = st.builds(
    lambda h, w, m: FrameShape(Size(h * m, w * m), m), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2])
)


@given(st.lists(shapes, min_size=1, max_size=6), st.randoms())
def test_features_do_not_depend_on_grouping_and_order(encoder, frames, random):
    pixels, together = encode(encoder, frames)
    tokens = [frame.patches // frame.merge_size**2 for frame in frames]
    order = list(range(len(frames)))
    random.shuffle(order)
    for i, feature in zip(range(len(frames)), together.split(tokens), strict=True):
        with torch.inference_mode():
            alone = encoder(pixels[i], [frames[i]])
        torch.testing.assert_close(feature, alone, atol=2e-5, rtol=0)
    with torch.inference_mode():
        shuffled = encoder(torch.cat([pixels[i] for i in order]), [frames[i] for i in order])
    expected = torch.cat([together.split(tokens)[i] for i in order])
    torch.testing.assert_close(shuffled, expected, atol=2e-5, rtol=0)


def test_passes_do_not_change_features(encoder, monkeypatch):
    frames = [
        FrameShape(Size(4, 6), 2),
        FrameShape(Size(3, 3), 1),
        FrameShape(Size(8, 8), 2),
        FrameShape(Size(4, 6), 2),
    ]
    _, whole = encode(encoder, frames)
    monkeypatch.setattr(encoder_module, "MAX_PATCHES_PER_PASS", 30)
    _, in_passes = encode(encoder, frames)
    torch.testing.assert_close(in_passes, whole, atol=2e-5, rtol=0)


def test_patches_of_a_frame_see_each_other(encoder):
    """Attention is bidirectional: the last patch changes the first one's features, in its own frame only."""
    frames = [FrameShape(Size(3, 3), 1), FrameShape(Size(3, 3), 1)]
    pixels, before = encode(encoder, frames)
    pixels[0][-1] += 1
    with torch.inference_mode():
        after = encoder(torch.cat(pixels), frames)
    assert (after[0] - before[0]).abs().max() > 1e-4
    assert torch.equal(after[9:], before[9:])


def test_rotary_embedding_equals_the_released_formula():
    """out[i] = x[i] cos(h f) - x[i+d/2] sin(h f); out[i+d/2] = x[i+d/2] cos(w f) + x[i] sin(w f)."""
    head_dim, theta, (row, column) = 8, 100.0, (3, 5)
    x = torch.randn(1, 1, head_dim)
    out = rotate(x, *rotary_table(torch.tensor([[row, column]]), head_dim, theta))
    for i in range(head_dim // 2):
        f = torch.tensor(theta ** (-2 * i / head_dim))
        a, b = x[0, 0, i], x[0, 0, i + head_dim // 2]
        torch.testing.assert_close(out[0, 0, i], a * torch.cos(row * f) - b * torch.sin(row * f))
        torch.testing.assert_close(out[0, 0, i + 4], b * torch.cos(column * f) + a * torch.sin(column * f))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_full(encoder, dtype):
    frames = [FrameShape(Size(4, 6), 2), FrameShape(Size(5, 3), 1)]
    pixels, expected = encode(encoder, frames)
    half = PenguinEncoder(CONFIG).eval()
    half.load_state_dict(encoder.state_dict())
    half.to(dtype)
    with torch.inference_mode():
        ours = half(torch.cat(pixels), frames)
    assert ours.dtype == dtype
    assert torch.nn.functional.cosine_similarity(ours.float(), expected).min() > 0.999


def test_gradients_reach_every_parameter(encoder):
    frames = [FrameShape(Size(4, 4), 2), FrameShape(Size(2, 3), 1)]
    trained = PenguinEncoder(CONFIG)
    trained.encoder.gradient_checkpointing = True
    trained(torch.randn(22, CONFIG.patch_dim), frames).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())


def test_impossible_shapes_are_refused():
    with pytest.raises(CheckpointError, match="5 attention heads cannot share 2"):
        replace(CONFIG, num_attention_heads=5)
    with pytest.raises(CheckpointError, match="head_dim 15 is odd"):
        replace(CONFIG, head_dim=15)
