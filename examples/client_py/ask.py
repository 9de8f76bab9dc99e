#!/usr/bin/env python3
"""Asks the node a question and prints the answer: python3 ask.py "Where is the red mug?"

Uses the service ~/ask, whose answer is sent when it is complete. Other namespaces and names of the node:
`--ros-args -r penguin/ask:=/robot_1/penguin/ask`.
"""

import sys

import rclpy
from penguin_vl.srv import Ask
from rclpy.utilities import remove_ros_args


def main() -> int:
    """Returns the exit code: 0 if there is an answer."""
    question = " ".join(remove_ros_args(sys.argv)[1:]) or "What do you see?"
    rclpy.init(args=sys.argv)
    node = rclpy.create_node("ask_client")
    client = node.create_client(Ask, "penguin/ask")
    if not client.wait_for_service(timeout_sec=10.0):
        print(f"no node serves {client.srv_name}")
        return 1
    future = client.call_async(Ask.Request(question=question))
    rclpy.spin_until_future_complete(node, future, timeout_sec=60.0)
    if not future.done():
        print("no answer within 60 s")
        return 1
    answer = future.result().answer
    if answer.error_code != answer.ERROR_NONE:
        print(f"error {answer.error_code}: {answer.error_msg}")
        return 1
    print(answer.text)
    for box in answer.objects:
        print(f"  {box.label}: x {box.x_min_px:.0f}-{box.x_max_px:.0f}, y {box.y_min_px:.0f}-{box.y_max_px:.0f} px")
    return 0


if __name__ == "__main__":
    sys.exit(main())
