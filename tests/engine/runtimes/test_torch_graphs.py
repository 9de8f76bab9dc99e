"""Decoding steps of fixed shapes: which steps are recorded, and on which tensors; test_runtimes.py tests the logits."""

import numpy as np
import pytest
import torch

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.runtimes.torch_graphs import FIRST_ROWS, CudaGraphRecorder


class Recorder:
    """Counts recordings and repeats, and runs the work itself."""

    def __init__(self):
        self.recorded = 0
        self.repeats = 0

    def __call__(self, work):
        self.recorded += 1

        def repeat():
            self.repeats += 1
            return work()

        return repeat


@pytest.fixture
def recorder():
    return Recorder()


def test_step_is_recorded_once_per_doubling(model, recorder):
    cache = TorchRuntime(model, recorder).open_cache(4 * FIRST_ROWS)
    cache.append([list(range(FIRST_ROWS - 2))])
    for token in range(6):  # the first step covers 511 and 512 tokens, the other four need the next
        cache.append([[token]])
    assert (recorder.recorded, recorder.repeats) == (2, 6)
    cache.truncate(10)
    cache.append([[1]])
    assert (recorder.recorded, recorder.repeats) == (2, 7)


def test_only_single_tokens_after_a_prefix_are_recorded(model, recorder):
    cache = TorchRuntime(model, recorder).open_cache(20)
    cache.append([[1]])
    cache.append([[2, 3]])
    cache.append([[4], [5]])
    assert recorder.recorded == 0
    cache.append([[6]])
    assert recorder.recorded == 1


def test_steps_work_on_the_same_memory(model, recorder):
    """CUDA graphs need this: every step reads and writes where the first did."""
    cache = TorchRuntime(model, recorder).open_cache(40)
    cache.append([[1, 2, 3]])
    layers = cache._tensors.layers
    places = [(layer._key_memory.data_ptr(), layer._value_memory.data_ptr()) for layer in layers]
    for token in range(5):
        cache.append([[token]])
        cache.truncate(cache.length - token % 2)
        cache.append([[7, 8]])
    assert [(layer._key_memory.data_ptr(), layer._value_memory.data_ptr()) for layer in layers] == places
    steps = cache._steps
    assert steps._token.tolist() == [[4]] and steps._position.shape == (1,)


def test_truncated_rows_do_not_affect_decoding(model, recorder):
    runtime = TorchRuntime(model, recorder)
    used, fresh = runtime.open_cache(60), runtime.open_cache(60)
    used.append([list(range(50))])
    used.truncate(10)
    fresh.append([list(range(10))])
    np.testing.assert_allclose(used.append([[3]]), fresh.append([[3]]), atol=1e-5)


def test_cache_is_usable_after_a_failed_step(model, monkeypatch):
    failing = True

    def record(work):
        if failing:
            raise RuntimeError("no memory")
        return work

    cache = TorchRuntime(model, record).open_cache(20)
    cache.append([[1, 2]])
    with pytest.raises(RuntimeError, match="no memory"):
        cache.append([[3]])
    assert cache.length == 2
    failing = False
    cache.append([[3]])
    assert cache.length == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_graphs_match_plain_steps(checkpoint, dtype):
    from penguin_models import load_pretrained

    model, _ = load_pretrained(checkpoint, dtype, "cuda")
    graphs, plain = TorchRuntime(model), TorchRuntime(model, lambda work: work)
    assert isinstance(graphs.open_cache(4)._steps._record, CudaGraphRecorder)
    caches = [runtime.open_cache(1200) for runtime in (graphs, plain)]
    ids = list(range(FIRST_ROWS - 3))
    first = [cache.append([ids]) for cache in caches]
    np.testing.assert_array_equal(*first)
    for token in range(8):
        ours, theirs = (cache.append([[token]]) for cache in caches)
        np.testing.assert_allclose(ours, theirs, atol=2e-4 if dtype == torch.float32 else 0.05)
