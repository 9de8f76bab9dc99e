#!/usr/bin/env python3
"""Asks the node a question and prints the answer: python3 ask.py "Where is the red mug?"

Uses the service ~/ask, whose answer is sent when it is complete. `--ros-args -r __ns:=/robot_1` after the question asks
the node /robot_1/penguin.
"""

import sys

import rclpy
from penguin_vl.srv import Ask
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args


def main() -> str | None:
    """Returns why there is no answer, or None if there is one."""
    question = " ".join(remove_ros_args(sys.argv)[1:]) or "What do you see?"
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is a KeyboardInterrupt
    node = rclpy.create_node("ask_client")
    client = node.create_client(Ask, "penguin/ask")
    if not client.wait_for_service(timeout_sec=10.0):
        return f"no node serves {node.resolve_service_name('penguin/ask')}"
    future = client.call_async(Ask.Request(question=question))
    rclpy.spin_until_future_complete(node, future, timeout_sec=60.0)
    if not future.done():
        return "no answer within 60 s"
    answer = future.result().answer
    if answer.error_code != answer.ERROR_NONE:
        return f"error {answer.error_code}: {answer.error_msg}"
    print(answer.text)
    for box in answer.objects:
        print(f"  {box.label}: x {box.x_min_px:.0f}-{box.x_max_px:.0f}, y {box.y_min_px:.0f}-{box.y_max_px:.0f} px")
    return None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
