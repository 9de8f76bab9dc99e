"""What the middleware refuses, as one of the package's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.action.server import RCLError  # rclpy has no public name for it

from penguin_models.errors import PenguinError
from penguin_ros.nodes.context import without_places


class MiddlewareError(PenguinError):
    """The middleware refuses a node, topic or service, for example because its security does not allow it."""


@contextmanager
def middleware_errors() -> Iterator[None]:
    """Raises MiddlewareError for what the middleware refuses; also a decorator."""
    try:
        yield
    except RCLError as err:
        raise MiddlewareError(" ".join(without_places(str(err)).split())) from err
