"""`penguin-vl ask --node`: questions to a running node."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any
from uuid import uuid4

import typer

from penguin_models.grounding import parse
from penguin_ros.cli.chat import converse, print_turns
from penguin_ros.cli.episodes import parse_time, time_text
from penguin_ros.cli.output import print_json, stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.stopping import stopping_like_ctrl_c

_MAX_STAMP_NS = 2**31 * 10**9


def ask_running(
    node: str,
    question: str,
    cameras: Sequence[str],
    horizon_s: float,
    window: tuple[str | None, str | None],
    max_new_tokens: int | None,
    as_json: bool,
    schema: str = "",
    is_chat: bool = False,
) -> None:
    """Asks a node over its action; prints the answer as it arrives, then its objects and time ranges.

    rclpy's client drops feedback that it has not read when the goal finishes. If pieces of the answer were lost, the
    whole answer is printed after them. A chat asks further questions of one conversation.
    """
    since_ns, until_ns = (_stamp_ns(text, name) for text, name in zip(window, ("--since", "--until"), strict=True))
    require_ros()
    from penguin_ros.tools.ask_client import AskClient

    conversation = uuid4().hex if is_chat else ""

    def answer(text: str) -> None:
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            if not as_json:
                stdout.out(piece, end="")

        result = client.ask(
            text, cameras, horizon_s, max_new_tokens or 0, show, since_ns, until_ns, conversation, schema
        )
        if as_json:
            print_json({"question": text, **result} if is_chat else result)
        else:
            _print(result, "".join(pieces))

    with stopping_like_ctrl_c(), closing(AskClient(node)) as client:
        if is_chat:
            converse(question, answer, as_json)
        else:
            answer(question)


def _print(result: dict[str, Any], streamed: str) -> None:
    """Prints what follows an answer, and the answer itself if it was not streamed completely."""
    stdout.out("\n")
    if result["answer"].strip() not in (streamed.strip(), parse(streamed).text.strip()):
        stdout.out(result["answer"])
    for item in result["objects"]:
        stdout.out("  {}: ({:.0f}, {:.0f}) to ({:.0f}, {:.0f}) px".format(item["label"], *item["box_px"]))
    for span in result["time_ranges"]:
        stdout.out(f"  from {span['start_s']:.2f} to {span['end_s']:.2f} (stamps in seconds)")
    for shown in result["evidence"]:
        stdout.out(f"  {_evidence(shown)}")
    print_turns(result)
    seconds = result["seconds"]
    stdout.out(
        f"{result['camera']}: {result['frames']} frames, {result['tokens']['visual']} visual tokens; waited "
        f"{seconds['queue']:.2f} s, first token {seconds['first_token']:.2f} s, total {seconds['total']:.2f} s"
    )


def _stamp_ns(text: str | None, option: str) -> int | None:
    """Returns a time that fits into a message; raises BadParameter if it does not."""
    stamp_ns = parse_time(text, option)
    if stamp_ns is not None and not 0 < stamp_ns < _MAX_STAMP_NS:
        raise typer.BadParameter(f"{text!r} is not after 1970 and before 2038, the range of stamps", param_hint=option)
    return stamp_ns


def _evidence(shown: dict[str, Any]) -> str:
    probability = "not judged" if shown["probability"] is None else f"helps with probability {shown['probability']:.2f}"
    pose = shown["pose"]
    place = "" if pose is None else " at ({:.2f}, {:.2f}, {:.2f}) m in {}".format(*pose["position"], pose["frame_id"])
    time = time_text(round(shown["stamp"] * 1e9))
    return f"episode {shown['episode']}, {time} UTC, {shown['camera']}{place}: {probability}"
