"""`penguin-vl`: one command line for everything; each command is a file beside this one.

Exit codes: 0 done, 1 failed, 2 bad usage. Errors are one line on standard error.
"""

from __future__ import annotations

import sys

import typer

from penguin_models.errors import PenguinError
from penguin_ros.cli import (
    ask,
    bench,
    build,
    demo,
    doctor,
    evaluate,
    export,
    parity,
    prepare,
    pull,
    quantize,
    ros,
    soak,
    tabletop,
    train,
)

_ON_PYPI = {"PIL": "pillow", "cv2": "opencv-python-headless", "ml_dtypes": "ml-dtypes", "yaml": "pyyaml"}
"""Packages that are installed under another name than they are imported by."""

app = typer.Typer(
    name="penguin-vl",
    help="A vision-language model for ROS 2 robots.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("ask")(ask.ask)
app.command("parity")(parity.parity)
app.command("node")(ros.node)
app.command("replay")(ros.replay)
app.command("sim-camera")(ros.sim_camera)
app.command("pull")(pull.pull)
app.command("export")(export.export)
app.command("build")(build.build)
app.command("quantize")(quantize.quantize)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
bench.app.command("soak")(soak.soak)
app.command("train")(train.train)
app.add_typer(prepare.app, name="prepare")
app.add_typer(bench.app, name="bench")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(tabletop.app, name="tabletop")


def main() -> None:
    """Entry point of the `penguin-vl` executable."""
    try:
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
