"""A small model that records what it computes, and frames for the memory of a session."""

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.types import Frame, FrameKind

KEY, INTERMEDIATE = FrameKind
SECOND = 10**9


class Alternating:
    """Labels every third frame as a keyframe."""

    def __init__(self):
        self.count = 0

    def observe(self, frame):
        self.count += 1
        return KEY if self.count % 3 == 1 else INTERMEDIATE

    def reset(self):
        self.count = 0


class Recording(TorchRuntime):
    """Records the logits of every append and counts the tokens and images processed."""

    def __init__(self, model):
        super().__init__(model)
        self.logits, self.tokens, self.images = [], 0, 0

    def encode(self, images):
        self.images += len(images)
        return super().encode(images)

    def open_cache(self, max_length):
        cache = super().open_cache(max_length)
        append = cache.append

        def recording_append(parts):
            before = cache.length
            self.logits.append(append(parts))
            self.tokens += cache.length - before
            return self.logits[-1]

        cache.append = recording_append
        return cache


def frame(picture, second, size=(120, 160)):
    return Frame(picture(*size, seed=round(second * 10) % 7), round(second * SECOND) + 5 * SECOND, header=second)
