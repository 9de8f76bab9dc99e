"""Starts the vision-language node, which configures and activates itself unless autostart is false.

    ros2 launch penguin_vl penguin.launch.py model:=tencent/Penguin-VL-2B image_topics:="['/camera/image_raw']"

Arguments of this file override params_file.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

_ARGUMENTS = (
    ("model", "", "checkpoint folder, or owner/name on the model hub; empty: as in params_file"),
    ("runtime", "", "what runs the model, for example torch; empty: as in params_file, or the node's default"),
    ("image_topics", "", "list of image topics, for example ['/a', '/b/compressed']; empty: as in params_file"),
    ("namespace", "", "namespace of the node"),
    ("params_file", "", "YAML file with the node's parameters; examples are in launch/config"),
    ("autostart", "true", "configure and activate at once, without a lifecycle manager"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
)


def generate_launch_description() -> LaunchDescription:
    """Returns the node and its arguments."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in _ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_node)])


def _node(context: LaunchContext) -> list[LifecycleNode]:
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in _ARGUMENTS}
    parameters: list = [values["params_file"]] if values["params_file"] else []
    overrides: dict = {"autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool)}
    for name, kind in (("model", str), ("runtime", str), ("image_topics", list[str])):
        if values[name]:
            overrides[name] = ParameterValue(LaunchConfiguration(name), value_type=kind)
    return [
        LifecycleNode(
            package="penguin_vl",
            executable="vlm_node",
            name="penguin",
            namespace=values["namespace"],
            parameters=[*parameters, overrides],
            arguments=["--ros-args", "--log-level", values["log_level"]],
            output="screen",
            emulate_tty=True,
        )
    ]
