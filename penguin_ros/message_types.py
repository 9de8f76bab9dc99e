"""Message definitions of penguin_vl and vision_msgs, for bags that do not contain their own.

Bags recorded with ROS 2 Iron or later, and all mcap files, describe their messages; sqlite3 bags from Humble do not. A
test compares the penguin_vl definitions with the files in msg/.
"""

from __future__ import annotations

from functools import cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_SEPARATOR = 80 * "=" + "\n"
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


@cache
def typestore() -> Typestore:
    """Returns the message types of ROS 2 Jazzy together with those of penguin_vl and vision_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(_CAPTION, "penguin_vl/msg/GroundedCaption"))
    store.register(get_types_from_msg(_DETECTIONS, "vision_msgs/msg/Detection2DArray"))
    return store
