"""Seeds of the splits, and random generators that depend on a seed."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from penguin_models.errors import TabletopError

_NUMBER_BITS = 40


class Split(IntEnum):
    """The purpose of a scene. Splits never share a seed: the value is stored in the lowest two bits of the seed."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2

    def seed(self, number: int, base: int = 0) -> int:
        """Returns the seed of a scene.

        Args:
            number: Number of the scene, below 2**40.
            base: Number of a separate family of scenes; families of one split share no seed either.

        Raises:
            TabletopError: The number or the base is out of range.
        """
        if not 0 <= number < 1 << _NUMBER_BITS:
            raise TabletopError(f"scene number {number} must be at least 0 and below 2**{_NUMBER_BITS}")
        if base < 0:
            raise TabletopError(f"base {base} must not be negative")
        return ((base << _NUMBER_BITS) + number) << 2 | self.value


def seeded_random(seed: int, purpose: str) -> np.random.Generator:
    """Returns a random generator that depends only on the seed and on what the numbers are used for."""
    return np.random.default_rng([*purpose.encode(), seed & 0xFFFFFFFF, seed >> 32])
