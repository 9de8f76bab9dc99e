"""Definitions of messages that bags may hold without describing them: our own, and those of vision_msgs.

Bags written since ROS 2 Iron, and mcap files, describe their messages themselves; these are for older ones. A test
compares ours with the files in msg/.
"""

from __future__ import annotations

from functools import cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_DEFINITIONS = {
    "penguin_vl/msg/GroundedObject": """
        string label
        float32 x_min_px
        float32 y_min_px
        float32 x_max_px
        float32 y_max_px
        float32 score
    """,
    "penguin_vl/msg/TimeRange": """
        builtin_interfaces/Time start
        builtin_interfaces/Time end
    """,
    "penguin_vl/msg/GroundedCaption": """
        std_msgs/Header header
        string camera
        uint32 image_width_px
        uint32 image_height_px
        string text
        GroundedObject[] objects
        TimeRange[] time_ranges
        bool key_frame
        uint32 visual_tokens
        uint32 generated_tokens
        float32 frame_age_s
        float32 first_token_s
        float32 total_s
        uint32 malformed_boxes
    """,
    "vision_msgs/msg/Point2D": """
        float64 x
        float64 y
    """,
    "vision_msgs/msg/Pose2D": """
        vision_msgs/Point2D position
        float64 theta
    """,
    "vision_msgs/msg/BoundingBox2D": """
        vision_msgs/Pose2D center
        float64 size_x
        float64 size_y
    """,
    "vision_msgs/msg/ObjectHypothesis": """
        string class_id
        float64 score
    """,
    "vision_msgs/msg/ObjectHypothesisWithPose": """
        vision_msgs/ObjectHypothesis hypothesis
        geometry_msgs/PoseWithCovariance pose
    """,
    "vision_msgs/msg/Detection2D": """
        std_msgs/Header header
        vision_msgs/ObjectHypothesisWithPose[] results
        vision_msgs/BoundingBox2D bbox
        string id
    """,
    "vision_msgs/msg/Detection2DArray": """
        std_msgs/Header header
        vision_msgs/Detection2D[] detections
    """,
}


@cache
def typestore() -> Typestore:
    """The types of ROS 2 Jazzy, and these."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in _DEFINITIONS.items():
        store.register(get_types_from_msg(definition, name))
    return store
