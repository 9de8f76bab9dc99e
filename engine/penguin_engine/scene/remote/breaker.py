"""CircuitBreaker: keeps requests away from a server that has failed several times in a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

FAILURES = 3
"""Failed requests in a row that open the circuit."""
_LONGEST_REST_S = 30.0


@dataclass
class CircuitBreaker:
    """Closed, it lets requests pass; open, none; half-open, those that find out whether the server is back.

    It rests for 1 s after a failed request and twice as long after each further one in a row, at most 30 s; requests
    that nobody waits for keep that rest even while the circuit is closed.
    """

    clock: Callable[[], float] = monotonic
    opened: int = 0  # number of times that it opened
    reason: str = ""  # why the newest request failed; empty if it did not
    _in_row: int = field(default=0, init=False)  # failed requests since the last that was answered
    _unanswered: int = field(default=0, init=False)  # those of them at the end to which the server gave no reply
    _until_s: float = field(default=0.0, init=False)

    @property
    def state(self) -> str:
        """Returns "closed", "open" or "half-open"."""
        if self._unanswered < FAILURES:
            return "closed"
        return "open" if self.rest_s > 0 else "half-open"

    @property
    def rest_s(self) -> float:
        """Seconds until the rest after the newest failed request is over; 0 if it is."""
        return max(0.0, self._until_s - self.clock())

    def succeeded(self) -> None:
        """Counts an answer: closes the circuit."""
        self._in_row, self._unanswered, self._until_s, self.reason = 0, 0, 0.0, ""

    def failed(self, reason: str, replied: bool) -> None:
        """Counts a failed request; a server that replied, even by a refusal, is there: that closes the circuit."""
        self._in_row += 1
        self._unanswered = 0 if replied else self._unanswered + 1
        self._until_s = self.clock() + min(2.0 ** (self._in_row - 1), _LONGEST_REST_S)
        self.reason = reason
        self.opened += self._unanswered == FAILURES
