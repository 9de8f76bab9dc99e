"""The conditions that the console watches for: goals of the node's action, and how far each has got."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from penguin_vl.action import Watch
from penguin_vl.msg import Answer

from penguin_models.errors import PenguinError
from penguin_ros.console.events import alert_values
from penguin_ros.console.goals import Goal

_MAX_WATCHES = 16
StartGoal = Callable[[Any, Callable[[Any], None], Callable[[Any, str], None]], Goal]


class TooManyWatchesError(PenguinError):
    """There are as many watches as the console allows."""


class Watches:
    """Starts and stops watches; everything here happens in the executor's thread."""

    def __init__(self, start_goal: StartGoal, on_change: Callable[[Sequence[dict[str, Any]]], None]):
        """Starts with none; `start_goal` sends a goal, `on_change` gets the list whenever it changes."""
        self._start_goal, self._on_change = start_goal, on_change
        self._numbers = itertools.count(1)
        self._watches: dict[int, dict[str, Any]] = {}
        self._goals: dict[int, Goal] = {}

    def start(self, goal: Watch.Goal) -> None:
        """Watches for a condition.

        Raises:
            TooManyWatchesError: There are too many.
        """
        if len(self._watches) >= _MAX_WATCHES:
            raise TooManyWatchesError(f"there are {_MAX_WATCHES} watches, the limit: remove one first")
        number = next(self._numbers)
        self._watches[number] = {
            "id": number,
            "condition": goal.condition,
            "threshold": goal.threshold or 0.5,
            "hold_s": goal.hold_s,
            "state": "watching",
            "error": "",
            "judged": 0,
            "holds": False,
            "alert": None,
        }
        self._goals[number] = self._start_goal(
            goal,
            lambda feedback: self._update(number, {"holds": feedback.holds}, feedback),
            lambda result, reason: self._on_end(number, result, reason),
        )
        self._on_change(self.snapshot())

    def stop(self, number: int) -> None:
        """Cancels a watch, or removes one that has ended; does nothing if there is none of this number."""
        watch, goal = self._watches.get(number), self._goals.get(number)
        if watch is None or goal is None:
            return
        goal.cancel()
        if watch["state"] != "watching":
            del self._watches[number], self._goals[number]
            self._on_change(self.snapshot())

    def snapshot(self) -> Sequence[dict[str, Any]]:
        """Returns what is known of each watch, in the order of their start."""
        return [dict(watch) for watch in self._watches.values()]

    def _update(self, number: int, values: dict[str, Any], seen: Any = None) -> None:
        """Takes over values, and what a feedback or result says about the newest judgement."""
        if number not in self._watches:
            return
        if seen is not None:
            values = values | {"judged": seen.judged, "alert": alert_values(seen.alert) if seen.judged else None}
        self._watches[number].update(values)
        self._on_change(self.snapshot())

    def _on_end(self, number: int, result: Any, reason: str) -> None:
        if result is None:
            self._update(number, {"state": "failed", "error": reason, "holds": False})
        elif result.error_code == Answer.ERROR_NONE:
            self._update(number, {"state": "alert", "holds": True}, result)
        elif result.error_code == Answer.ERROR_CANCELLED:
            self._update(number, {"state": "stopped", "holds": False}, result)
        else:
            self._update(number, {"state": "failed", "error": result.error_msg, "holds": False}, result)
