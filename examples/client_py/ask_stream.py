#!/usr/bin/env python3
"""Asks the node a question and prints the answer while it is generated: python3 ask_stream.py "What is on the table?"

Uses the action ~/ask_stream. Feedback may arrive after the result, so the answer is printed again when it is complete.
Ctrl-C cancels the goal, and the node stops between two tokens. `--ros-args -r __ns:=/robot_1` after
the question asks the node /robot_1/penguin.
"""

import sys

import rclpy
from penguin_vl.action import AskStream
from rclpy.action import ActionClient
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args


def main() -> str | None:
    """Returns why there is no answer, or None if there is one."""
    question = " ".join(remove_ros_args(sys.argv)[1:]) or "What do you see?"
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C cancels the goal first
    node = rclpy.create_node("ask_stream_client")
    client = ActionClient(node, AskStream, "penguin/ask_stream")
    if not client.wait_for_server(timeout_sec=10.0):
        return f"no node serves {node.resolve_service_name('penguin/ask_stream')}"
    goal = AskStream.Goal(question=question)
    sent = client.send_goal_async(goal, lambda message: print(message.feedback.text, end="", flush=True))
    rclpy.spin_until_future_complete(node, sent, timeout_sec=10.0)
    if not sent.done() or not sent.result().accepted:
        return "the node did not accept the goal within 10 s"
    finished = sent.result().get_result_async()
    try:
        rclpy.spin_until_future_complete(node, finished)
    except KeyboardInterrupt:
        sent.result().cancel_goal_async()
        rclpy.spin_until_future_complete(node, finished, timeout_sec=10.0)
    print(flush=True)
    if not finished.done():
        return "the node did not confirm the cancellation within 10 s"
    answer = finished.result().result.answer
    if answer.error_code != answer.ERROR_NONE:
        return f"error {answer.error_code}: {answer.error_msg}"
    print(f"answer ({answer.generated_tokens} tokens, the first after {answer.first_token_s:.2f} s): {answer.text}")
    return None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
