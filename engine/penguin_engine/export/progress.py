"""Progress of work that takes minutes, in phases; who shows it is up to the caller."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a phase, how much of it is done, and its total; the first call has nothing done."""


def silent(phase: str, done: int, total: int) -> None:
    """Shows nothing."""


class Phase:
    """Counts what is done of one phase, up to its total."""

    def __init__(self, show: Progress, name: str, total: int):
        self._show, self._name, self._total = show, name, total
        self._done = 0
        show(name, 0, total)

    def add(self, count: int = 1) -> None:
        """Adds to what is done."""
        self._done = min(self._done + count, self._total)
        self._show(self._name, self._done, self._total)
