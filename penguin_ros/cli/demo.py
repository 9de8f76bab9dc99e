"""`penguin-vl demo`: the real graph on this machine. A shipped bag is replayed into the node, which is then asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.table import Table

from penguin_models.errors import MediaError
from penguin_ros.cli.output import JsonOption, print_json, stdout
from penguin_ros.cli.ros import require_ros

_ROOT = Path(__file__).resolve().parents[2]
_MODEL = _ROOT / "tests" / "data" / "reference" / "checkpoint"
_BAG = _ROOT / "launch" / "bags" / "tabletop"
_TOPIC = "/camera/image_raw/compressed"
_LONGEST_S = 80.0
_UNTRAINED = (
    "The weights of this demo are UNTRAINED (a 0.7 M-parameter random checkpoint that pins the arithmetic):\n"
    "what it says is noise by design. What is real: the camera stream over DDS, key frames, memory, timings.\n"
)
_SETTINGS = {"sample_rate_hz": 4.0, "token_budget": 1024, "caption.max_new_tokens": 24}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures with their objects.")] = Path("build/demo"),
    as_json: JsonOption = False,
) -> None:
    """Replay a shipped bag into the node, show its captions, and ask it over the service and the action."""
    require_ros()
    if not _BAG.is_dir() or not _MODEL.is_dir():
        raise MediaError(f"the demo's files are not below {_ROOT}; run it from a clone of the repository (make demo)")
    # A domain of its own: neither robots on this network nor a second demo hear it.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    result = _run(out, quiet=as_json)
    if as_json:
        print_json(result)
        return
    stdout.print(_table(result))
    stdout.out(f"{len(result['pictures'])} pictures in {out}")


def _run(out: Path, quiet: bool) -> dict[str, Any]:
    from penguin_ros.nodes.demo_client import DemoClient

    def say(text: str, end: str = "\n") -> None:
        if not quiet:
            stdout.out(text, end=end)

    def show(caption: Any) -> None:
        objects = ", ".join(
            f"{o.label} ({o.x_min_px:.0f}, {o.y_min_px:.0f}, {o.x_max_px:.0f}, {o.y_max_px:.0f})"
            for o in caption.objects
        )
        kind = "key frame" if caption.key_frame else "frame"
        say(f"[{kind} {caption.header.stamp.sec}.{caption.header.stamp.nanosec // 10**8}] {caption.text!r} {objects}")

    say(_UNTRAINED)
    deadline_s = monotonic() + _LONGEST_S
    settings = [part for name, value in _SETTINGS.items() for part in ("--set", f"{name}={value}")]
    node = ["node", "--model", str(_MODEL), "--image-topic", _TOPIC, "--log-level", "warn", *settings]
    client = DemoClient("/penguin", show)
    try:
        with _process(*node) as robot, _process("replay", str(_BAG), "--rate", "0.5", "--wait", "60") as player:

            def wait_for(what: str, condition: Callable[[], object]) -> None:
                client.wait_for(what, lambda: condition() or robot.poll() or player.poll(), deadline_s)
                for name, process in (("node", robot), ("replay", player)):
                    if process.poll():
                        raise MediaError(f"the demo's {name} failed with exit code {process.returncode}; see above")

            wait_for("a caption", lambda: client.captions)
            say("\nservice: What is on the table?")
            by_service = client.ask("What is on the table?", 24, deadline_s)
            say(f"  {by_service['answer']!r}\n\naction: What happened?\n  ", end="")
            by_action = client.stream("What happened?", 24, lambda piece: say(piece, end=""), deadline_s)
            say("\n")
            wait_for("the end of the bag", lambda: player.poll() == 0)
            wait_for("three captions and their pictures", lambda: min(len(client.captions), len(client.pictures)) >= 3)
            seen = client.statuses
            wait_for("new diagnostics", lambda: client.statuses is not seen)
            return _result(client, client.statuses[f"penguin: {_TOPIC}"], (by_service, by_action), out)
    finally:
        client.close()


def _result(client: Any, status: Any, answers: tuple[dict[str, Any], ...], out: Path) -> dict[str, Any]:
    values = {item.key: item.value for item in status.values}
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"caption_{number}.jpg" for number in range(len(client.pictures))]
    for path, picture in zip(paths, client.pictures, strict=True):
        path.write_bytes(picture)
    return {
        "weights": "untrained",
        "frames_in": int(values["images"]),
        "key_frames": int(values["key frames"]),
        "tokens_held": int(values["memory [tokens]"]),
        "token_budget": int(values["memory budget [tokens]"]),
        "captions": len(client.captions),
        "caption_seconds": [{"first_token": c.first_token_s, "total": c.total_s} for c in client.captions],
        "service": answers[0],
        "action": answers[1],
        "pictures": [str(path) for path in paths],
    }


def _table(result: dict[str, Any]) -> Table:
    table = Table("what", "measured")
    for key in ("frames_in", "key_frames", "captions"):
        table.add_row(key.replace("_", " "), str(result[key]))
    table.add_row("tokens held", f"{result['tokens_held']} of {result['token_budget']}")
    times = result["caption_seconds"]
    rows = {
        "captions, mean": {key: sum(t[key] for t in times) / len(times) for key in ("first_token", "total")},
        "answer by service": result["service"]["seconds"],
        "answer by action": result["action"]["seconds"],
    }
    for name, seconds in rows.items():
        table.add_row(name, f"first token {seconds['first_token']:.3f} s, total {seconds['total']:.3f} s")
    return table


@contextmanager
def _process(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours beside this one; ended when the demo ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penguin_ros.cli.main", *args], stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
