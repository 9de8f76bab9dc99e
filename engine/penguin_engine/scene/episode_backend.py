"""What lies behind an EpisodeStore: a reader and a writer, in an SQLite file or in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from penguin_engine.scene.episode import Episode, EpisodeFilter
from penguin_models.errors import PenguinError
from penguin_models.quoting import shortened


@dataclass(frozen=True)
class Summary:
    """What a store holds."""

    episodes: int
    oldest_ns: int | None
    newest_ns: int | None
    bytes: int  # on the disk, with the log of the last changes


class EpisodeReader(Protocol):
    """Finds episodes, also while a store writes them. May be used from several threads.

    All methods raise EpisodeError if the store is missing, damaged, out of reach, or of a newer version.
    """

    @property
    def name(self) -> str:
        """What messages call it: a path, or a database without user and password."""

    def search(self, text: str = "", where: EpisodeFilter = EpisodeFilter(), limit: int = 32) -> list[Episode]:  # noqa: B008
        """Returns episodes in order of relevance, equally relevant ones the newest first; without a text the newest.

        Args:
            text: Words to find in captions and labels, in any order; any characters. Words of questions such as
                "where" and "the" do not count unless there are no others.
            where: Conditions that they meet.
            limit: Maximum number of episodes.
        """

    def get(self, number: int) -> Episode | None:
        """Returns the episode with an id; None if there is none, or no more."""

    def range(self, where: EpisodeFilter = EpisodeFilter()) -> Iterator[Episode]:  # noqa: B008
        """Yields all episodes that meet the conditions in order of time."""

    def summary(self) -> Summary:
        """Returns what the store holds."""


class EpisodeWriter(Protocol):
    """The one writer of a file, or of a robot's episodes in a database; used by one thread at a time."""

    @property
    def name(self) -> str:
        """What messages call it: a path, or a database without user and password."""

    @property
    def largest_bytes(self) -> int:
        """Largest size of an episode."""

    @property
    def oldest_ns(self) -> int:
        """Stamps before it are too old for the quota, as it was known when the last episodes were written."""

    def open(self) -> None:
        """Opens the store unless it is open; creates or migrates it.

        Raises:
            EpisodeError: It is not to be written: another process does, it holds something else, or it is newer.
            Exception: Anything else is a problem that may pass.
        """

    def write(self, episodes: Sequence[Episode]) -> None:
        """Writes or merges episodes, after making room for them; after an error, none has been written."""

    def prune(self) -> int:
        """Opens the store, and deletes the oldest episodes that exceed the quota; returns their number.

        Raises:
            EpisodeError: Another process writes the store, or it cannot be read or written.
        """

    def recover(self, error: Exception) -> str:
        """Disconnects after an error so that `open` can be tried again; returns the problem in one sentence."""

    def close(self) -> None:
        """Disconnects, and lets another process write."""


def size_bytes(episode: Episode) -> int:
    """Returns about how many bytes an episode takes."""
    labels = sum(len(item.label) + 32 for item in episode.objects)
    return 512 + 3 * len(episode.caption) + 2 * labels + len(episode.jpeg)


def sentence(error: Exception) -> str:
    """Returns what an error says, on one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason if isinstance(error, PenguinError) else shortened(" ".join(reason.split()) or type(error).__name__)
