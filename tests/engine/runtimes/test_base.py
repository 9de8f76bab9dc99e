"""What all KV caches share: which logits are refused."""

import numpy as np
import pytest

from penguin_engine.runtimes.base import KVCache
from penguin_models.errors import NonFiniteError

INFINITY = float("inf")


class FixedLogits(KVCache):
    """A cache that returns logits that no model gives on demand."""

    def __init__(self, logits):
        super().__init__(10, "float16")
        self._logits = logits

    def _extend(self, segments, new):
        self.length += new
        return np.array(self._logits, np.float32)

    def _free(self): ...


@pytest.mark.parametrize(
    "logits", [[np.nan] * 3, [1, np.nan, 2], [1, INFINITY, 2], [-INFINITY] * 3, [-INFINITY, np.nan, 0]]
)
def test_no_token_is_chosen_from_logits_that_are_not_finite(logits):
    cache = FixedLogits(logits)
    with pytest.raises(NonFiniteError, match=r"not finite in float16: .* weights .* bfloat16 or float32"):
        cache.append([[1, 2]])
    assert cache.length == 0


def test_a_token_that_is_never_chosen_is_allowed():
    assert FixedLogits([1, -INFINITY, 2]).append([[1]]).argmax() == 2
