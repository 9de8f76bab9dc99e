"""Plays a recorded bag into the vision-language node, in simulated time.

    ros2 launch penguin_vl replay.launch.py bag:=my_bag image_topics:="['/camera/image_raw']" model:=...

Without a bag, a model and a params_file it plays the bag that ships into penguin-tiny, with launch/config/demo.yaml.
Everything ends when the bag has been played, and with an error if the node or the player fails. Needs the Python
package rosbags.
"""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription

_SHARE = Path(get_package_share_directory("penguin_vl"))
_LAUNCH = _SHARE / "launch"
_COMMAND = Path(get_package_prefix("penguin_vl")) / "lib" / "penguin_vl" / "penguin-vl"
_SHIPPED_BAG = str(_LAUNCH / "bags" / "tabletop")
_ARGUMENTS = (
    ("bag", _SHIPPED_BAG, "bag folder, or a single .mcap or .db3 file"),
    ("rate", "1.0", "recorded seconds per second"),
    ("loop", "false", "start again at the end"),
    ("start", "0.0", "seconds to skip after the first image"),
    ("wait", "120.0", "seconds to wait for the node to subscribe"),
    ("image_topics", "['/camera/image_raw/compressed']", "list of image topics; relative ones are in the namespace"),
    ("name", "penguin", "name of the node"),
    ("namespace", "", "namespace of the node"),
    ("model", "", "checkpoint folder, or owner/name on the model hub; empty: as in params_file"),
    ("params_file", "", "YAML file with the node's parameters, or the name of a file in launch/config such as webcam"),
    ("use_sim_time", "true", "time comes from the bag, by /clock"),
)


def generate_launch_description() -> LaunchDescription:
    """Returns the node, and the player, which starts once the node subscribes."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in _ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list:
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in _ARGUMENTS}
    node_arguments = {}
    if values["bag"] == _SHIPPED_BAG and not values["model"] and not values["params_file"]:
        node_arguments["model"] = str(_SHARE / "models" / "penguin-tiny")
        node_arguments["params_file"] = "demo"
    launch_file = PythonLaunchDescriptionSource(str(_LAUNCH / "penguin.launch.py"))
    player = _player(values)

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[EmitEvent]:
        if context.is_shutdown:
            return []
        if event.action is player and event.returncode == 0:
            return [EmitEvent(event=Shutdown(reason="the bag has been played"))]
        raise RuntimeError(f"{event.process_name} ended with exit code {event.returncode} before the end of the bag")

    include = IncludeLaunchDescription(launch_file, launch_arguments=node_arguments.items())
    return [RegisterEventHandler(OnProcessExit(on_exit=on_exit)), include, player]


def _player(values: dict[str, str]) -> ExecuteProcess:
    options = ["--rate", values["rate"], "--start", values["start"], "--wait", values["wait"], "--clock"]
    if values["namespace"]:
        options += ["--namespace", values["namespace"]]
    for topic in yaml.safe_load(values["image_topics"]) or []:  # the player would wait in vain on other topics
        options += ["--topic", topic]
    if values["loop"].lower() == "true":
        options.append("--loop")
    return ExecuteProcess(cmd=[str(_COMMAND), "replay", values["bag"], *options], output="screen")
