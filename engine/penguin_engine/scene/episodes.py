"""EpisodeStore: what the memory lets go of, on the disk. `add` returns at once; a thread of its own writes.

A full disk, a damaged or a locked file is never the caller's problem: the thread tries again every second, episodes
that no longer fit into its queue are counted as lost, and `status` says why. A damaged file is set aside and a new one
begun.

`open_episodes` opens a store; `read_episodes` finds what one has written, in another process, too.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from penguin_engine.scene.episode import MAX_SIDE, Episode, EpisodeFilter, Quota
from penguin_engine.scene.episode_backend import EpisodeReader, EpisodeWriter, Summary, sentence, size_bytes
from penguin_engine.scene.episode_file import EpisodeFile
from penguin_engine.scene.episode_search import EpisodeFileReader
from penguin_models.decoding import MAX_IMAGE_PIXELS, check_size
from penguin_models.errors import EpisodeError, MediaError
from penguin_models.images import resize
from penguin_models.quoting import shortened
from penguin_models.types import Size, UInt8Array

_QUEUE_EPISODES, _QUEUE_BYTES = 256, 64 * 2**20
_BATCH, _BATCH_S = 64, 0.5
_RETRY_S = 1.0
_JPEG_QUALITY = 75
_NAME_CHARS = 500  # the entry of an index has at most 2.7 kB in PostgreSQL


def open_episodes(location: str | Path, quota: Quota = Quota()) -> EpisodeStore:  # noqa: B008
    """Opens a store to write and read.

    Args:
        location: Path of an SQLite file, or URL of a PostgreSQL database for several robots, such as
            `postgresql://USER@HOST/DATABASE?robot=NAME`; without a name, the robot has that of its computer.
        quota: What the file, or this robot in the database, holds at most.

    Raises:
        EpisodeError: Another process writes there, it holds something else, its version is newer, the URL is malformed,
            or SQLite lacks full-text search. A server that is out of reach is only a problem in the status.
        WriteError: The folder or the lock next to a file cannot be created.
    """
    return EpisodeStore(read_episodes(location), _writer(location, quota))


def read_episodes(location: str | Path) -> EpisodeReader:
    """Returns a reader of a store, which is opened at the first call; location as for `open_episodes`."""
    if _is_url(location):
        with _postgresql_needed():
            from penguin_engine.scene.episode_postgres.reader import EpisodeDatabaseReader
        return EpisodeDatabaseReader(str(location))
    return EpisodeFileReader(Path(location))


def prune_episodes(location: str | Path, quota: Quota) -> int:
    """Deletes the oldest episodes of a store that nobody writes; returns their number.

    Raises:
        EpisodeError: There is no such store, another process writes it, or it cannot be read or written.
    """
    if not (_is_url(location) or Path(location).is_file()):
        raise EpisodeError(f"there is no episode file {location}")
    writer = _writer(location, quota)
    try:
        return writer.prune()
    finally:
        writer.close()


def _writer(location: str | Path, quota: Quota) -> EpisodeWriter:
    if _is_url(location):
        with _postgresql_needed():
            from penguin_engine.scene.episode_postgres.writer import EpisodeDatabase
        return EpisodeDatabase(str(location), quota)
    return EpisodeFile(Path(location), quota)


def _is_url(location: str | Path) -> bool:
    """Returns whether a location is a URL of PostgreSQL; raises EpisodeError for any other URL."""
    scheme, separator, _ = str(location).partition("://")
    if separator and scheme not in ("postgresql", "postgres"):
        raise EpisodeError(f"episodes are in a file or at postgresql://, not at {shortened(scheme)}://")
    return bool(separator)


@contextmanager
def _postgresql_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as err:
        message = f"episodes in PostgreSQL need SQLAlchemy and psycopg ({sentence(err)}); run: pip install "
        raise EpisodeError(message + "sqlalchemy 'psycopg[binary]'") from err


@dataclass(frozen=True)
class StoreStatus:
    """State of a store, for diagnostics."""

    written: int  # episodes written since the store was opened
    waiting: int  # episodes in the queue
    lost: int  # episodes that could not be written
    problem: str = ""  # last problem in one sentence; empty if there was none
    failing: bool = False  # whether the last attempt to write failed
    bytes: int = 0  # size of the episodes written, about


class EpisodeStore:
    """Episodes behind a reader and a writer. An episode of the same camera and stamp as an earlier one completes it.

    Raises (when created):
        EpisodeError: Another process writes there, it holds something else, or its version is newer.
    """

    def __init__(self, reader: EpisodeReader, writer: EpisodeWriter):
        self._reader, self._writer = reader, writer
        self._pending: deque[tuple[Episode, UInt8Array | None]] = deque()
        self._pending_bytes = 0
        self._taken: list[Episode] = []  # by the thread, with their pictures
        self._status = StoreStatus(0, 0, 0)
        self._changed = threading.Condition()
        self._closing = False
        try:
            _ = self._attempt() or self._attempt()  # again, if a file was damaged
        except EpisodeError:
            self._writer.close()
            raise
        self._thread = threading.Thread(target=self._work, name="episodes", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """What messages call it: a path, or a database without user and password."""
        return self._reader.name

    def search(self, text: str = "", where: EpisodeFilter = EpisodeFilter(), limit: int = 32) -> list[Episode]:  # noqa: B008
        """Returns episodes in order of relevance, see EpisodeReader."""
        return self._reader.search(text, where, limit)

    def get(self, number: int) -> Episode | None:
        """Returns the episode with an id; None if there is none, or no more."""
        return self._reader.get(number)

    def range(self, where: EpisodeFilter = EpisodeFilter()) -> Iterator[Episode]:  # noqa: B008
        """Yields all episodes that meet the conditions in order of time."""
        return self._reader.range(where)

    def summary(self) -> Summary:
        """Returns what the store holds."""
        return self._reader.summary()

    @property
    def status(self) -> StoreStatus:
        """What has been written, waits, and was lost."""
        with self._changed:
            return replace(self._status, waiting=len(self._pending) + len(self._taken))

    def add(self, episode: Episode, rgb: UInt8Array | None = None) -> bool:
        """Queues an episode; never waits for the disk, and raises nothing.

        Args:
            episode: What was seen.
            rgb: uint8 [H, W, 3], from which the thread makes the episode's picture; must not change any more.

        Returns:
            Whether there was room in the queue; if not, the episode is lost and counted.
        """
        size = len(episode.jpeg) if rgb is None else rgb.nbytes
        with self._changed:
            full = len(self._pending) >= _QUEUE_EPISODES or self._pending_bytes + size > _QUEUE_BYTES
            if self._closing or (self._pending and full):
                self._count(lost=1)
                return False
            self._pending.append((episode, rgb))
            self._pending_bytes += size
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Waits until all episodes in the queue are written or lost; returns whether that was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._taken, timeout_s)

    def close(self) -> None:
        """Writes what is in the queue, if that succeeds at the first attempt, and lets other processes write."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._writer.close()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The thread.

    def _work(self) -> None:
        while self._take():
            try:
                written = self._attempt()
            except EpisodeError as err:  # somebody replaced the file
                written = self._failed(str(err))
            with self._changed:
                if written or self._closing:
                    counts = {"written" if written else "lost": len(self._taken)}
                    self._count(**counts)
                    if written:
                        self._update(bytes=self._status.bytes + sum(map(size_bytes, self._taken)))
                    self._taken = []
                    self._changed.notify_all()
                else:
                    self._changed.wait_for(lambda: self._closing, _RETRY_S)

    def _take(self) -> bool:
        """Takes a batch from the queue, unless the last one is still to be written; returns False at the end."""
        if self._taken:
            return True
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
        start_s, size = time.monotonic(), 0
        largest, oldest_ns = self._writer.largest_bytes, self._writer.oldest_ns
        while len(self._taken) < _BATCH and time.monotonic() - start_s < _BATCH_S and size < largest // 2:
            with self._changed:
                if not self._pending:
                    break
                episode, rgb = self._pending.popleft()
                self._pending_bytes -= len(episode.jpeg) if rgb is None else rgb.nbytes
                self._taken.append(episode)  # counts as waiting
            try:
                self._taken[-1] = episode = _checked(episode, rgb, largest, oldest_ns)
                size += size_bytes(episode)
            except Exception as err:  # noqa: BLE001 - this thread must not end
                with self._changed:
                    self._taken.pop()
                    self._count(lost=1)
                    self._failed(f"an episode of {shortened(str(episode.camera))} cannot be stored: {sentence(err)}")
        with self._changed:
            self._changed.notify_all()
            return bool(self._taken or self._pending or not self._closing)

    def _attempt(self) -> bool:
        """Writes the batch; returns whether it succeeded. Raises EpisodeError if the store is not to be written."""
        try:
            self._writer.open()
            if self._taken:
                self._writer.write(self._taken)
        except Exception as err:
            problem = self._writer.recover(err)
            if isinstance(err, EpisodeError):
                raise
            return self._failed(problem)
        self._update(failing=False)
        return True

    def _failed(self, problem: str) -> bool:
        self._update(problem=problem, failing=True)
        return False

    def _count(self, written: int = 0, lost: int = 0) -> None:
        with self._changed:
            self._update(written=self._status.written + written, lost=self._status.lost + lost)

    def _update(self, **changes: Any) -> None:
        with self._changed:
            self._status = replace(self._status, **changes)


def _checked(episode: Episode, rgb: UInt8Array | None, largest: int, oldest_ns: int) -> Episode:
    """Returns an episode with its picture. Raises any error if it cannot be stored."""
    if not -(2**63) <= episode.stamp_ns < 2**63:
        raise EpisodeError(f"its stamp {episode.stamp_ns} ns is not a 64-bit number")
    if episode.stamp_ns < oldest_ns:  # it would be deleted as soon as something else is written
        raise EpisodeError(
            f"its stamp {episode.stamp_ns / 1e9:.3f} s is before {oldest_ns / 1e9:.3f} s, the oldest that the quota "
            "allows; raise the age that it allows, or give another clock, such as a simulation's, a file of its own"
        )
    for name in (episode.camera, episode.pose.frame_id if episode.pose else ""):
        if len(name) > _NAME_CHARS:
            raise EpisodeError(f"the name of its camera or frame has {len(name)} characters, at most {_NAME_CHARS}")
    if rgb is not None:
        episode = replace(episode, jpeg=small_jpeg(rgb))
    if size_bytes(episode) > largest:
        raise EpisodeError(f"it has {size_bytes(episode)} bytes, the quota allows {largest}; raise the quota")
    return episode


def small_jpeg(rgb: UInt8Array) -> bytes:
    """Returns a picture, uint8 [H, W, 3], as JPEG with at most `MAX_SIDE` pixels on the longer side.

    Raises:
        MediaError: The picture is too large, or no such array.
    """
    if rgb.dtype != np.uint8 or rgb.shape[2:] != (3,):
        raise MediaError(f"its picture is {rgb.dtype} {list(rgb.shape)}, it must be uint8 [height, width, 3]")
    height, width = rgb.shape[:2]
    check_size("its picture", width, height, MAX_IMAGE_PIXELS)
    scale = min(1.0, MAX_SIDE / max(height, width))
    small = resize(rgb, Size(max(1, round(height * scale)), max(1, round(width * scale))))
    file = io.BytesIO()
    Image.fromarray(small).save(file, "jpeg", quality=_JPEG_QUALITY, optimize=True)
    return file.getvalue()
