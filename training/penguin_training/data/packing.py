"""Which samples share a micro-batch: best-fit-decreasing packing into a token budget, by a seed.

Samples are shuffled first and packed in windows, so that every micro-batch mixes long and short ones from all over the
data; the micro-batches are shuffled again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from penguin_models.types import Int64Array

WINDOW = 8192  # Samples that are packed together. A larger window packs no better, and sorts the data more by length


def pack(sizes: Int64Array, budget: int) -> list[list[int]]:
    """Puts items, of sizes between 1 and `budget`, into bins; returns the indices of the items of each bin."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for item in np.argsort(-sizes, kind="stable"):
        size = int(sizes[item])
        place = bisect_left(room, (size, -1))
        if place == len(room):
            bins.append([int(item)])
            left, number = budget - size, len(bins) - 1
        else:
            left, number = room.pop(place)
            bins[number].append(int(item))
            left -= size
        if left:
            insort(room, (left, number))
    return bins


class PackingPlan:
    """The micro-batches of every epoch, as a function of the seed alone."""

    def __init__(self, sizes: Int64Array, repeats: Sequence[tuple[int, float]], budget: int, seed: int):
        """Plans with the tokens of each sample (0 if it cannot be used) and a budget of tokens for a micro-batch.

        `repeats` holds (samples, how often an epoch shows each) for each file, in the order of `sizes`.
        """
        self._sizes, self._repeats, self._budget, self._seed = sizes, repeats, budget, seed
        self._cached: tuple[int, list[Int64Array]] | None = None

    def micro_batches(self, epoch: int) -> list[Int64Array]:
        """Returns the sample numbers of each micro-batch of an epoch."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = epoch, self._pack_epoch(epoch)
        return self._cached[1]

    def size(self, numbers: Int64Array) -> int:
        """Returns the tokens of a micro-batch."""
        return int(self._sizes[numbers].sum())

    def fill(self, epoch: int = 0) -> float:
        """Returns the fraction of the budget that an epoch's micro-batches fill."""
        batches = self.micro_batches(epoch)
        return sum(self.size(batch) for batch in batches) / (self._budget * len(batches))

    def _pack_epoch(self, epoch: int) -> list[Int64Array]:
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(self._shown(random))
        packed: list[Int64Array] = []
        carried = np.empty(0, np.int64)
        for start in range(0, len(order), WINDOW):
            window = np.concatenate((carried, order[start : start + WINDOW]))
            bins = [window[items] for items in pack(self._sizes[window], self._budget)]
            carried = np.empty(0, np.int64)
            if start + WINDOW < len(order) and len(bins) > 1:
                carried = bins.pop()  # the last one is the emptiest: its samples move to the next window
            packed += bins
        return [packed[i] for i in random.permutation(len(packed))]

    def _shown(self, random: np.random.Generator) -> Int64Array:
        """Returns the numbers of the samples that an epoch shows, repeated ones several times."""
        shown, first = [], 0
        for count, repeat in self._repeats:
            numbers = np.arange(first, first + count)
            numbers = numbers[self._sizes[numbers] > 0]
            whole, part = divmod(repeat, 1)
            shown += [numbers] * int(whole)
            if extra := round(part * len(numbers)):
                shown.append(random.choice(numbers, extra, replace=False))
            first += count
        return np.concatenate(shown) if shown else np.empty(0, np.int64)
