"""An installed cv_bridge is used only if it converts a small image correctly."""

from __future__ import annotations

import re
import sys

import pytest
from sensor_msgs.msg import Image

from penguin_ros import bridge
from penguin_ros.cli.doctor import inspect_machine
from penguin_ros.images import message_to_rgb

WORKS = """
import numpy as np
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        assert (message.encoding, encoding) == ("bgr8", "rgb8")
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)[..., ::-1]
"""
NO_EXTENSION = """
try:
    from cv_bridge.boost.cv_bridge_boost import getCvType
except ImportError:
    pass
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        from cv_bridge.boost.cv_bridge_boost import cvtColor2
"""
CRASHES = """
import os, signal
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Returns a function that installs a package cv_bridge with this content."""

    def make(content):
        (tmp_path / "cv_bridge").mkdir()
        (tmp_path / "cv_bridge" / "__init__.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    for function in (bridge.bridge, bridge.bridge_fault):
        function.cache_clear()
    yield make
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    for function in (bridge.bridge, bridge.bridge_fault):
        function.cache_clear()


IMAGE = Image(height=1, width=1, step=3, encoding="bgr8", data=bytes([1, 2, 3]))


def test_a_cv_bridge_that_works_is_used(install):
    install(WORKS)
    assert bridge.bridge_fault() is None
    assert type(bridge.bridge()).__module__ == "cv_bridge"
    assert message_to_rgb(IMAGE).tolist() == [[[3, 2, 1]]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (NO_EXTENSION, "ModuleNotFoundError: No module named 'cv_bridge.boost'"),
        ("raise AttributeError('_ARRAY_API not found')", "AttributeError: _ARRAY_API not found"),
        ("from nowhere import CvBridge", "No module named 'nowhere'"),
        (CRASHES, "it ends the process with SIGSEGV"),
        (WORKS.replace("[..., ::-1]", ""), r"AssertionError: a pixel was converted to \[\[\[1, 2, 3\]"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_cv_bridge_that_cannot_convert_is_replaced_and_reported(install, content, reason):
    install(content)
    assert message_to_rgb(IMAGE).tolist() == [[[3, 2, 1]]]
    fault = bridge.bridge_fault()
    assert fault.startswith("cv_bridge is installed but cannot convert images (") and "\n" not in fault
    assert re.search(reason, fault)
    assert bridge.bridge() is None
    assert next(finding for finding in inspect_machine()[0] if finding.name == "cv_bridge").value == fault
