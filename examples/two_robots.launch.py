"""Starts the vision-language node of two robots, each in its namespace, and the camera driver of each as a component.

    ros2 launch examples/two_robots.launch.py model:=tencent/Penguin-VL-2B

Services are /robot_1/penguin/ask and /robot_2/penguin/ask. The drivers run in component containers, so that nodes for
image processing can be loaded next to them without copies (`ros2 component load /robot_1/cameras ...`).
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode

from launch import LaunchDescription

ROBOTS = {"robot_1": "/dev/video0", "robot_2": "/dev/video2"}
"""Namespace of each robot -> its camera."""


def generate_launch_description() -> LaunchDescription:
    """Returns the arguments, and a container and a node for each robot."""
    arguments = [
        DeclareLaunchArgument("model", default_value="tencent/Penguin-VL-2B", description="model of both robots"),
        DeclareLaunchArgument("runtime", default_value="", description="what runs it; empty: the node's default"),
        DeclareLaunchArgument("cameras", default_value="true", description="false: the drivers are running already"),
    ]
    return LaunchDescription([*arguments, *(part for robot in ROBOTS.items() for part in _robot(*robot))])


def _robot(namespace: str, device: str) -> tuple[ComposableNodeContainer, IncludeLaunchDescription]:
    driver = ComposableNode(
        package="usb_cam",
        plugin="usb_cam::UsbCamNode",
        name="camera",
        namespace=namespace,
        parameters=[{"video_device": device, "frame_id": f"{namespace}/camera"}],
    )
    container = ComposableNodeContainer(
        package="rclcpp_components",
        executable="component_container",
        name="cameras",
        namespace=namespace,
        composable_node_descriptions=[driver],
        condition=IfCondition(LaunchConfiguration("cameras")),
    )
    launch_file = Path(get_package_share_directory("penguin_vl")) / "launch" / "penguin.launch.py"
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch_file)),
        launch_arguments={
            "namespace": namespace,
            "model": LaunchConfiguration("model"),
            "runtime": LaunchConfiguration("runtime"),
            "image_topics": "['image_raw']",
        }.items(),
    )
    return container, node
