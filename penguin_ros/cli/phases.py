"""Progress of commands that take minutes, on a terminal or in a log."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TimeElapsedColumn

from penguin_ros.cli.output import stderr

_LINE_SHARE, _LINE_S = 0.1, 5.0
"""Least share of a phase and least time between two lines of its progress."""


class Phases:
    """Shows on standard error how far long work is, in phases: with a bar on a terminal, else with lines.

    A line is printed when a phase starts, and after each tenth of it that took at least 5 seconds.
    """

    def __init__(self) -> None:
        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._in_lines = not stderr.is_terminal or stderr.is_dumb_terminal
        self._bars = Progress(*columns, console=stderr, disable=self._in_lines)
        self._tasks: dict[str, TaskID] = {}
        self._shown = 0.0  # share of the phase at its last line
        self._start = self._shown_s = time.monotonic()

    def __enter__(self) -> Phases:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def show(self, phase: str, done: int, total: int) -> None:
        """Shows that `done` of a `total` of a phase is done; a phase begins when its name is first seen."""
        begins = phase not in self._tasks
        if begins:
            self._tasks[phase] = self._bars.add_task(phase, total=total)
        self._bars.update(self._tasks[phase], completed=done, total=total)
        if self._in_lines:
            self._line(phase, done / max(total, 1), begins)

    def _line(self, phase: str, share: float, begins: bool) -> None:
        now = time.monotonic()
        if not begins and (share - self._shown < _LINE_SHARE or now - self._shown_s < _LINE_S):
            return
        self._shown, self._shown_s = share, now
        stderr.out(f"progress: {phase}, {100 * share:.0f} % after {now - self._start:.0f} s")
