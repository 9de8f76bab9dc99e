"""cv_bridge, if it is installed and works.

An installed cv_bridge may be unable to convert: its `__init__` ignores that its C++ half cannot be imported, and a half
built against NumPy 1 fails or crashes with NumPy 2 (vision_opencv#535). It is therefore tried once with a small image,
in a process of its own, because a crash would end this one.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from penguin_ros.probe import probe

_CONVERSION = """\
from types import SimpleNamespace
from cv_bridge import CvBridge
image = SimpleNamespace(height=1, width=2, step=6, encoding="bgr8", is_bigendian=0, data=bytes([1, 2, 3, 4, 5, 6]))
rgb = CvBridge().imgmsg_to_cv2(image, "rgb8").tolist()
assert rgb == [[[3, 2, 1], [6, 5, 4]]], f"a pixel was converted to {rgb}"
"""


@cache
def bridge() -> Any | None:
    """Returns a CvBridge; None if cv_bridge is not installed or does not work."""
    if importlib.util.find_spec("cv_bridge") is None or bridge_fault() is not None:
        return None
    from cv_bridge import CvBridge

    return CvBridge()


@cache
def bridge_fault() -> str | None:
    """Returns one sentence that says why the installed cv_bridge is not used; None if it works or is not installed."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    _, reason = probe(_CONVERSION)
    if reason is None:
        return None
    return (
        f"cv_bridge is installed but cannot convert images ({reason}), so the package's own conversion is used; to use "
        "cv_bridge, rebuild it for this version of NumPy"
    )
