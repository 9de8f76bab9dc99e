"""`penguin-vl ask --node`: a question to a running node."""

from __future__ import annotations

from collections.abc import Sequence

from penguin_models.grounding import parse
from penguin_ros.cli.output import print_json, stdout
from penguin_ros.cli.ros import require_ros
from penguin_ros.stopping import stopping_like_ctrl_c


def ask_running(
    node: str, question: str, cameras: Sequence[str], horizon_s: float, max_new_tokens: int | None, as_json: bool
) -> None:
    """Asks a node over its action; prints the answer as it arrives, then its objects and time ranges.

    rclpy's client drops feedback that it has not read when the goal finishes. If pieces of the answer were lost, the
    whole answer is printed after them.
    """
    require_ros()
    from penguin_ros.tools.ask_client import ask_node

    pieces: list[str] = []

    def show(piece: str) -> None:
        pieces.append(piece)
        if not as_json:
            stdout.out(piece, end="")

    with stopping_like_ctrl_c():
        result = ask_node(node, question, cameras, horizon_s, max_new_tokens or 0, show)
    if as_json:
        print_json(result)
        return
    stdout.out("\n")
    if parse("".join(pieces)).text.strip() != result["answer"].strip():
        stdout.out(result["answer"])
    for item in result["objects"]:
        stdout.out("  {}: ({:.0f}, {:.0f}) to ({:.0f}, {:.0f}) px".format(item["label"], *item["box_px"]))
    for span in result["time_ranges"]:
        stdout.out(f"  from {span['start_s']:.2f} to {span['end_s']:.2f} (stamps in seconds)")
    seconds = result["seconds"]
    stdout.out(
        f"{result['camera']}: {result['frames']} frames, {result['tokens']['visual']} visual tokens; waited "
        f"{seconds['queue']:.2f} s, first token {seconds['first_token']:.2f} s, total {seconds['total']:.2f} s"
    )
