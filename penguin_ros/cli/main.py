"""`penguin-vl`: one command line for everything.

Exit codes: 0 success, 1 failure, 2 bad usage, 130 Ctrl-C. An error is one line on standard error.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

from penguin_ros.stopping import quiet_ctrl_c

_PYPI_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "ml_dtypes": "ml-dtypes",
    "ruamel": "ruamel.yaml",
    "yaml": "pyyaml",
}
"""Distribution names of packages that are imported under another name."""
_TRAINING_PACKAGES = ("penguin_training", "penguin_tabletop")


def main() -> None:
    """Runs the command line and ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a model's text may have characters that the terminal has not
            stream.reconfigure(errors="backslashreplace")
    with quiet_ctrl_c():
        _run()


def _run() -> None:
    from penguin_models.errors import PenguinError

    try:
        from penguin_ros.cli.app import app  # here, because its imports may fail too

        app()
    except PenguinError as err:
        sys.stderr.write(f"error: {err}\n")
        sys.exit(1)
    except OSError as err:  # what no command expects, such as a full disk under a temporary file or standard output
        if err.strerror is None:
            raise
        what = f"{err.filename} cannot be read or written" if err.filename else "input or output failed"
        sys.stderr.write(f"error: {what}: {err.strerror}\n")
        sys.exit(1)
    except ModuleNotFoundError as err:
        package = str(err.name).partition(".")[0]
        if package in _TRAINING_PACKAGES:
            remedy = "build the workspace with -DPENGUIN_VL_TRAINING=ON"
        elif package.startswith("penguin_"):
            raise
        else:
            remedy = f"pip install {_PYPI_NAMES.get(package, package)}"
        sys.stderr.write(f"error: this command needs the Python package {package}, which is not installed: {remedy}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
