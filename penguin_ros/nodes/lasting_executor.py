"""An executor that continues when a callback raises: no message or request may end a node.

rclpy raises what a callback raised out of `spin_once`, also for its own callbacks: a parameter of an unknown type or a
negative time on `/clock` would end the process.
"""

from __future__ import annotations

import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import ConditionReachedException, ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.node import Node
from rclpy.task import Task

from penguin_models.quoting import shortened

_SUMMARY_PERIOD_S = 60.0
_PACKAGE = str(Path(__file__).parents[1])


class ThrottledLog:
    """Logs the first message of each kind at once, and later how many more there were, at most once a minute."""

    def __init__(self, node: Node):
        """Starts the timer of the summaries."""
        self._logger = node.get_logger()
        self._kinds: set[str] = set()
        self._untold: Counter[str] = Counter()
        node.create_timer(_SUMMARY_PERIOD_S, self._summarise, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def warning(self, kind: str, text: Callable[[], str]) -> None:
        """Logs a message, or counts it if its kind was logged before; the number of kinds must be limited."""
        if kind in self._kinds:
            self._untold[kind] += 1
        else:
            self._kinds.add(kind)
            self._logger.warning(f"{text()} (further ones are counted, and summed up once a minute)")

    def _summarise(self) -> None:
        for kind, count in self._untold.items():
            self._logger.warning(f"{kind}: {count} more in the last {_SUMMARY_PERIOD_S:.0f} s")
        self._untold.clear()


class LastingExecutor(SingleThreadedExecutor):  # type: ignore[misc, unused-ignore]
    """Runs one node; what its callbacks raise is logged and counted.

    It still raises what makes further work impossible: a failure to wait, for example because ROS was shut down.

    Attributes:
        errors: Number of exceptions.
        newest_error: The last exception and where it came from; "" if there was none.
    """

    def __init__(self, node: Node):
        """Creates the executor of a node."""
        super().__init__()
        self.errors, self.newest_error = 0, ""
        self._closing = threading.Lock()
        self._log = ThrottledLog(node)
        self.add_node(node)
        for service in node.services:
            if service.srv_name.endswith("/get_type_description"):
                service.callback = partial(_describe_type, service.callback)

    def create_task(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Adds a task, from any thread; after `shutdown` it is never run, where rclpy would raise an AttributeError."""
        with self._closing:
            if self._guard is None:
                return Task(callback, args, kwargs, executor=self)
            return super().create_task(callback, *args, **kwargs)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Ends the executor."""
        with self._closing:
            return bool(super().shutdown(timeout_sec))

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits for one callback and runs it."""
        try:
            handler, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, TimeoutException, ConditionReachedException):
            return
        handler()
        error = handler.exception()
        if error is not None:
            self._note(entity, error)

    def _make_handler(self, entity: Any, node: Node, take: Callable[[Any], Any], *more: Any) -> Task:
        """Guards the reading of a message or request.

        In rclpy 7.1.5, one that cannot be read would block all callbacks of its group for ever.
        """

        def take_safely(entity: Any) -> Any:
            try:
                return take(entity)
            except Exception as err:  # noqa: BLE001 - the message is lost, the node continues
                self._note(entity, err)
                return None

        return super()._make_handler(entity, node, take_safely, *more)

    def _note(self, entity: Any, error: BaseException) -> None:
        kind = f"{_name_of(entity)}: {type(error).__name__}"
        self.errors += 1
        self.newest_error = f"{kind}: {shortened(str(error))}"
        self._log.warning(kind, lambda: f"{self.newest_error}{_origin_of(error)}")


def _describe_type(answer: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
    """Refuses an invalid hash, for each of which rcl 9.2.8 would log a dozen lines."""
    if re.fullmatch(r"RIHS01_[0-9a-f]{64}", request.type_hash):
        return answer(request, response)
    response.failure_reason = "type_hash must be RIHS01_ and 64 hexadecimal digits"
    return response


def _name_of(entity: Any) -> str:
    """Returns a name for what was executed: the kind and the topic or service, or the callback; a task has neither."""
    if entity is None:
        return "task"
    callback = getattr(entity, "callback", None)
    names = (getattr(entity, "topic_name", None), getattr(entity, "srv_name", None), getattr(callback, "__name__", ""))
    return f"{type(entity).__name__.lower()} {next(filter(None, names), '')}".rstrip()


def _origin_of(error: BaseException) -> str:
    """Returns the traceback if code of this package raised, else only where rclpy did: its reason is the message."""
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.filename.startswith(_PACKAGE) and frame.filename != __file__ for frame in frames):
        return "\n" + "".join(traceback.format_exception(error))
    return f" ({'/'.join(Path(frames[-1].filename).parts[-2:])}, line {frames[-1].lineno})" if frames else ""
