"""Writes frames with known objects as a bag with images and detections, which `evaluate bags` can read.

The frames can come from anywhere, for example from a simulation or a labelled video; no ROS installation is needed.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from penguin_models.atomic_write import writing
from penguin_models.errors import EvaluationError
from penguin_models.grounding import GroundedObject
from penguin_models.types import Size, UInt8Array
from penguin_ros.message_types import typestore

CAMERA, TRUTH = "/camera/image_raw/compressed", "/ground_truth"
START_NS = 1_700_000_000_000_000_000
_IMAGE, _DETECTIONS = "sensor_msgs/msg/CompressedImage", "vision_msgs/msg/Detection2DArray"
_BAG_VERSION = 9
_JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class TrueFrame:
    """An image and the objects in it."""

    time_s: float  # seconds since the start of the clip
    rgb: UInt8Array  # uint8 [H, W, 3]
    objects: Sequence[GroundedObject] = ()  # visible objects


def write_bag(path: Path, frames: Iterable[TrueFrame]) -> Path:
    """Writes an mcap bag with a JPEG image on CAMERA and a `vision_msgs/Detection2DArray` on TRUTH for each frame.

    Frames are in order of time; time 0 gets the stamp START_NS. Raises EvaluationError if the folder exists already,
    and WriteError, leaving no folder behind, if it cannot be written.
    """
    with writing_bag(path) as writer:
        _write_frames(writer, frames)
    return path


@contextmanager
def writing_bag(path: Path) -> Iterator[Writer]:
    """Opens a new bag for a block, and removes it if the block fails; raises as `write_bag`."""
    if path.exists():
        raise EvaluationError(f"bag {path} cannot be written: it exists already; choose another folder")
    try:
        bag = Writer(path, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        bag.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writing(path), bag as writer:
            yield writer
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _write_frames(writer: Writer, frames: Iterable[TrueFrame]) -> None:
    store = typestore()
    images = writer.add_connection(CAMERA, _IMAGE, typestore=store)
    detections = writer.add_connection(TRUTH, _DETECTIONS, typestore=store)
    for frame in frames:
        stamp_ns = START_NS + round(frame.time_s * 1e9)
        header, size = make_header(stamp_ns), Size(*frame.rgb.shape[:2])
        image = make(_IMAGE, header=header, format="jpeg", data=_jpeg(frame.rgb))
        boxes = [_detection(header, item, size) for item in frame.objects]
        array = make(_DETECTIONS, header=header, detections=boxes)
        writer.write(images, stamp_ns, store.serialize_cdr(image, _IMAGE))
        writer.write(detections, stamp_ns, store.serialize_cdr(array, _DETECTIONS))


def _jpeg(rgb: UInt8Array) -> UInt8Array:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "jpeg", quality=_JPEG_QUALITY)
    return np.frombuffer(file.getvalue(), np.uint8)


def make(kind: str, **fields: Any) -> Any:
    """Returns a message of rosbags."""
    return typestore().types[kind](**fields)


def make_header(stamp_ns: int) -> Any:
    """Returns the header of a message of the simulated camera."""
    stamp = make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="camera")


def _detection(header: Any, item: GroundedObject, size: Size) -> Any:
    x_min, y_min, x_max, y_max = item.box.to_pixels(size)
    position = make("vision_msgs/msg/Point2D", x=(x_min + x_max) / 2, y=(y_min + y_max) / 2)
    centre = make("vision_msgs/msg/Pose2D", position=position, theta=0.0)
    box = make("vision_msgs/msg/BoundingBox2D", center=centre, size_x=x_max - x_min, size_y=y_max - y_min)
    origin = make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    rotation = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = make("geometry_msgs/msg/Pose", position=origin, orientation=rotation)
    uncertain_pose = make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36))
    hypothesis = make("vision_msgs/msg/ObjectHypothesis", class_id=item.label, score=1.0)
    result = make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=uncertain_pose)
    return make("vision_msgs/msg/Detection2D", header=header, results=[result], bbox=box, id="")
