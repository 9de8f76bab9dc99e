"""Makes the CMake targets of the ROS wheels usable on this machine.

The wheels export include directories of the machine they were built on (its Python headers). CMake refuses
directories that do not exist, so these entries are removed; CMake finds the headers of this machine by itself.

Run once after installing the wheels: python scripts/relocate_ros_wheels.py .venv
"""

import re
import sys
from pathlib import Path

BUILD_MACHINE_DIR = re.compile(r"/opt/python/[^;\"]*(?:/include/python3\.\d+|/numpy/_core/include)")


def relocate(cmake_text: str) -> str:
    """Returns the text without the build machine's directories in its semicolon-separated lists."""

    def keep_others(match: re.Match[str]) -> str:
        entries = match.group(1).split(";")
        return '"' + ";".join(e for e in entries if not BUILD_MACHINE_DIR.fullmatch(e)) + '"'

    return re.sub(r"\"([^\"\n]*)\"", keep_others, cmake_text)


def main(prefix: Path) -> int:
    changed = 0
    for path in prefix.glob("share/**/cmake/*.cmake"):
        text = path.read_text()
        if (fixed := relocate(text)) != text:
            path.write_text(fixed)
            changed += 1
    sys.stdout.write(f"relocated {changed} CMake files under {prefix}/share\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
