"""Writes what a depth camera next to the colour camera sees of simulated views, and the true positions, as a bag.

The depth images have a third of the width and height of the pictures, as 16-bit PNG. The PNG is not compressed, because
the bag is: it compresses many images at once, which makes it smaller.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from penguin_models.types import Float32Array, UInt8Array
from penguin_ros.evaluation.tabletop.truth_bag import START_NS, make, make_header, writing_bag
from penguin_ros.message_types import typestore
from penguin_tabletop.render.depth import measured_depth, visible_centres
from penguin_tabletop.truth import View, VisibleObject

DEPTH, INFO = "/camera/depth/image_raw/compressedDepth", "/camera/camera_info"
POSITIONS = "/true_positions"
_TYPES = {
    DEPTH: "sensor_msgs/msg/CompressedImage",
    INFO: "sensor_msgs/msg/CameraInfo",
    POSITIONS: "penguin_vl/msg/GroundedCaption",
}
_SCALE = 3


def write_depth_bag(path: Path, views: Iterable[View]) -> Path:
    """Writes an mcap bag with depth, CameraInfo and the true position of each visible object for each view.

    Stamps are those of `write_bag`, which also says what is raised.
    """
    with writing_bag(path) as writer:
        topics = {name: writer.add_connection(name, kind, typestore=typestore()) for name, kind in _TYPES.items()}
        for view in views:
            stamp_ns = START_NS + round(view.stamp_s * 1e9)
            for name, message in _messages(view, make_header(stamp_ns)).items():
                writer.write(topics[name], stamp_ns, typestore().serialize_cdr(message, _TYPES[name]))
    return path


def _messages(view: View, header: Any) -> dict[str, Any]:
    size, centres = view.picture.size, visible_centres(view)
    focal, x, y = view.scene.camera.focal_px(size), size.width / 2 - 0.5, size.height / 2 - 0.5
    k = np.array([focal, 0, x, 0, focal, y, 0, 0, 1])
    region = make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    info = {"height": size.height, "width": size.width, "distortion_model": "plumb_bob", "d": np.zeros(5), "k": k}
    info |= {"r": np.eye(3).ravel(), "p": np.insert(k, (3, 6, 9), 0.0), "binning_x": 0, "binning_y": 0, "roi": region}
    depth = cv2.resize(measured_depth(view), None, fx=1 / _SCALE, fy=1 / _SCALE, interpolation=cv2.INTER_NEAREST)
    objects = [_object(item, centres[item.id], view) for item in view.truth.objects]
    truth = {"camera": "", "image_width_px": size.width, "image_height_px": size.height, "text": "", "objects": objects}
    truth |= {"time_ranges": [], "keyframe": False, "visual_tokens": 0, "generated_tokens": 0, "frame_age_s": 0.0}
    truth |= {"first_token_s": 0.0, "total_s": 0.0, "malformed_boxes": 0}
    return {
        INFO: make(_TYPES[INFO], header=header, **info),
        DEPTH: make(_TYPES[DEPTH], header=header, format="16UC1; compressedDepth png", data=_compressed(depth)),
        POSITIONS: make(_TYPES[POSITIONS], header=header, **truth),
    }


def _object(item: VisibleObject, centre: Any, view: View) -> Any:
    sides = zip(("x_min_px", "y_min_px", "x_max_px", "y_max_px"), item.box.to_pixels(view.picture.size), strict=True)
    return make(
        "penguin_vl/msg/GroundedObject",
        label=item.label,
        score=1.0,
        **dict(sides),
        position_frame_id="camera",
        position=make("geometry_msgs/msg/Point", **dict(zip("xyz", centre.tolist(), strict=True))),
        position_covariance=np.zeros(9),
    )


def _compressed(depth: Float32Array) -> UInt8Array:
    """Returns depth as compressed_depth_image_transport sends it."""
    done, png = cv2.imencode(".png", np.round(1000 * depth).astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert done, "OpenCV writes PNG"
    return np.concatenate([np.frombuffer(struct.pack("<iff", 0, 0.0, 0.0), np.uint8), png.ravel()])
