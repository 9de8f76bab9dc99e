"""Types of the messages in bags: those that a bag defines, else those of a distribution, penguin_vl and vision_msgs.

Bags recorded with ROS 2 Iron or later, and all mcap files, describe their messages; sqlite3 bags from Humble do not. A
test compares the penguin_vl definitions with the files in msg/.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from penguin_models.errors import MediaError
from penguin_ros.bag_storage.messages import READABLE_ENCODINGS, Connection
from penguin_ros.video_packets import FFMPEG_PACKET

_SEPARATOR = 80 * "=" + "\n"
_FORMATS = ("ros2msg", "ros1msg")
_MAX_DEFINITION_BYTES = 64 << 10
_MAX_FIELDS = 1000
"""Limit of the fields, and items of arrays of fixed size, of a type: rosbags writes code for each."""
_CAPTION = f"""\
std_msgs/Header header
string camera
uint32 image_width_px
uint32 image_height_px
string text
GroundedObject[] objects
TimeRange[] time_ranges
bool keyframe
uint32 visual_tokens
uint32 generated_tokens
float32 frame_age_s
float32 first_token_s
float32 total_s
uint32 malformed_boxes
{_SEPARATOR}MSG: penguin_vl/GroundedObject
string label
float32 x_min_px
float32 y_min_px
float32 x_max_px
float32 y_max_px
float32 score
string position_frame_id
geometry_msgs/Point position
float64[9] position_covariance
{_SEPARATOR}MSG: penguin_vl/TimeRange
builtin_interfaces/Time start
builtin_interfaces/Time end
"""
_DETECTIONS = f"""\
std_msgs/Header header
Detection2D[] detections
{_SEPARATOR}MSG: vision_msgs/Detection2D
std_msgs/Header header
ObjectHypothesisWithPose[] results
BoundingBox2D bbox
string id
{_SEPARATOR}MSG: vision_msgs/ObjectHypothesisWithPose
ObjectHypothesis hypothesis
geometry_msgs/PoseWithCovariance pose
{_SEPARATOR}MSG: vision_msgs/ObjectHypothesis
string class_id
float64 score
{_SEPARATOR}MSG: vision_msgs/BoundingBox2D
Pose2D center
float64 size_x
float64 size_y
{_SEPARATOR}MSG: vision_msgs/Pose2D
Point2D position
float64 theta
{_SEPARATOR}MSG: vision_msgs/Point2D
float64 x
float64 y
"""


_FFMPEG_PACKET = """\
std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", FFMPEG_PACKET)
"""Types of messages with images or video, which are the same in all ROS distributions."""


@cache
def typestore() -> Typestore:
    """Returns the message types of ROS 2 Jazzy together with those of penguin_vl and vision_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(_CAPTION, "penguin_vl/msg/GroundedCaption"))
    store.register(get_types_from_msg(_FFMPEG_PACKET, FFMPEG_PACKET))
    store.register(get_types_from_msg(_DETECTIONS, "vision_msgs/msg/Detection2DArray"))
    return store


def deserialize(connection: Connection, data: bytes) -> Any:
    """Returns a message of a bag; raises MediaError if its type is unknown, or its data are damaged."""
    store = _types(connection.msgtype, connection.encoding, connection.definition_format, connection.definition)
    if isinstance(store, str):
        raise MediaError(store)
    try:
        read = store.deserialize_ros1 if connection.encoding == "ros1" else store.deserialize_cdr
        return read(data, connection.msgtype)
    except Exception as err:  # the parser raises many types of error on damaged bytes
        reason = f"{type(err).__name__}: {' '.join(str(err).split())}".rstrip(": ")
        raise MediaError(f"the message cannot be read: {reason}") from err


def ros1_image_to_cdr(msgtype: str, data: bytes) -> bytes:
    """Converts an image message of ROS 1, which can be deserialised, to that of ROS 2."""
    return bytes(typestore().ros1_to_cdr(data, msgtype))  # its header has no field seq


@cache
def _types(msgtype: str, encoding: str, definition_format: str, definition: bytes) -> Typestore | str:
    """Returns the types of a bag's definition, those of a distribution if it has none, or why there are none.

    Definitions in IDL are not used: rosbags 0.11 needs time that is exponential in the depth of its expressions.
    """
    if encoding not in READABLE_ENCODINGS:
        return f"messages in encoding {encoding!r} cannot be read"
    known = _known_types(encoding)
    if msgtype in known.fielddefs and (msgtype in IMAGE_TYPES or definition_format not in _FORMATS):
        return known
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(_parse(msgtype, definition_format, definition))
        store.get_msgdef(msgtype)  # fails if a type contains itself
    except Exception as err:  # noqa: BLE001  # the parser raises many types of error on damaged definitions
        if msgtype in known.fielddefs:
            return known
        reason = str(err) if isinstance(err, MediaError) else type(err).__name__
        return f"the bag defines {msgtype} in a way that cannot be read: {reason}"
    return store


def _parse(msgtype: str, definition_format: str, definition: bytes) -> Any:
    """Parses a definition; raises MediaError if reading it would take too long, or any error if it is damaged."""
    if definition_format not in _FORMATS:
        raise MediaError(f"its format is {definition_format[:40]!r}, not {' or '.join(_FORMATS)}")
    if len(definition) > _MAX_DEFINITION_BYTES:
        raise MediaError(f"it has {len(definition)} bytes, the limit is {_MAX_DEFINITION_BYTES}")
    types = get_types_from_msg(definition.decode(), msgtype)
    fields = [kind for _, fields in types.values() for _, kind in fields]
    fields_and_items = len(fields) + sum(abs(kind[1][1]) for kind in fields if kind[0] == Nodetype.ARRAY)
    if fields_and_items > _MAX_FIELDS:
        raise MediaError(f"it has {fields_and_items} fields and items of arrays, the limit is {_MAX_FIELDS}")
    return types


@cache
def _known_types(encoding: str) -> Typestore:
    return get_typestore(Stores.ROS1_NOETIC) if encoding == "ros1" else typestore()
