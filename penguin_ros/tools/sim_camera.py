"""A live depth camera over the simulated table-top: images, depth, and the ground truth of each image.

Objects appear, move, fall and leave now and then. Needs PyBullet: `pip install pybullet`.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import Point, Quaternion, TransformStamped, Vector3
from penguin_vl.msg import GroundedCaption
from rclpy.exceptions import ParameterException
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

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
from penguin_tabletop.render.depth import measured_depth, visible_centres
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.truth import View

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

_SETTINGS = (
    Setting("seed", 0, "The same seed gives the same images.", 0, 2**31 - 1, read_only=True),
    Setting("width", 320, "Width of the image in pixels.", 56, 1080, read_only=True),
    Setting("height", 240, "Height of the image in pixels.", 56, 1080, read_only=True),
    Setting("rate_hz", 10.0, "Images per second.", 0.1, 120.0, read_only=True),
    Setting("frame_id", "sim_camera_optical_frame", "frame_id of the header.", read_only=True),
)
_TABLE = "table"  # frame of the table: z up, the origin in its middle
_STOP_CHECK_S = 0.1  # longest time between checks whether the process has been asked to stop


class SimCamera(SettingsNode):
    """Publishes `~/image_raw`, `~/camera_info`, `~/depth/image_raw`, `~/truth`, and its pose on `/tf`.

    `~/truth` is a GroundedCaption with the header of its image: all visible objects, their boxes and true positions,
    and as text the event in progress ("" if there is none). Depth has the faults of a stereo camera, and is rendered
    while somebody subscribes to it. `/tf` needs tf2_msgs, which comes with ROS.
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
        self._infos = self.create_publisher(CameraInfo, "~/camera_info", 2)
        self._depths = self.create_publisher(Image, "~/depth/image_raw", 2)
        self._truth = self.create_publisher(GroundedCaption, "~/truth", 10)
        self._poses = None if TFMessage is None else self.create_publisher(TFMessage, "/tf", 10)
        self.create_timer(1 / rate_hz, self._publish)

    def _publish(self) -> None:
        view, event = self._table.step()
        height, width = view.picture.size
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        image = Image(header=header, height=height, width=width, encoding="rgb8", step=width * 3)
        image.data = array.array("B", view.picture.rgb.tobytes())
        if self._poses is not None:
            self._poses.publish(TFMessage(transforms=[_transform(header, view.scene.camera)]))
        self._infos.publish(camera_info(header, view.scene.camera, view.picture.size))
        if self._depths.get_subscription_count():
            self._depths.publish(depth_image(header, view))
        text = "" if event is None else f"{event.label} {event.kind} {event.where}".strip()
        objects = [item.grounded for item in view.truth.objects]
        truth = truth_message(header, self._images.topic_name, Size(height, width), text, objects)
        centres = visible_centres(view)
        for message, item in zip(truth.objects, view.truth.objects, strict=True):
            message.position_frame_id = self._frame_id
            message.position = Point(**dict(zip("xyz", centres[item.id].tolist(), strict=True)))
        self._truth.publish(truth)
        self._images.publish(image)


def camera_info(header: Header, camera: Camera, size: Size) -> CameraInfo:
    """Returns the calibration of a simulated camera, which has no distortion."""
    focal, x, y = camera.focal_px(size), size.width / 2 - 0.5, size.height / 2 - 0.5
    info = CameraInfo(header=header, height=size.height, width=size.width, distortion_model="plumb_bob")
    info.d = [0.0] * 5
    info.k = [focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0]
    info.r = np.eye(3).ravel()
    info.p = [focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def depth_image(header: Header, view: View) -> Image:
    """Returns the image of a depth camera in the same place, in millimetres."""
    millimetres = np.round(1000 * measured_depth(view)).astype("<u2")
    height, width = millimetres.shape
    image = Image(header=header, height=height, width=width, encoding="16UC1", step=2 * width)
    image.data = array.array("B", millimetres.tobytes())
    return image


def _transform(header: Header, camera: Camera) -> Any:
    """Returns where the camera is on the table."""
    turn = cv2.Rodrigues(camera.axes.T)[0].ravel()  # axis times angle
    angle = max(float(np.linalg.norm(turn)), 1e-12)
    x, y, z = (np.sin(angle / 2) / angle * turn).tolist()
    transform = TransformStamped(header=Header(stamp=header.stamp, frame_id=_TABLE), child_frame_id=header.frame_id)
    transform.transform.translation = Vector3(**dict(zip("xyz", camera.eye.tolist(), strict=True)))
    transform.transform.rotation = Quaternion(x=x, y=y, z=z, w=float(np.cos(angle / 2)))
    return transform


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
