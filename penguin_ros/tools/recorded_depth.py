"""The depth camera of the demo: publishes the depth images of a bag when /clock reaches their stamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from penguin_vl.msg import GroundedObject as GroundedObjectMessage
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_ros.bag_storage.bag import open_bag
from penguin_ros.convert import stamp_to_ns
from penguin_ros.evaluation.tabletop.depth_bag import DEPTH, INFO, POSITIONS
from penguin_ros.evaluation.tabletop.positions import pair
from penguin_ros.localisation import FloatArray

_LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class RecordedDepth:
    """Depth images, CameraInfo, and the error of positions that a node found with them.

    Attributes:
        errors_cm: Distance of each position from the truth; infinite where it is not known.
    """

    def __init__(self, node: Node, bag: Path, size: Size):
        """Reads a bag that `write_depth_bag` wrote, for pictures of some size; raises MediaError."""
        self.errors_cm: list[float] = []
        self._size = size
        self._depth: dict[int, bytes] = {}
        self._truths: dict[int, list[tuple[GroundedObject, FloatArray]]] = {}
        info = b""
        with open_bag(bag) as opened:
            for message in opened.messages(opened.connections):
                topic, stamp_ns = message.connection.topic, message.log_ns
                if topic == DEPTH:
                    self._depth[stamp_ns] = message.data
                elif topic == POSITIONS:
                    self._truths[stamp_ns] = [
                        (self._grounded(item), np.array([item.position.x, item.position.y, item.position.z]))
                        for item in message.deserialize().objects
                    ]
                elif topic == INFO:
                    info = message.data
        self._depths = node.create_publisher(CompressedImage, DEPTH, 10)
        node.create_publisher(CameraInfo, INFO, _LATCHED).publish(info)
        node.create_subscription(Clock, "/clock", self._on_clock, 10)

    def compare(self, stamp_ns: int, objects: Sequence[GroundedObjectMessage]) -> None:
        """Compares the positions in a caption or answer with the truth of its frame."""
        predicted = [self._grounded(item) for item in objects]
        for index, centre in pair(predicted, self._truths.get(stamp_ns, [])):
            place, is_known = objects[index].position, bool(objects[index].position_frame_id)
            error_m = float(np.linalg.norm((place.x, place.y, place.z) - centre)) if is_known else math.inf
            self.errors_cm.append(100 * error_m)

    @property
    def median_cm(self) -> float | None:
        """Median of the errors; None if there are none, or most positions are not known."""
        middle = median(self.errors_cm) if self.errors_cm else math.inf
        return middle if math.isfinite(middle) else None

    def _grounded(self, item: GroundedObjectMessage) -> GroundedObject:
        box = (item.x_min_px, item.y_min_px, item.x_max_px, item.y_max_px)
        return GroundedObject(item.label, Box.from_pixels(*box, self._size))

    def _on_clock(self, message: Clock) -> None:
        depth = self._depth.get(stamp_to_ns(message.clock))
        if depth is not None:
            self._depths.publish(depth)
