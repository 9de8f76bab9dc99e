"""Commands that need ROS: `penguin-vl node`, `penguin-vl replay` and `penguin-vl sim-camera`."""

from __future__ import annotations

import importlib.util
import json
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_models.errors import PenguinError
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout


class NoRosError(PenguinError):
    """A command needs ROS 2 and this shell does not have it."""


def require_ros() -> None:
    """Raises NoRosError where rclpy or the package's messages cannot be imported."""
    for module, remedy in (
        ("rclpy", "source /opt/ros/<distribution>/setup.bash, or run `make setup` and source install/setup.bash"),
        ("penguin_vl", "build this package with colcon and source install/setup.bash"),
    ):
        if importlib.util.find_spec(module) is None:
            raise NoRosError(f"this command needs ROS 2, and {module} cannot be imported: {remedy}")


def node(
    model: Annotated[str, typer.Option(help="Checkpoint folder, or owner/name on the model hub.")],
    image_topic: Annotated[
        list[str] | None, typer.Option(help="Image topic; may be given several times. [default: image_raw]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter (docs/parameters.md), as name=value.", metavar="NAME=VALUE"),
    ] = None,
    params_file: Annotated[Path | None, typer.Option(help="Parameters as YAML, in the form of ROS.")] = None,
    name: Annotated[str, typer.Option(help="Name of the node.")] = "penguin",
    namespace: Annotated[str, typer.Option(help="Namespace of the node.")] = "/",
    autostart: Annotated[bool, typer.Option(help="Configure and activate at once.")] = True,
    log_level: Annotated[str, typer.Option(help="debug, info, warn, error or fatal.")] = "info",
) -> None:
    """Run the lifecycle node until Ctrl-C, without `ros2`."""
    require_ros()
    from penguin_ros.nodes.vlm_main import main
    from penguin_ros.settings import SETTINGS

    known = [*(setting.name for setting in SETTINGS), "use_sim_time"]
    values = [f"model:={json.dumps(model)}", f"autostart:={str(autostart).lower()}"]
    if image_topic:
        values.append("image_topics:=[" + ", ".join(f"'{topic}'" for topic in image_topic) + "]")
    for item in set_ or []:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{item!r} is not name=value", param_hint="--set")
        if key not in known:  # ROS would ignore it without a word
            raise typer.BadParameter(f"there is no parameter {key}; there are {', '.join(known)}", param_hint="--set")
        values.append(f"{key}:={value}")
    if params_file is not None and not params_file.is_file():
        raise typer.BadParameter(f"{params_file} does not exist", param_hint="--params-file")
    args = ["penguin-vl", "--ros-args", "-r", f"__node:={name}", "-r", f"__ns:={namespace}", "--log-level", log_level]
    if params_file is not None:
        args += ["--params-file", str(params_file)]
    for value in values:
        args += ["-p", value]
    raise typer.Exit(main(args))


def replay(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or a single .mcap, .db3 or ROS 1 .bag file.")],
    topic: Annotated[list[str] | None, typer.Option(help="Image topic; all of them if not given.")] = None,
    rate: Annotated[float, typer.Option(help="Recorded seconds per second.", min=0.001, max=1000.0)] = 1.0,
    loop: Annotated[bool, typer.Option(help="Begin again at the end, until Ctrl-C.")] = False,
    start: Annotated[float, typer.Option(help="Begin so many seconds after the first image.", min=0.0)] = 0.0,
    clock: Annotated[bool, typer.Option(help="Publish the recorded time on /clock.")] = False,
    wait: Annotated[float, typer.Option(help="Wait at most so many seconds for a subscriber.", min=0.0)] = 0.0,
    remap: Annotated[list[str] | None, typer.Option(help="Rename a topic, as from:=to.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish the images of a recorded bag in the time of their recording, over DDS."""
    require_ros()
    from penguin_ros.tools.bag_player import Playback, Played, play

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    ros_args = [part for rule in remap or [] for part in ("-r", rule)]
    playback = Playback(rate, 0 if loop else 1, start, clock, wait)
    with stderr.status(f"playing {bag}") as status:

        def show(played: Played) -> None:
            status.update(f"playing {bag}: {played.messages} images, {played.seconds:.1f} s")

        played = play(bag, topic or [], playback, ["--ros-args", *ros_args] if ros_args else [], stop, show)
    result: dict[str, Any] = {
        "bag": str(bag),
        "images": played.messages,
        "late": played.late,
        "seconds": round(played.seconds, 3),
    }
    if as_json:
        print_json(result)
    else:
        stdout.out(f"{played.messages} images in {played.seconds:.1f} s, {played.late} of them late")


def sim_camera(
    seed: Annotated[int, typer.Option(help="The same seed shows the same.", min=0)] = 0,
    width: Annotated[int, typer.Option(help="Width of the images in pixels.", min=56)] = 320,
    height: Annotated[int, typer.Option(help="Height of the images in pixels.", min=56)] = 240,
    rate: Annotated[float, typer.Option(help="Images a second.", min=0.1, max=120.0)] = 10.0,
) -> None:
    """Publish a live simulated table-top on /sim_camera/image_raw, and the truth about it on /sim_camera/truth."""
    require_ros()
    from penguin_ros.tools.sim_camera import main

    values = {"seed": seed, "width": width, "height": height, "rate_hz": float(rate)}
    args = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    raise typer.Exit(main(["penguin-vl", "--ros-args", *args]))
