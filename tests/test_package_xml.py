"""package.xml names only keys of rosdep that were looked up."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_key_is_in_the_table_of_keys_with_a_package_on_humble_and_jazzy():
    keys = set(re.findall(r"<\w*depend>([^<]+)<", (ROOT / "package.xml").read_text()))
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| (\S+) \|$", (ROOT / "docs" / "rosdep.md").read_text(), re.MULTILINE)
    table = {key: (humble, jazzy) for key, humble, jazzy in rows}
    assert keys == set(table) and {"rclpy", "vision_msgs", "python3-opencv"} <= keys
    for key, names in table.items():
        for distribution, name in zip(("humble", "jazzy"), names, strict=True):
            assert name in (f"ros-{distribution}-{key.replace('_', '-')}", key)
