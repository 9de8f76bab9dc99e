#!/usr/bin/env python3
"""Prints the captions that the node publishes, until Ctrl-C: python3 captions.py"""

from contextlib import suppress

import rclpy
from penguin_vl.msg import GroundedCaption
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


class CaptionPrinter(Node):
    """Prints every caption with the stamp of its frame and its objects."""

    def __init__(self) -> None:
        super().__init__("caption_printer")
        self.create_subscription(GroundedCaption, "penguin/captions", self._on_caption, 10)

    def _on_caption(self, caption: GroundedCaption) -> None:
        stamp = caption.header.stamp
        labels = ", ".join(box.label for box in caption.objects) or "no objects"
        print(f"{stamp.sec}.{stamp.nanosec:09d} {caption.camera}: {caption.text} ({labels})", flush=True)


def main() -> None:
    """Runs the printer."""
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(CaptionPrinter())


if __name__ == "__main__":
    main()
