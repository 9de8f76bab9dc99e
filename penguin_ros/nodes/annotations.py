"""Captions as `foxglove_msgs/ImageAnnotations`, which Foxglove draws over the camera's own image."""

from __future__ import annotations

from typing import Any

from penguin_vl.msg import GroundedCaption, GroundedObject

from penguin_ros.overlay import label_colour

try:
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation
except ImportError:
    ImageAnnotations = None

ANNOTATIONS: type | None = ImageAnnotations
"""Message type of annotations; None if foxglove_msgs is not installed."""
_BASE_PX = 240
"""Lines are one pixel wide per this many pixels of the image's shorter side, letters twelve high."""


def annotations_message(caption: GroundedCaption) -> Any:
    """Returns the boxes and labels of a caption; needs foxglove_msgs.

    The message has no header: annotations are matched to an image by stamp, so each camera needs a topic of its own.
    """
    stamp, unit = caption.header.stamp, max(1.0, min(caption.image_width_px, caption.image_height_px) / _BASE_PX)
    message = ImageAnnotations(
        points=[_box(item, stamp, unit) for item in caption.objects],
        texts=[_label(item, stamp, unit) for item in caption.objects],
    )
    if hasattr(message, "timestamp"):  # since foxglove_msgs 3.3; older ones have the stamps of the annotations alone
        message.timestamp = stamp
    return message


def _box(item: GroundedObject, stamp: Any, unit: float) -> Any:
    left, top, right, bottom = item.x_min_px, item.y_min_px, item.x_max_px, item.y_max_px
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return PointsAnnotation(
        timestamp=stamp,
        type=PointsAnnotation.LINE_LOOP,
        points=[Point2(x=float(x), y=float(y)) for x, y in corners],
        outline_color=_colour(item.label),
        thickness=2 * unit,
    )


def _label(item: GroundedObject, stamp: Any, unit: float) -> Any:
    height = 12 * unit
    bottom = item.y_min_px if item.y_min_px >= height else item.y_min_px + height  # inside a box at the upper edge
    return TextAnnotation(
        timestamp=stamp,
        position=Point2(x=float(item.x_min_px), y=float(bottom)),
        text=item.label,
        font_size=height,
        text_color=Color(r=0.0, g=0.0, b=0.0, a=1.0),
        background_color=_colour(item.label),
    )


def _colour(label: str) -> Any:
    red, green, blue = (value / 255 for value in label_colour(label))
    return Color(r=red, g=green, b=blue, a=1.0)
