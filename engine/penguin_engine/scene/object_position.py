"""Where an object is in space, with how certain that is; and the same in another frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penguin_engine.scene.episode import Pose

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ObjectPosition:
    """The visible surface of an object."""

    frame_id: str  # frame of position and covariance
    position: FloatArray  # centre of the visible surface in metres, [3]
    covariance: FloatArray  # of the position in m^2, [3, 3]
    size: FloatArray  # extent in metres to the camera's right, downwards, and along its view as far as visible, [3]
    orientation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)  # of the camera's axes, quaternion x, y, z, w

    def seen_from(self, camera: Pose) -> ObjectPosition:
        """Returns this position, which is in a camera's frame, in the frame of that camera's pose."""
        rotation = _rotation_matrix(camera.orientation)
        return replace(
            self,
            frame_id=camera.frame_id,
            position=rotation @ self.position + camera.position,
            covariance=rotation @ self.covariance @ rotation.T,
            orientation=camera.orientation,
        )


def _rotation_matrix(quaternion: tuple[float, float, float, float]) -> FloatArray:
    x, y, z, w = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
