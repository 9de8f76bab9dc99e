"""`penguin-vl demo`: plays a recording into the node, both as processes, and asks the node questions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import PenguinError
from penguin_models.grounding import GroundedObject
from penguin_ros.cli.output import JsonOption, print_json, stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.cli.subprocesses import node_arguments, running
from penguin_ros.shipped import BAG, CAMERA, DEMO_PARAMETERS, DEPTH_BAG, MODEL, TRUTH, require_shipped
from penguin_ros.stopping import stopping_like_ctrl_c

if TYPE_CHECKING:
    from penguin_ros.tools.demo_client import DemoClient

_TIMEOUT_S = 80.0
"""Limit for everything; the recording takes 20 s."""
_MAX_NEW_TOKENS = 64


class DemoError(PenguinError):
    """A process of the demo failed."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the annotated pictures.")] = Path("build/demo"),
    model: Annotated[Path, typer.Option(help="Checkpoint folder. [default: penguin-tiny]", show_default=False)] = MODEL,
    as_json: JsonOption = False,
) -> None:
    """Play a recording of the simulated table-top into the node, ask it over both interfaces, and score its answers."""
    require_ros()
    require_shipped(model, BAG)
    # A domain of its own: robots on this network and other demos on this machine do not hear it.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with stopping_like_ctrl_c():
        result = _Demo(model, as_json).run(out)
    if as_json:
        print_json(result)
        return
    stdout.print(_table(result))
    stdout.out(f"{len(result['pictures'])} pictures in {out}")


class _Demo:
    """One run of the demo."""

    def __init__(self, model: Path, quiet: bool):
        from penguin_ros.tools.demo_client import DemoClient, Recording

        self._model, self._quiet = model, quiet
        self._deadline_s = monotonic() + _TIMEOUT_S
        self._recording = Recording.open(BAG, CAMERA, TRUTH, DEPTH_BAG)
        self._client: DemoClient = DemoClient("/penguin", self._recording, self._show_caption)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, out: Path) -> dict[str, Any]:
        """Plays the recording into the node to its end, and returns the results."""
        from penguin_ros.evaluation.tabletop.depth_bag import DEPTH, INFO
        from penguin_ros.tools.demo_client import check_diagnostics

        client = self._client
        topics = [f"depth_topics=['{DEPTH}']", f"camera_info_topics=['{INFO}']"]
        node = node_arguments(str(self._model), [CAMERA], ["use_sim_time=true", *topics])
        node += ["--params-file", str(DEMO_PARAMETERS)]
        player = ["replay", str(BAG), "--clock", "--wait", "60"]
        try:
            with running(*node) as robot, running(*player) as camera:
                self._processes = {"node": robot, "player": camera}
                self._wait("a caption", lambda: client.captions)
                answers = self._ask()
                self._wait("the end of the recording", lambda: camera.poll() == 0)
                self._wait("a picture", lambda: client.pictures)
                seen = client.statuses
                self._wait("new diagnostics", lambda: client.statuses is not seen)
                check_diagnostics(client.statuses, "penguin", CAMERA)
                result = self._result(answers, out)
        finally:
            client.close()
        self._check_processes()
        return result

    def _ask(self) -> list[dict[str, Any]]:
        """Asks questions over the service and the action alternately."""
        client, answers = self._client, []
        for number, question in enumerate(client.questions()):
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

    def _show_caption(self, caption: Any, truth: Sequence[GroundedObject]) -> None:
        kind = "keyframe" if caption.keyframe else "frame"
        self._say(f"[{kind} {caption.header.stamp.sec}.{caption.header.stamp.nanosec // 10**8}] {caption.text}")
        size = self._recording.size
        objects = [(o.label, (o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px)) for o in caption.objects]
        self._say(f"  model: {_boxes(objects)}")
        self._say(f"  truth: {_boxes([(item.label, item.box.to_pixels(size)) for item in truth])}")

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
        values = {item.key: item.value for item in client.statuses[f"penguin: {CAMERA}"].values}
        paths = [out / f"caption_{number}.jpg" for number in range(len(client.pictures))]
        for path, picture in zip(paths, client.pictures, strict=True):
            with atomic_write(path, "wb") as file:
                file.write(picture)
        scores = client.score.summary()
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
            "position_error_cm": {"median": client.depth.median_cm, "of": len(client.depth.errors_cm)},
            "pictures": [str(path) for path in paths],
        }


def _boxes(objects: Iterable[tuple[str, Sequence[float]]]) -> str:
    return ", ".join(f"{label} ({', '.join(f'{side:.0f}' for side in box)})" for label, box in objects)


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
    error = result["position_error_cm"]
    value = "unknown" if error["median"] is None else f"{error['median']:.1f} cm"
    table.add_row("position error, median", f"{value} (of {error['of']})")
    return table
