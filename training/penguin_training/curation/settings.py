"""Settings of a curation run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from penguin_models.errors import SettingError


@dataclass(frozen=True)
class Filters:
    """What a picture or clip must have; its limits are inclusive."""

    min_side: int = 64  # Length of the shorter side in pixels
    max_aspect: float = 4.0  # Longer side divided by the shorter one
    min_sharpness: float = 8.0  # Variance of the Laplacian of grey levels, with the longer side at most 512 pixels
    min_motion: float = 3.0  # Largest change of an 8 x 8 grid of mean colours between frames of a clip, in 0..255

    def __post_init__(self) -> None:
        for name, value, least in (
            ("min_side", self.min_side, 1),
            ("max_aspect", self.max_aspect, 1),
            ("min_sharpness", self.min_sharpness, 0),
            ("min_motion", self.min_motion, 0),
        ):
            if not value >= least:
                raise SettingError(f"{name} is {value}, it must be at least {least}")


@dataclass(frozen=True)
class CurationSettings:
    """Everything that changes which samples are kept."""

    keep: int  # Number of samples to select
    encoder: str  # Path or name of the encoder
    filters: Filters
    max_distance: int = 48  # Largest Hamming distance between the 256-bit hashes of duplicates
    clusters: tuple[int, ...] = ()  # Number of clusters of each level, from the finest; chosen by the samples if empty
    seed: int = 0  # Of the k-means

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise SettingError(f"keep is {self.keep}, it must be at least 1")
        if not 0 <= self.max_distance <= 100:
            raise SettingError(
                f"max_distance is {self.max_distance}, it must be from 0 to 100: hashes of unrelated pictures "
                "differ in about 128 of 256 bits"
            )
        if min(self.clusters, default=1) < 1 or list(self.clusters) != sorted(set(self.clusters), reverse=True):
            numbers = ",".join(map(str, self.clusters))
            raise SettingError(f"clusters is {numbers}, it must be decreasing numbers above 0, such as 1000,100,10")

    def levels(self, samples: int) -> list[int]:
        """Returns the number of clusters of each level for this number of samples, the finest first.

        If none are set, three levels: a cluster for 50 samples (at most 50,000), and a tenth at each further level.
        """
        finest = min(samples // 50, 50_000)
        wanted = self.clusters or tuple(finest // 10**level for level in range(3))
        return [min(number, samples) for number in wanted if number > 0] or [1]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {**asdict(self), "clusters": list(self.clusters)}
