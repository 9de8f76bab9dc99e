"""A live camera over the simulated table-top: images, and the ground truth of each on a topic of its own.

Objects appear, move, fall and leave now and then. Needs PyBullet: `pip install pybullet`.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence

import rclpy
from penguin_vl.msg import GroundedCaption
from rclpy.exceptions import ParameterException
from sensor_msgs.msg import Image

from penguin_models.errors import PenguinError
from penguin_models.types import Size
from penguin_ros.convert import truth_message
from penguin_ros.nodes.context import start_ros
from penguin_ros.nodes.lasting_executor import LastingExecutor
from penguin_ros.nodes.parameters import SettingsNode
from penguin_ros.nodes.rcl_errors import middleware_errors
from penguin_ros.settings import Setting
from penguin_ros.stopping import stop_on_signals
from penguin_tabletop.clips.timeline import LiveTabletop

_SETTINGS = (
    Setting("seed", 0, "The same seed gives the same images.", 0, 2**31 - 1, read_only=True),
    Setting("width", 320, "Width of the image in pixels.", 56, 1080, read_only=True),
    Setting("height", 240, "Height of the image in pixels.", 56, 1080, read_only=True),
    Setting("rate_hz", 10.0, "Images per second.", 0.1, 120.0, read_only=True),
    Setting("frame_id", "sim_camera_optical_frame", "frame_id of the header.", read_only=True),
)
_STOP_CHECK_S = 0.1  # longest time between checks whether the process has been asked to stop


class SimCamera(SettingsNode):
    """Publishes `~/image_raw` and `~/truth`.

    `~/truth` is a GroundedCaption with the header of its image: all visible objects with their boxes, and as text the
    event in progress ("" if there is none).
    """

    @middleware_errors()
    def __init__(self) -> None:
        """Declares the parameters and plans the first scene; raises TabletopError if PyBullet is not installed."""
        super().__init__("sim_camera")
        self.declare_settings(_SETTINGS)
        values = (self.get_parameter(setting.name).value for setting in _SETTINGS)
        seed, width, height, rate_hz, self._frame_id = values
        self._table = LiveTabletop(seed, Size(height, width), rate_hz)
        self._images = self.create_publisher(Image, "~/image_raw", 2)
        self._truth = self.create_publisher(GroundedCaption, "~/truth", 10)
        self.create_timer(1 / rate_hz, self._publish)

    def _publish(self) -> None:
        view, event = self._table.step()
        height, width = view.picture.size
        image = Image(height=height, width=width, encoding="rgb8", step=width * 3)
        image.header.stamp = self.get_clock().now().to_msg()
        image.header.frame_id = self._frame_id
        image.data = array.array("B", view.picture.rgb.tobytes())
        text = "" if event is None else f"{event.label} {event.kind} {event.where}".strip()
        objects = [item.grounded for item in view.truth.objects]
        self._truth.publish(truth_message(image.header, self._images.topic_name, Size(height, width), text, objects))
        self._images.publish(image)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT, SIGTERM or SIGHUP; returns the exit code."""
    try:
        start_ros(sys.argv if args is None else args)
        node = SimCamera()
    except (PenguinError, ParameterException) as err:
        sys.stderr.write(f"error: {err}\n")
        rclpy.try_shutdown()
        return 1
    stop, executor = stop_on_signals(), LastingExecutor(node)
    while not stop.is_set():
        executor.spin_once(_STOP_CHECK_S)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return 0
