"""Commands that need ROS: `penguin-vl node`, `penguin-vl replay` and `penguin-vl sim-camera`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated

import typer

from penguin_models.errors import PenguinError, SettingError
from penguin_ros.cli.output import JsonOption, print_json, print_note, stderr, stdout
from penguin_ros.stopping import stop_on_signals


class NoRosError(PenguinError):
    """A command needs ROS 2, which this shell does not have."""


def require_ros() -> None:
    """Raises NoRosError if rclpy or the package's messages cannot be imported."""
    for module, remedy in (
        ("rclpy", "source /opt/ros/<distribution>/setup.bash, or run `make setup` and source install/setup.bash"),
        ("penguin_vl", "build this package with colcon and source install/setup.bash"),
    ):
        if importlib.util.find_spec(module) is None:
            raise NoRosError(f"this command needs ROS 2, and {module} cannot be imported: {remedy}")


def node(
    model: Annotated[str, typer.Option(help="Checkpoint folder, or owner/name on the model hub.")],
    image_topic: Annotated[
        list[str] | None, typer.Option(help="Image topic; can be repeated. [default: image_raw]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Parameter (see docs/parameters.md); can be repeated.", metavar="NAME=VALUE"),
    ] = None,
    params_file: Annotated[
        Path | None, typer.Option(help="ROS parameter file (YAML).", exists=True, dir_okay=False)
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the node.")] = "penguin",
    namespace: Annotated[str, typer.Option(help="Namespace of the node.")] = "/",
    autostart: Annotated[bool, typer.Option(help="Configure and activate at once.")] = True,
    log_level: Annotated[str, typer.Option(help="debug, info, warn, error or fatal.")] = "info",
) -> None:
    """Run the lifecycle node until Ctrl-C, without `ros2`."""
    require_ros()
    from penguin_ros.nodes.vlm_main import run

    values = [f"model:={_quoted(model)}", f"autostart:={str(autostart).lower()}"]
    if image_topic:
        values.append(f"image_topics:={_quoted(image_topic)}")
    values += [_parameter_rule(item) for item in set_ or []]
    args = ["penguin-vl", "--ros-args", "-r", f"__node:={name}", "-r", f"__ns:={namespace}", "--log-level", log_level]
    if params_file is not None:
        args += ["--params-file", str(params_file)]
    for value in values:
        args += ["-p", value]
    run(args)


def _parameter_rule(item: str) -> str:
    """Converts NAME=VALUE to NAME:=VALUE, and refuses names that ROS would ignore silently."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from penguin_ros.settings import BY_NAME, unknown_parameter

    known = [*BY_NAME, "use_sim_time"]
    name, equals, value = item.partition("=")
    if not equals:
        raise typer.BadParameter(f"{item!r} is not name=value", param_hint="--set")
    if name not in known:
        reason = f"{unknown_parameter(name, known)} The parameters are: {', '.join(known)}"
        raise typer.BadParameter(reason, param_hint="--set")
    try:
        content = YAML(typ="safe").load(value)
    except YAMLError:
        content = None
    if name in BY_NAME and isinstance(BY_NAME[name].default, str):
        return f"{name}:={_quoted(content if isinstance(content, str) else value)}"
    if content is None or isinstance(content, dict):
        raise SettingError(f"{name} is {value!r}, which cannot be read as a number, a list or a string")
    return f"{name}:={value}"


def _quoted(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)  # YAML does not join the escapes of surrogates


def replay(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or a single .mcap, .db3 or ROS 1 .bag file.")],
    topic: Annotated[
        list[str] | None, typer.Option(help="Image topic; can be repeated. [default: all of the bag]")
    ] = None,
    rate: Annotated[float, typer.Option(help="Recorded seconds per second.", min=0.001, max=1000.0)] = 1.0,
    loop: Annotated[bool, typer.Option(help="Start again at the end, until Ctrl-C.")] = False,
    start: Annotated[float, typer.Option(help="Seconds to skip after the first image.", min=0.0)] = 0.0,
    clock: Annotated[bool, typer.Option(help="Publish the recorded time on /clock.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for subscribers; 0 does not wait.", min=0.0)] = 0.0,
    remap: Annotated[list[str] | None, typer.Option(help="Rename a topic, as from:=to.")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of topics without a leading slash.")] = "/",
    as_json: JsonOption = False,
) -> None:
    """Publish the images of a recorded bag at their recorded times, over DDS."""
    require_ros()
    from penguin_ros.tools.bag_player import Playback, Played, play

    stop = stop_on_signals()
    notes: list[str] = []
    playback = Playback(rate, 0 if loop else 1, start, clock, wait)
    with stderr.status(f"playing {bag}", spinner="line") as status:

        def show(played: Played) -> None:
            status.update(f"playing {bag}: {played.messages} images, {played.seconds:.1f} s")

        def note(text: str) -> None:
            notes.append(text)
            print_note(text)

        played = play(bag, topic or [], playback, remap or [], namespace, stop, show, note)
    if as_json:
        seconds = round(played.seconds, 3)
        print_json(
            {"bag": str(bag), "images": played.messages, "late": played.late, "seconds": seconds, "notes": notes}
        )
    else:
        stdout.out(f"{played.messages} images in {played.seconds:.1f} s, {played.late} of them late")


def sim_camera(
    seed: Annotated[int, typer.Option(help="Seed of the scene.", min=0)] = 0,
    width: Annotated[int, typer.Option(help="Width of the images in pixels.", min=56)] = 320,
    height: Annotated[int, typer.Option(help="Height of the images in pixels.", min=56)] = 240,
    rate: Annotated[float, typer.Option(help="Images per second.", min=0.1, max=120.0)] = 10.0,
) -> None:
    """Publish a live simulated table-top on /sim_camera/image_raw, and its ground truth on /sim_camera/truth."""
    require_ros()
    from penguin_ros.tools.sim_camera import main

    values = {"seed": seed, "width": width, "height": height, "rate_hz": float(rate)}
    args = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    raise typer.Exit(main(["penguin-vl", "--ros-args", *args]))
