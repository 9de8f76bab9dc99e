"""Clips whose truth is known, written as a bag with images and detections: what `evaluate bags` takes, made anywhere.

Knows neither ROS nor where clips come from: a simulated table-top, a drawing, a labelled video.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer

from penguin_models.errors import EvaluationError
from penguin_models.grounding import GroundedObject
from penguin_models.types import Size, UInt8Array
from penguin_ros.message_types import typestore

CAMERA, TRUTH = "/camera/image_raw/compressed", "/ground_truth"
_BAG_VERSION = 9


@dataclass(frozen=True, eq=False)
class TrueFrame:
    """An image and what is in it.

    Attributes:
        time_s: since the beginning of the clip.
        rgb: uint8 [H, W, 3].
        objects: visible ones.
    """

    time_s: float
    rgb: UInt8Array
    objects: Sequence[GroundedObject] = ()


def write_bag(
    path: Path,
    frames: Iterable[TrueFrame],
    start_ns: int = 1_700_000_000_000_000_000,
    camera: str = CAMERA,
    truth: str = TRUTH,
    quality: int = 85,
    storage: str = "mcap",
) -> Path:
    """Writes a bag with JPEG images and, for each, a `vision_msgs/Detection2DArray`.

    Args:
        path: folder to make.
        frames: in the order of their times.
        start_ns: stamp of time 0.
        camera: topic of the images.
        truth: topic of the detections.
        quality: of the JPEGs, 1 to 95.
        storage: "mcap" or "sqlite3".

    Raises:
        EvaluationError: the folder exists already, or cannot be written.
    """
    store = typestore()
    image_type, array_type = "sensor_msgs/msg/CompressedImage", "vision_msgs/msg/Detection2DArray"
    try:
        with Writer(path, version=_BAG_VERSION, storage_plugin=StoragePlugin[storage.upper()]) as writer:
            images = writer.add_connection(camera, image_type, typestore=store)
            boxes = writer.add_connection(truth, array_type, typestore=store)
            for frame in frames:
                stamp_ns = start_ns + round(frame.time_s * 1e9)
                header, size = _header(stamp_ns), Size(*frame.rgb.shape[:2])
                data = np.frombuffer(_jpeg(frame.rgb, quality), np.uint8)
                image = _make(image_type, header=header, format="jpeg", data=data)
                array = _make(
                    array_type, header=header, detections=[_detection(header, o, size) for o in frame.objects]
                )
                writer.write(images, stamp_ns, store.serialize_cdr(image, image_type))
                writer.write(boxes, stamp_ns, store.serialize_cdr(array, array_type))
    except Exception as err:  # rosbags raises its own errors for folders that exist, the system others
        raise EvaluationError(f"bag {path} cannot be written: {err}") from err
    return path


def _jpeg(rgb: UInt8Array, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "jpeg", quality=quality)
    return file.getvalue()


def _make(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)


def _header(stamp_ns: int) -> Any:
    stamp = _make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return _make("std_msgs/msg/Header", stamp=stamp, frame_id="camera")


def _detection(header: Any, item: GroundedObject, size: Size) -> Any:
    x_min, y_min, x_max, y_max = item.box.to_pixels(size)
    position = _make("vision_msgs/msg/Point2D", x=(x_min + x_max) / 2, y=(y_min + y_max) / 2)
    centre = _make("vision_msgs/msg/Pose2D", position=position, theta=0.0)
    box = _make("vision_msgs/msg/BoundingBox2D", center=centre, size_x=x_max - x_min, size_y=y_max - y_min)
    origin = _make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    turn = _make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = _make("geometry_msgs/msg/PoseWithCovariance", covariance=np.zeros(36),
                 pose=_make("geometry_msgs/msg/Pose", position=origin, orientation=turn))  # fmt: skip
    hypothesis = _make("vision_msgs/msg/ObjectHypothesis", class_id=item.label, score=1.0)
    result = _make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=pose)
    return _make("vision_msgs/msg/Detection2D", header=header, results=[result], bbox=box, id="")
