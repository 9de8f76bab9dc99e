"""Values shared by the whole package: frames, their kinds, and images cut into patches.

Axes: H, W pixels; N patches; P patch size; C = 3 colours. Imports no torch, so a robot can run without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class FrameKind(IntEnum):
    """Kind of a frame in token allocation; the values are those of the released labels."""

    KEY = 0
    INTERMEDIATE = 1


class Size(NamedTuple):
    """Height and width, in pixels unless stated otherwise."""

    height: int
    width: int

    @property
    def area(self) -> int:
        """Height times width."""
        return self.height * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image from one camera."""

    rgb: UInt8Array  # [H, W, 3], contiguous
    stamp_ns: int  # capture time
    camera: str = ""  # name of the camera; on a robot, its image topic
    header: Any = field(default=None, repr=False)  # anything the source attached (a ROS header); passed on unread

    def __post_init__(self) -> None:
        assert self.rgb.dtype == np.uint8 and self.rgb.ndim == 3 and self.rgb.shape[2] == 3, self.rgb.shape

    @property
    def size(self) -> Size:
        """Size in pixels."""
        return Size(self.rgb.shape[0], self.rgb.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class PatchedImage:
    """An image cut into normalised patches, the encoder's input.

    Each patch is flattened channel first. Patches are ordered by blocks of merge_size x merge_size, each of which
    becomes one visual token: blocks in raster order, patches in raster order inside a block.
    """

    patches: Float32Array  # [N, C*P*P]
    grid: Size  # rows and columns of patches
    merge_size: int

    def __post_init__(self) -> None:
        assert self.patches.shape[0] == self.grid.area, (self.patches.shape, self.grid)
        assert self.grid.height % self.merge_size == 0 and self.grid.width % self.merge_size == 0, self.grid

    @property
    def tokens(self) -> int:
        """Number of visual tokens of the image."""
        return self.grid.area // self.merge_size**2
