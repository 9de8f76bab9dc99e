#!/usr/bin/env python3
"""Asks the node a question and prints the answer while it is generated: python3 ask_stream.py "What is on the table?"

Uses the action ~/ask_stream. Ctrl-C cancels the goal, and the node stops between two tokens.
"""

import sys

import rclpy
from action_msgs.msg import GoalStatus
from penguin_vl.action import AskStream
from rclpy.action import ActionClient
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args


def main() -> int:
    """Returns the exit code: 0 if there is an answer."""
    question = " ".join(remove_ros_args(sys.argv)[1:]) or "What do you see?"
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C cancels the goal first
    node = rclpy.create_node("ask_stream_client")
    client = ActionClient(node, AskStream, "penguin/ask_stream")
    if not client.wait_for_server(timeout_sec=10.0):
        print("no node serves penguin/ask_stream")
        return 1
    goal = AskStream.Goal(question=question)
    sent = client.send_goal_async(goal, lambda message: print(message.feedback.text, end="", flush=True))
    rclpy.spin_until_future_complete(node, sent)
    handle = sent.result()
    if not handle.accepted:
        print("the node rejected the goal")
        return 1
    finished = handle.get_result_async()
    try:
        rclpy.spin_until_future_complete(node, finished)
    except KeyboardInterrupt:
        handle.cancel_goal_async()
        rclpy.spin_until_future_complete(node, finished, timeout_sec=10.0)
    print()
    if not finished.done() or finished.result().status != GoalStatus.STATUS_SUCCEEDED:
        print(finished.result().result.answer.error_msg if finished.done() else "the node did not confirm within 10 s")
        return 1
    answer = finished.result().result.answer
    print(f"{answer.generated_tokens} tokens, the first after {answer.first_token_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
