"""Wrong ROS arguments are reported in one line."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy

from penguin_ros.nodes.context import RosArgumentsError, start_ros
from penguin_ros.nodes.rcl_errors import MiddlewareError
from penguin_ros.tools.ask_client import AskClient


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-r", "nonsense"], "Couldn't parse remap rule: '-r nonsense'"),
        (["--log-level", "loud"], "Couldn't parse log level"),
        (["--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        (["-p", "a b:=3"], "Couldn't parse parameter override rule"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_arguments_that_cannot_be_parsed_are_reported_in_one_line(args, message, capfd):
    with pytest.raises(RosArgumentsError) as error:
        start_ros(["penguin", "--ros-args", *args])
    assert message in str(error.value) and "arguments.c" not in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # nothing from ROS itself


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--name", "my robot"], 1, "error: Couldn't parse remap rule: '-r __node:=my robot'"),
        (["--set", "tokn_budget=3"], 2, "there is no parameter tokn_budget"),
        (["--set", "token_budget"], 2, "is not name=value"),
        (["--params-file", "/nowhere.yaml"], 2, "'/nowhere.yaml' does not exist"),
    ],
)
def test_the_command_reports_arguments_with_which_no_node_can_start(domain, args, code, message):
    command = [sys.executable, "-m", "penguin_ros.cli.main", "node", "--model", "5", *args]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, env={**os.environ, "COLUMNS": "200"})
    assert result.returncode == code and message in result.stderr and "Traceback" not in result.stderr


def test_a_node_that_the_middleware_refuses_is_one_line(domain, tmp_path, monkeypatch, recwarn):
    (tmp_path / "enclaves" / "robot").mkdir(parents=True)  # without keys
    for name, value in (("ENABLE", "true"), ("STRATEGY", "Enforce"), ("KEYSTORE", str(tmp_path))):
        monkeypatch.setenv(f"ROS_SECURITY_{name}", value)
    try:
        with pytest.raises(MiddlewareError, match=r"^error creating node: .*security") as error:
            AskClient("/penguin", ros_args=["--ros-args", "--enclave", "/robot"])
    finally:
        rclpy.try_shutdown()
    assert "\n" not in str(error.value) and ", at /" not in str(error.value) and not recwarn.list
