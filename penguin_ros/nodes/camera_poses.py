"""Where a camera was at a stamp: TF through tf2_ros, where that is installed."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.time import Time

from penguin_engine.scene.episode import Pose
from penguin_models.errors import SettingError

try:
    from tf2_ros import Buffer, TransformException, TransformListener
except ImportError:
    Buffer = None


class CameraPoses:
    """Poses of the frames of cameras in a fixed frame, from /tf and /tf_static. Used in the executor's thread.

    Attributes:
        reason: Why the newest pose that was asked for is not known.
    """

    def __init__(self, node: Node, fixed_frame: str):
        """Subscribes to TF.

        Raises:
            SettingError: tf2_ros is not installed.
        """
        if Buffer is None:
            raise SettingError("tf2_ros is not installed")
        self.reason = ""
        self._fixed_frame = fixed_frame
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, node)

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """Returns the pose of a frame at a stamp; None if TF does not have it, or not yet."""
        try:
            found = self._buffer.lookup_transform(self._fixed_frame, frame_id, Time(nanoseconds=stamp_ns)).transform
            place, turn = found.translation, found.rotation
            return Pose(self._fixed_frame, (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))
        except (TransformException, SettingError) as err:  # SettingError: it is not finite
            self.reason = " ".join(str(err).split())
            return None

    def close(self) -> None:
        """Unsubscribes."""
        self._listener.unregister()
