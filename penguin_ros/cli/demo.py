"""`penguin-vl demo`: runs a simulated camera or a bag and the node as processes, and asks the node questions."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from penguin_models.errors import PenguinError
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.shipped import BAG, DEMO_PARAMETERS, MODEL, require_shipped

if TYPE_CHECKING:
    from penguin_ros.tools.demo_client import DemoClient

_LIVE_TOPIC, _BAG_TOPIC = "/sim_camera/image_raw", "/camera/image_raw/compressed"
_OVERHEAD_S = 52.0
"""Limit for start-up and shutdown, in addition to the time of the demo itself."""
_ENDING_S = 6.0
"""Limit for a process to end; the node needs less, and the whole demo stays below 90 s."""
_MAX_NEW_TOKENS = 64


class DemoError(PenguinError):
    """A process of the demo failed."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the annotated pictures.")] = Path("build/demo"),
    model: Annotated[Path, typer.Option(help="Checkpoint folder. [default: penguin-tiny]", show_default=False)] = MODEL,
    bag: Annotated[bool, typer.Option("--bag", help="Replay the bag that ships; it has no ground truth.")] = False,
    seconds: Annotated[float, typer.Option(help="Duration of the live table-top.", min=5.0, max=3600.0)] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Run the node on a live simulated table-top, ask it over the service and the action, and score its answers."""
    require_ros()
    require_shipped(model, BAG)
    # A domain of its own: robots on this network and other demos on this machine do not hear it.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    if not bag and importlib.util.find_spec("pybullet") is None:
        bag = True
        stderr.out("PyBullet is not installed (it has wheels for Python 3.10 and 3.11): the bag is replayed instead")
    source = ["sim-camera", "--width", "168", "--height", "168", "--rate", "5"]
    if bag:
        source = ["replay", str(BAG), "--rate", "0.5", "--wait", "60"]
    result = _Demo(model, _BAG_TOPIC if bag else _LIVE_TOPIC, 0.0 if bag else seconds, as_json).run(source, out)
    if as_json:
        print_json(result)
        return
    stdout.print(_table(result))
    stdout.out(f"{len(result['pictures'])} pictures in {out}")


class _Demo:
    """One run of the demo; `seconds` is 0 for a bag, which ends by itself."""

    def __init__(self, model: Path, topic: str, seconds: float, quiet: bool):
        from penguin_ros.tools.demo_client import DemoClient

        self._model, self._topic, self._seconds, self._quiet = model, topic, seconds, quiet
        self._deadline_s = monotonic() + _OVERHEAD_S + seconds
        truth_topic = "/sim_camera/truth" if seconds else None
        self._client: DemoClient = DemoClient("/penguin", topic, truth_topic, self._show_caption)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, source: list[str], out: Path) -> dict[str, Any]:
        """Runs the source and the node until the source ends, and returns the results."""
        from penguin_ros.tools.demo_client import check_diagnostics

        client = self._client
        node = ["node", "--model", str(self._model), "--image-topic", self._topic, "--log-level", "warn"]
        try:
            with _process(*node, "--params-file", str(DEMO_PARAMETERS)) as robot, _process(*source) as camera:
                self._processes = {"node": robot, source[0]: camera}
                self._wait("a caption", lambda: client.captions)
                end_s = monotonic() + self._seconds
                answers = self._ask()
                if self._seconds:
                    self._wait("the end of its time", lambda: monotonic() >= end_s)
                else:
                    self._wait("the end of the bag", lambda: camera.poll() == 0)
                self._wait("captions and pictures", self._has_enough_captions)
                seen = client.statuses
                self._wait("new diagnostics", lambda: client.statuses is not seen)
                check_diagnostics(client.statuses, "penguin", self._topic)
                result = self._result(answers, out)
        finally:
            client.close()
        self._check_processes()
        return result

    def _has_enough_captions(self) -> bool:
        pictures = len(self._client.pictures)
        return min(self._client.compared, pictures) >= 3 if self._client.score else pictures >= 1

    def _ask(self) -> list[dict[str, Any]]:
        """Asks questions over the service and the action alternately."""
        client, answers = self._client, []
        questions = client.score.questions() if client.score else ["What is on the table?", "What happened?"]
        for number, question in enumerate(questions):
            by = ("service", "action")[number % 2]
            self._say(f"\n{by}: {question}\n  ", end="")
            if by == "action":
                show = partial(self._say, end="")
                answer = client.stream(question, _MAX_NEW_TOKENS, show, self._deadline_s)
            else:
                answer = client.ask(question, _MAX_NEW_TOKENS, self._deadline_s)
                self._say(answer["answer"], end="")
            self._say({None: "", True: "\n  right", False: "\n  wrong"}[answer["right"]])
            answers.append(answer | {"question": question, "by": by})
        self._say("")
        return answers

    def _show_caption(self, caption: Any, truth: Any) -> None:
        kind = "keyframe" if caption.keyframe else "frame"
        self._say(f"[{kind} {caption.header.stamp.sec}.{caption.header.stamp.nanosec // 10**8}] {caption.text}")
        self._say(f"  model: {_boxes(caption.objects)}")
        if truth is not None:
            self._say(f"  truth: {_boxes(truth.objects)}")

    def _say(self, text: str, end: str = "\n") -> None:
        if not self._quiet:
            stdout.out(text, end=end)

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        self._client.wait_for(what, lambda: condition() or self._failed(), self._deadline_s)
        self._check_processes()

    def _failed(self) -> dict[str, int]:
        """Returns the exit codes of the processes that failed, by name."""
        return {name: code for name, process in self._processes.items() if (code := process.poll())}

    def _check_processes(self) -> None:
        if failed := self._failed():
            name, code = next(iter(failed.items()))
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
            "keyframes": int(values["keyframes"]),
            "tokens_held": int(values["memory [tokens]"]),
            "token_budget": int(values["memory budget [tokens]"]),
            "captions": len(client.captions),
            "caption_seconds": [{"first_token": c.first_token_s, "total": c.total_s} for c in client.captions],
            "answers": answers,
            "scores": {name: {"title": s.title, "value": s.value, "of": s.answers} for name, s in scores.items()},
            "pictures": [str(path) for path in paths],
        }


def _boxes(objects: Any) -> str:
    return ", ".join(
        f"{o.label} ({o.x_min_px:.0f}, {o.y_min_px:.0f}, {o.x_max_px:.0f}, {o.y_max_px:.0f})" for o in objects
    )


def _table(result: dict[str, Any]) -> Table:
    table = Table("what", "measured")
    for title, key in (("frames in", "frames_in"), ("keyframes", "keyframes"), ("captions", "captions")):
        table.add_row(title, str(result[key]))
    table.add_row("tokens held", f"{result['tokens_held']} of {result['token_budget']}")
    times = {"captions": result["caption_seconds"]}
    for by in ("service", "action"):
        times[f"answers by {by}"] = [answer["seconds"] for answer in result["answers"] if answer["by"] == by]
    for name, seconds in times.items():
        if seconds:
            first, total = (sum(item[key] for item in seconds) / len(seconds) for key in ("first_token", "total"))
            table.add_row(f"{name}, mean", f"first token {first:.3f} s, total {total:.3f} s")
    for score in result["scores"].values():
        table.add_row(score["title"], f"{score['value']:.2f} (of {score['of']})")
    return table


@contextmanager
def _process(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a `penguin-vl` command in a process of its own, which ends with the block."""
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
