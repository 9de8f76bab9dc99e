"""What every runtime must do; runs over each runtime that is available."""

import numpy as np
import pytest

from penguin_engine.runtime import interleave
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.errors import ContextLengthError
from penguin_models.images import patch_image
from penguin_models.types import Size

TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=["torch"])
def runtime(request, loaded):
    return {"torch": lambda: TorchRuntime(loaded[0])}[request.param]()


@pytest.fixture(scope="module")
def images(processor):
    random = np.random.default_rng(0)
    shapes = ((56, 84, 2), (70, 42, 1), (112, 112, 2))
    return [
        patch_image(random.integers(0, 256, (h, w, 3), dtype=np.uint8), Size(h, w), m, processor.images)
        for h, w, m in shapes
    ]


TEXTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14]]


@pytest.fixture
def cache(runtime):
    cache = runtime.open_cache(200)
    yield cache
    cache.close()


def test_info(runtime, model):
    info = runtime.info
    assert (info.context_length, info.vocab_size) == (40_960, 1536)
    assert (info.dtype, info.device) == ("float32", "cpu")


def test_encoding_together_or_alone(runtime, images, cache):
    together = runtime.encode(images)
    assert [tokens.length for tokens in together] == [image.tokens for image in images]
    expected = cache.append(interleave(TEXTS, together))
    cache.truncate(0)
    alone = [runtime.encode([image])[0] for image in images]
    np.testing.assert_allclose(cache.append(interleave(TEXTS, alone)), expected, atol=TOLERANCE)


def test_logits_do_not_depend_on_how_the_prompt_is_appended(runtime, images, cache):
    parts = interleave(TEXTS, runtime.encode(images))
    expected = cache.append(parts)
    length = cache.length
    assert expected.shape == (1536,) and expected.dtype == np.float32
    cache.truncate(0)
    for part in parts:
        logits = cache.append([part])
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
    assert cache.length == length == 10 + sum(image.tokens for image in images)


def test_prefix_is_reused_after_truncation(runtime, images, cache):
    parts = interleave(TEXTS, runtime.encode(images))
    cache.append(parts)
    prefix = cache.length
    answers = []
    for question in ([20, 21, 22], [30], [20, 21, 22]):
        answers.append(cache.append([question]))
        cache.truncate(prefix)
    np.testing.assert_array_equal(answers[0], answers[2])
    fresh = runtime.open_cache(200)
    np.testing.assert_allclose(fresh.append([*parts, [30]]), answers[1], atol=TOLERANCE)


def test_long_appends_are_cut_into_chunks(runtime):
    """More tokens at once than one chunk holds give the same logits, on an empty cache and behind a prefix."""
    ids = np.random.default_rng(0).integers(0, 1400, 1300).tolist()
    whole, halves = runtime.open_cache(1300), runtime.open_cache(1300)
    expected = whole.append([ids])
    halves.append([ids[:100]])
    np.testing.assert_allclose(halves.append([ids[100:]]), expected, atol=TOLERANCE)


def test_overflow_is_an_error_before_any_work(runtime, cache):
    cache.append([[1] * 150])
    before = cache.append([[2]])
    with pytest.raises(ContextLengthError, match="needs 211 tokens, 11 more than the 200"):
        cache.append([[3] * 60])
    assert cache.length == 151
    cache.truncate(150)
    np.testing.assert_array_equal(cache.append([[2]]), before)


def test_cache_beyond_the_context(runtime):
    with pytest.raises(ContextLengthError, match="needs 40961 tokens, 1 more than the 40960"):
        runtime.open_cache(40_961)


def test_two_caches_side_by_side(runtime):
    first, second = runtime.open_cache(50), runtime.open_cache(50)
    a, b = first.append([[1, 2, 3]]), second.append([[4, 5, 6]])
    first.append([[7]])
    first.truncate(2)
    second.truncate(2)
    np.testing.assert_allclose(second.append([[6]]), b, atol=TOLERANCE)
    np.testing.assert_allclose(first.append([[3]]), a, atol=TOLERANCE)


def test_closed_and_opened_again(runtime):
    cache = runtime.open_cache(10)
    expected = cache.append([[1, 2]])
    cache.close()
    np.testing.assert_array_equal(runtime.open_cache(10).append([[1, 2]]), expected)
