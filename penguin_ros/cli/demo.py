"""`penguin-vl demo`: the real graph on this machine. A live simulated camera or a bag, and the node, which is asked."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from penguin_models.errors import PenguinError
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.shipped import BAG, MODEL, require_shipped

if TYPE_CHECKING:
    from penguin_ros.tools.demo_client import DemoClient

_LIVE_TOPIC, _BAG_TOPIC = "/sim_camera/image_raw", "/camera/image_raw/compressed"
_BEFORE_S = 52.0
"""For start-up and for the end, besides the time of the demo itself."""
_ENDING_S = 6.0
"""A process may take so long to end, which is more than the node ever needs; all in all less than 90 s."""
_SETTINGS = {
    "sample_rate_hz": 2.0,
    "token_budget": 512,
    "caption.prompt": "Describe the picture and give the box of each object.",
    "caption.period_s": 3.0,
    "caption.max_new_tokens": 160,
}


class DemoError(PenguinError):
    """A process of the demo failed."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures with their objects.")] = Path("build/demo"),
    model: Annotated[Path, typer.Option(help="Checkpoint; the one that ships if not given.")] = MODEL,
    bag: Annotated[
        bool,
        typer.Option("--bag", help="Replay the bag that ships instead, as without PyBullet; nothing is scored then."),
    ] = False,
    seconds: Annotated[float, typer.Option(help="How long the live table-top is watched.", min=5.0, max=3600.0)] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the live table-top.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Let the node watch a live simulated table-top, ask it over the service and the action, and score what it says."""
    require_ros()
    require_shipped(model, BAG)
    # A domain of its own: neither robots on this network nor a second demo hear it.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    if not bag and importlib.util.find_spec("pybullet") is None:
        bag = True
        stderr.out("PyBullet is not installed (it has wheels for Python 3.10 and 3.11): the bag is replayed instead")
    if bag:
        source = ["replay", str(BAG), "--rate", "0.5", "--wait", "60"]
    else:
        source = ["sim-camera", "--seed", str(seed), "--width", "168", "--height", "168", "--rate", "5"]
    result = _Demo(model, _BAG_TOPIC if bag else _LIVE_TOPIC, 0.0 if bag else seconds, as_json).run(source, out)
    if as_json:
        print_json(result)
        return
    stdout.print(_table(result))
    stdout.out(f"{len(result['pictures'])} pictures in {out}")


class _Demo:
    """The node, what it watches, and what it says. `seconds` is 0 for a bag, which ends by itself."""

    def __init__(self, model: Path, topic: str, seconds: float, quiet: bool):
        from penguin_ros.tools.demo_client import DemoClient

        self._model, self._topic, self._seconds, self._quiet = model, topic, seconds, quiet
        self._deadline_s = monotonic() + _BEFORE_S + seconds
        truth = "/sim_camera/truth" if seconds else None
        self._client: DemoClient = DemoClient("/penguin", topic, truth, self._show)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, source: list[str], out: Path) -> dict[str, Any]:
        """Plays it to its end."""
        from penguin_ros.tools.demo_client import check_diagnostics

        settings = [part for name, value in _SETTINGS.items() for part in ("--set", f"{name}={value}")]
        node = ["node", "--model", str(self._model), "--image-topic", self._topic, "--log-level", "warn", *settings]
        client = self._client
        try:
            with _process(*node) as robot, _process(*source) as camera:
                self._processes = {"node": robot, source[0]: camera}
                self._wait("a caption", lambda: client.captions)
                end_s = monotonic() + self._seconds
                answers = self._ask()
                if self._seconds:
                    self._wait("the end of its time", lambda: monotonic() >= end_s)
                else:
                    self._wait("the end of the bag", lambda: camera.poll() == 0)
                self._wait("three captions, pictures", lambda: min(self._captions(), len(client.pictures)) >= 3)
                seen = client.statuses
                self._wait("new diagnostics", lambda: client.statuses is not seen)
                check_diagnostics(client.statuses, "penguin", self._topic)
                result = self._result(answers, out)
        finally:
            client.close()
        self._check_processes()
        return result

    def _captions(self) -> int:
        """How many there are to show: on the live table-top, with a score."""
        return self._client.compared if self._client.score else len(self._client.captions)

    def _ask(self) -> list[dict[str, Any]]:
        """Questions in turn over the service and the action."""
        client, answers = self._client, []
        questions = client.score.questions() if client.score else ["What is on the table?", "What happened?"]
        for number, question in enumerate(questions):
            by_action = number % 2 == 1
            self._say(f"\n{'action' if by_action else 'service'}: {question}")
            if by_action:
                self._say("  ", end="")
                answer = client.stream(question, 64, lambda piece: self._say(piece, end=""), self._deadline_s)
                self._say("")
            else:
                answer = client.ask(question, 64, self._deadline_s)
                self._say(f"  {answer['answer']}")
            if answer["right"] is not None:
                self._say(f"  {'right' if answer['right'] else 'wrong'}")
            answers.append(answer | {"question": question, "by": "action" if by_action else "service"})
        self._say("")
        return answers

    def _show(self, caption: Any, truth: Any) -> None:
        kind = "key frame" if caption.key_frame else "frame"
        self._say(f"[{kind} {caption.header.stamp.sec}.{caption.header.stamp.nanosec // 10**8}] {caption.text}")
        self._say(f"  says:  {_named(caption.objects)}")
        if truth is not None:
            self._say(f"  truth: {_named(truth.objects)}")

    def _say(self, text: str, end: str = "\n") -> None:
        if not self._quiet:
            stdout.out(text, end=end)

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        self._client.wait_for(what, lambda: condition() or self._failed(), self._deadline_s)
        self._check_processes()

    def _failed(self) -> dict[str, int]:
        """Exit codes of the processes that failed, by name."""
        return {name: code for name, process in self._processes.items() if (code := process.poll())}

    def _check_processes(self) -> None:
        for name, code in self._failed().items():
            raise DemoError(f"the demo's {name} failed with exit code {code}; see above")

    def _result(self, answers: list[dict[str, Any]], out: Path) -> dict[str, Any]:
        client = self._client
        values = {item.key: item.value for item in client.statuses[f"penguin: {self._topic}"].values}
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"caption_{number}.jpg" for number in range(len(client.pictures))]
        for path, picture in zip(paths, client.pictures, strict=True):
            path.write_bytes(picture)
        scores = client.score.summary() if client.score else {}
        return {
            "model": str(self._model),
            "frames_in": int(values["images"]),
            "key_frames": int(values["key frames"]),
            "tokens_held": int(values["memory [tokens]"]),
            "token_budget": int(values["memory budget [tokens]"]),
            "captions": len(client.captions),
            "caption_seconds": [{"first_token": c.first_token_s, "total": c.total_s} for c in client.captions],
            "answers": answers,
            "scores": {name: {"title": s.title, "value": s.value, "of": s.answers} for name, s in scores.items()},
            "pictures": [str(path) for path in paths],
        }


def _named(objects: Any) -> str:
    return ", ".join(
        f"{o.label} ({o.x_min_px:.0f}, {o.y_min_px:.0f}, {o.x_max_px:.0f}, {o.y_max_px:.0f})" for o in objects
    )


def _table(result: dict[str, Any]) -> Table:
    table = Table("what", "measured")
    for key in ("frames_in", "key_frames", "captions"):
        table.add_row(key.replace("_", " "), str(result[key]))
    table.add_row("tokens held", f"{result['tokens_held']} of {result['token_budget']}")
    times = {"captions": result["caption_seconds"]}
    for way in ("service", "action"):
        times[f"answers by {way}"] = [answer["seconds"] for answer in result["answers"] if answer["by"] == way]
    for name, seconds in times.items():
        if seconds:
            first, total = (sum(item[key] for item in seconds) / len(seconds) for key in ("first_token", "total"))
            table.add_row(f"{name}, mean", f"first token {first:.3f} s, total {total:.3f} s")
    for score in result["scores"].values():
        table.add_row(score["title"], f"{score['value']:.2f} (of {score['of']})")
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
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
