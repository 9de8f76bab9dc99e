"""The values that travel through the package: frames, their kinds, and images cut into patches.

Axes: H, W pixels; N patches; C = 3 colours. No torch here, so that a robot can run without it.
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
    """How a frame counts in the allocation of tokens; the values are those of the released labels."""

    KEY = 0
    INTERMEDIATE = 1


class Size(NamedTuple):
    """Height and width, in pixels unless said otherwise."""

    height: int
    width: int

    @property
    def area(self) -> int:
        """Height times width."""
        return self.height * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of one camera.

    Attributes:
        rgb: uint8 [H, W, 3], contiguous.
        stamp_ns: time of capture in nanoseconds.
        camera: name of the camera; image topics serve as names on a robot.
        header: whatever the source attached (a ROS header); carried along, never read.
    """

    rgb: UInt8Array
    stamp_ns: int
    camera: str = ""
    header: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert self.rgb.dtype == np.uint8 and self.rgb.ndim == 3 and self.rgb.shape[2] == 3, self.rgb.shape

    @property
    def size(self) -> Size:
        """Size in pixels."""
        return Size(self.rgb.shape[0], self.rgb.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class PatchedImage:
    """An image as the encoder reads it.

    Attributes:
        patches: float32 [N, C*P*P], normalised; each patch flattened channel first; patches ordered block by block
            (merge_size x merge_size blocks in raster order, raster inside a block).
        grid: rows and columns of patches; N = grid.height * grid.width.
        merge_size: each block of merge_size x merge_size patches becomes one visual token.
    """

    patches: Float32Array
    grid: Size
    merge_size: int

    def __post_init__(self) -> None:
        assert self.patches.shape[0] == self.grid.area, (self.patches.shape, self.grid)
        assert self.grid.height % self.merge_size == 0 and self.grid.width % self.merge_size == 0, self.grid

    @property
    def tokens(self) -> int:
        """Visual tokens that the image becomes."""
        return self.grid.area // self.merge_size**2
