"""What the browsers are shown: the newest state of everything and a short history, and what each has not yet received.

Knows nothing of ROS or HTTP. States and entries come from any thread; each browser reads its own at its own speed, and
one that is slow misses old states instead of holding anything up.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

Event = dict[str, Any]
"""An object for the page; "kind" says what it is."""
_HEARTBEAT_S = 2.0
_BATCH = 64


class Hub:
    """Passes events to all listeners."""

    def __init__(self, history: Mapping[str, int]):
        """Starts empty; `history` is how many entries of each kind a new listener receives."""
        self._lock = threading.Lock()
        self._states: dict[str, Event] = {}
        self._entries: dict[str, deque[Event]] = {kind: deque(maxlen=length) for kind, length in history.items()}
        self._listeners: set[Listener] = set()

    @property
    def listeners(self) -> int:
        """Number of listeners."""
        return len(self._listeners)

    def set_state(self, key: str, event: Event) -> None:
        """Replaces a state: a listener that has not received the former one never will."""
        with self._lock:
            self._states[key] = event
            for listener in self._listeners:
                listener.offer(key, event)

    def drop_states(self, prefix: str) -> None:
        """Forgets states whose key begins with `prefix`."""
        with self._lock:
            self._states = {key: event for key, event in self._states.items() if not key.startswith(prefix)}

    def add_entry(self, event: Event) -> None:
        """Adds to the history of the event's kind."""
        with self._lock:
            self._entries[event["kind"]].append(event)
            for listener in self._listeners:
                listener.offer(None, event)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields everything that is known, then what happens: JSON objects, one per line; an empty line if none."""
        listener = Listener()
        with self._lock:
            for entries in self._entries.values():
                for event in entries:
                    listener.offer(None, event)
            for key, event in self._states.items():
                listener.offer(key, event)
            self._listeners.add(listener)
        try:
            while True:
                yield await listener.take()
        finally:
            with self._lock:
                self._listeners.discard(listener)


class Listener:
    """What one browser has not received: at most one event for each state, and the newest entries."""

    def __init__(self, max_entries: int = 2048):
        """Starts empty, in the running event loop."""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._lock = threading.Lock()
        self._states: dict[str, Event] = {}
        self._entries: deque[Event] = deque(maxlen=max_entries)
        self._lost = 0
        self._is_woken = False

    def offer(self, key: str | None, event: Event) -> None:
        """Adds an entry, or replaces the state `key`; may be called from any thread."""
        with self._lock:
            if key is not None:
                self._states[key] = event
            else:
                self._lost += len(self._entries) == self._entries.maxlen
                self._entries.append(event)
            is_asleep, self._is_woken = not self._is_woken, True
        if is_asleep and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self) -> bytes:
        """Waits for events and returns some of them as lines; returns an empty line if none came for a while."""
        try:
            await asyncio.wait_for(self._wake.wait(), _HEARTBEAT_S)
        except asyncio.TimeoutError:
            return b"\n"
        with self._lock:
            events = [self._entries.popleft() for _ in range(min(_BATCH, len(self._entries)))]
            if not self._entries:
                events += self._states.values()
                self._states = {}
                self._is_woken = False
                self._wake.clear()
            if self._lost:
                events.append({"kind": "lost", "entries": self._lost})
                self._lost = 0
        return b"".join(json.dumps(event).encode() + b"\n" for event in events) or b"\n"
