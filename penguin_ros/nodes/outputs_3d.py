"""What a node with depth publishes for each caption: `~/detections_3d` and `~/markers`, if their types are installed.

A box has the axes of the camera: its sides are to the camera's right, downwards, and along its view. The latter is as
long as the visible surface is deep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from geometry_msgs.msg import Point, Pose, Quaternion
from penguin_vl.msg import GroundedCaption, GroundedObject
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from penguin_engine.scene.object_position import ObjectPosition
from penguin_engine.scene.requests import Outcome

try:
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose
except ImportError:
    Detection3DArray = None
try:
    from visualization_msgs.msg import Marker, MarkerArray
except ImportError:
    MarkerArray = None

_UNKNOWN_ROTATION = math.pi**2  # variance in rad^2
_TEXT_M = 0.03
_COLOUR = (0.12, 0.56, 1.0)


class Outputs3d:
    """The publishers of positions."""

    def __init__(self, advertise: Callable[[type, str, QoSProfile | int], Any]):
        """Creates the publishers with a function that gets type, topic and QoS."""
        self._detections = None if Detection3DArray is None else advertise(Detection3DArray, "~/detections_3d", 10)
        self._markers = None if MarkerArray is None else advertise(MarkerArray, "~/markers", 10)

    def publish(self, caption: GroundedCaption, outcome: Outcome) -> None:
        """Publishes the objects of a caption whose position is known."""
        placed = [
            (item, place) for item, place in zip(caption.objects, outcome.positions, strict=False) if place is not None
        ]
        header = Header(stamp=caption.header.stamp, frame_id=caption.header.frame_id)
        if placed:
            header.frame_id = placed[0][1].frame_id
        if self._detections is not None:
            detections = [_detection(header, item, place) for item, place in placed]
            self._detections.publish(Detection3DArray(header=header, detections=detections))
        if self._markers is not None:
            self._markers.publish(MarkerArray(markers=list(_markers(header, caption.camera, placed))))


def _detection(header: Header, item: GroundedObject, place: ObjectPosition) -> Any:
    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id = item.label
    result.hypothesis.score = 0.0 if math.isnan(item.score) else float(item.score)
    covariance = result.pose.covariance.reshape(6, 6)
    covariance[:3, :3] = place.covariance
    for axis in (3, 4, 5):
        covariance[axis, axis] = _UNKNOWN_ROTATION
    result.pose.pose.position = _pose(place).position
    detection = Detection3D(header=header, results=[result])
    detection.bbox.center = _pose(place)
    detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = place.size.tolist()
    return detection


def _markers(header: Header, camera: str, placed: list[tuple[GroundedObject, ObjectPosition]]) -> Iterator[Any]:
    """Yields a box and a label for each object, after removing those of the caption before."""
    yield Marker(header=header, ns=camera, action=Marker.DELETEALL)
    for number, (item, place) in enumerate(placed):
        for kind in (Marker.CUBE, Marker.TEXT_VIEW_FACING):
            is_text = kind == Marker.TEXT_VIEW_FACING
            marker = Marker(header=header, ns=camera, id=2 * number + is_text, type=kind, pose=_pose(place))
            marker.color.r, marker.color.g, marker.color.b = (1.0, 1.0, 1.0) if is_text else _COLOUR
            marker.color.a = 1.0 if is_text else 0.4
            marker.scale.x, marker.scale.y, marker.scale.z = (0.0, 0.0, _TEXT_M) if is_text else place.size.tolist()
            marker.text = item.label if is_text else ""
            yield marker


def _pose(place: ObjectPosition) -> Pose:
    return Pose(
        position=Point(**dict(zip("xyz", place.position.tolist(), strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", place.orientation, strict=True))),
    )
