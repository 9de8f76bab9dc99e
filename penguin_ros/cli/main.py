"""`penguin-vl`: one command line for everything.

Exit codes: 0 done, 1 failed, 2 bad usage. Errors are one line on standard error.
"""

from __future__ import annotations

import sys

from penguin_models.errors import PenguinError

_ON_PYPI = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "ml_dtypes": "ml-dtypes",
    "ruamel": "ruamel.yaml",
    "yaml": "pyyaml",
}
"""Packages that are installed under another name than they are imported by."""


def main() -> None:
    """Entry point of the `penguin-vl` executable."""
    try:
        from penguin_ros.cli.app import app  # here, so that a package that is missing is named

        app()
    except PenguinError as err:
        sys.stderr.write(f"error: {err}\n")
        sys.exit(1)
    except ModuleNotFoundError as err:
        package = str(err.name).partition(".")[0]
        if package.startswith("penguin_"):
            raise
        remedy = f"pip install {_ON_PYPI.get(package, package)}"
        sys.stderr.write(f"error: this command needs the Python package {package}, which is not installed: {remedy}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
