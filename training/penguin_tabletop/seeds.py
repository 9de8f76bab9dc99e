"""Which seeds belong to which split, and the random numbers of a seed.

Splits never share a seed: the lowest two bits of a seed name its split. Nothing here knows what a seed is used for.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from penguin_models.errors import TabletopError

_RUN_BITS = 40


class Split(IntEnum):
    """What a scene may be used for; the value is in the lowest two bits of its seed."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2

    def seed(self, n: int, base: int = 0) -> int:
        """The seed of scene `n`.

        Args:
            n: number of the scene, below 2**40.
            base: a family of scenes of its own; two bases of one split share no seed either.

        Raises:
            TabletopError: a number that is out of range.
        """
        if not 0 <= n < 1 << _RUN_BITS:
            raise TabletopError(f"scene number {n} must be at least 0 and below 2**{_RUN_BITS}")
        if base < 0:
            raise TabletopError(f"base {base} must not be negative")
        return ((base << _RUN_BITS) + n) << 2 | self.value

    @classmethod
    def of(cls, seed: int) -> Split:
        """The split that a seed belongs to.

        Raises:
            TabletopError: a seed that no split gives.
        """
        if seed < 0 or seed & 3 not in set(cls):
            raise TabletopError(f"seed {seed} belongs to no split; take one from Split.TEST.seed(n)")
        return cls(seed & 3)


def random_of(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for, and on nothing else."""
    return np.random.default_rng([*purpose.encode(), seed & 0xFFFFFFFF, seed >> 32])
