#!/bin/bash
# Runs a command with ROS, the virtual environment and the workspace set up.
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ros2_ws/venv/bin/activate
. /ros2_ws/install/setup.bash
exec "$@"
