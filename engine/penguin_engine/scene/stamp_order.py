"""The one rule for stamps that do not increase: slightly older is late, much older means that time jumped back."""

from __future__ import annotations

from enum import Enum


class StampOrder(Enum):
    """How a frame's stamp relates to the newest one: newer, older (late), or so much older that time jumped back."""

    NEWER = "newer"
    LATE = "late"
    JUMPED_BACK = "jumped back"

    @classmethod
    def of(cls, stamp_ns: int, newest_ns: int | None, jump_back_s: float) -> StampOrder:
        """Compares a stamp with the newest one seen, None before the first.

        A late frame is dropped and counted. After a jump back by `jump_back_s` or more (a bag loops, a clock was set)
        everything seen before belongs to another time, and the memory is cleared.
        """
        if newest_ns is None or stamp_ns > newest_ns:
            return cls.NEWER
        return cls.JUMPED_BACK if newest_ns - stamp_ns >= jump_back_s * 1e9 else cls.LATE
