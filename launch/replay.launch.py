"""Plays a recorded bag into the vision-language node, in simulated time.

    ros2 launch penguin_vl replay.launch.py bag:=my_bag image_topics:="['/camera/image_raw']" model:=...

Without a bag it plays the small one that comes with the package. Everything ends when the bag has been played.
"""

from pathlib import Path, PurePosixPath

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
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetParameter

from launch import LaunchContext, LaunchDescription

_LAUNCH = Path(get_package_share_directory("penguin_vl")) / "launch"
_COMMAND = Path(get_package_prefix("penguin_vl")) / "lib" / "penguin_vl" / "penguin-vl"
_ARGUMENTS = (
    ("bag", str(_LAUNCH / "bags" / "tabletop"), "bag folder, or a single .mcap or .db3 file"),
    ("rate", "1.0", "recorded seconds per second"),
    ("loop", "false", "begin again at the end"),
    ("start", "0.0", "begin so many seconds after the first image"),
    ("wait", "120.0", "wait at most so many seconds until the node listens"),
    ("image_topics", "['/camera/image_raw/compressed']", "list of image topics of the bag that the node watches"),
)


def generate_launch_description() -> LaunchDescription:
    """The node, and the player once it listens."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in _ARGUMENTS
    ]
    return LaunchDescription(
        [
            *arguments,
            SetParameter("use_sim_time", True),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(_LAUNCH / "penguin.launch.py"))),
            OpaqueFunction(function=_player),
        ]
    )


def _player(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in _ARGUMENTS}
    options = ["--rate", given["rate"], "--start", given["start"], "--wait", given["wait"], "--clock"]
    namespace = LaunchConfiguration("namespace", default="").perform(context)
    for topic in yaml.safe_load(given["image_topics"]) or []:  # another one would wait for a subscriber in vain
        options += ["--topic", str(PurePosixPath("/", namespace, topic))]
    if given["loop"].lower() == "true":
        options.append("--loop")
    player = ExecuteProcess(cmd=[str(_COMMAND), "replay", given["bag"], *options], output="screen")
    finished = EmitEvent(event=Shutdown(reason="the bag has been played"))
    return [player, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[finished]))]
