"""The examples: Python clients against a real node, and the names in C++ and XML against the interfaces."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(("script", "remapped"), [("ask.py", "ask"), ("ask_stream.py", "ask_stream")])
def test_python_clients_report_what_the_node_says(shared_node, script, remapped):
    pytest.importorskip("rclpy")
    command = [sys.executable, str(EXAMPLES / "client_py" / script), "What is on the table?"]
    remapping = ["--ros-args", "-r", f"penguin/{remapped}:={shared_node.name}/{remapped}"]
    ran = subprocess.run([*command, *remapping], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and "no frame" in ran.stdout and not ran.stderr, ran


def test_trees_use_the_ports_that_the_plugin_has():
    source = (EXAMPLES / "behavior_tree" / "src" / "ask_yes_no.cpp").read_text()
    for tree in (EXAMPLES / "behavior_tree" / "trees").glob("*.xml"):
        nodes = list(ET.parse(tree).iter("AskYesNo"))
        assert nodes
        for node in nodes:
            assert all(
                f'Port<{kind}>("{port}"' in source
                for port, kind in zip(
                    ("question", "service", "timeout_s", "answer"),
                    ("std::string", "std::string", "double", "std::string"),
                    strict=True,
                )
            )
            assert set(node.attrib) <= {"question", "service", "timeout_s", "answer"}
