"""Starts the vision-language node, which configures and activates itself unless autostart is false.

    ros2 launch penguin_vl penguin.launch.py model:=tencent/Penguin-VL-2B image_topics:="['/camera/image_raw']"

Arguments of this file override params_file.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

_CONFIG = Path(__file__).resolve().parent / "config"
_ARGUMENTS = (
    ("model", "", "checkpoint folder, or owner/name on the model hub; empty: as in params_file"),
    ("runtime", "", "what runs the model, for example torch; empty: as in params_file, or the node's default"),
    ("image_topics", "", "list of image topics, for example ['/a', '/b/compressed']; empty: as in params_file"),
    ("name", "penguin", "name of the node"),
    ("namespace", "", "namespace of the node"),
    ("params_file", "", "YAML file with the node's parameters, or the name of a file in launch/config such as webcam"),
    ("use_sim_time", "", "true: time comes from /clock; empty: as in params_file"),
    ("autostart", "true", "configure and activate at once, without a lifecycle manager"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
)
_TYPES = {"model": str, "runtime": str, "image_topics": list[str], "use_sim_time": bool, "autostart": bool}
"""Arguments that set a parameter, with its type."""


def generate_launch_description() -> LaunchDescription:
    """Returns the node and its arguments."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in _ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_node)])


def _node(context: LaunchContext) -> list[LifecycleNode]:
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in _ARGUMENTS}
    parameters: list = [_params_file(values["params_file"])] if values["params_file"] else []
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in _TYPES.items()
        if values[name]
    }
    return [
        LifecycleNode(
            package="penguin_vl",
            executable="vlm_node",
            name=values["name"],
            namespace=values["namespace"],
            parameters=[*parameters, overrides],
            arguments=["--ros-args", "--log-level", values["log_level"]],
            output="screen",
            emulate_tty=True,
        )
    ]


def _params_file(value: str) -> str:
    """Returns the path of a parameter file; a name without a folder is also looked up in launch/config."""
    path = Path(value).expanduser()
    found = [path] if path.is_file() else []
    if not found and path.name == value:
        found = [file for file in (_CONFIG / value, _CONFIG / f"{value}.yaml") if file.is_file()]
    if not found:
        shipped = ", ".join(sorted(file.stem for file in _CONFIG.glob("*.yaml")))
        raise FileNotFoundError(f"params_file {value} does not exist; give a path, or one of launch/config: {shipped}")
    return str(found[0])
