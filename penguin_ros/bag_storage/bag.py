"""Opens a bag and reads its messages, whatever its files are."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zstandard

from penguin_models.errors import MediaError, PenguinError
from penguin_ros.bag_storage import mcap, ros1, sqlite
from penguin_ros.bag_storage.decompression import MAX_PART_BYTES, ZSTD_MAGIC, decompress
from penguin_ros.bag_storage.folder import storage_files
from penguin_ros.bag_storage.messages import Connection, StorageFile
from penguin_ros.message_types import deserialize

MAX_NS = 2**62
"""Latest time, in 2116, so that differences of times fit into 64 bits. Later log times count as this one."""
_FREE_BYTES = 1 << 30
"""What a decompressed file leaves free on the disk."""


@dataclass(frozen=True)
class BagMessage:
    """A recorded message."""

    connection: Connection
    log_ns: int  # when it was recorded
    place: tuple[int, int]  # file, and position in it, in the order of writing
    data: bytes  # in the connection's encoding

    def deserialize(self) -> Any:
        """Returns the message; raises MediaError if its type is unknown or its data are damaged."""
        if self.data.startswith(ZSTD_MAGIC):
            limit = f"has more than {MAX_PART_BYTES >> 20} MiB after decompression"
            raise MediaError(f"the message cannot be decompressed: it is damaged, or {limit}")
        return deserialize(self.connection, self.data)


class Bag:
    """An open bag.

    Attributes:
        path: Its folder or file.
        connections: Its topics; a topic has several if it is in several files, or has several types.
        notes: Sentences about what is unusual.
        announced: Number of messages by topic that its metadata.yaml announces; empty if it does not say.
    """

    def __init__(self, path: Path, files: list[tuple[Path, StorageFile]], notes: list[str], announced: dict[str, int]):
        """Takes the open files in the order of recording."""
        self.path, self.announced, self._files = path, announced, files
        self.notes = notes + [note for _, file in files for note in file.notes]
        self.connections = list(dict.fromkeys(c for _, file in files for c in file.connections))

    def messages(self, wanted: Collection[Connection], start_ns: int = -(2**63)) -> Iterator[BagMessage]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times.

        Raises MediaError if a file is damaged.
        """
        # A file is read when the messages before its start have been yielded: its first item is only its start.
        parts = (self._messages_of(number, wanted, start_ns) for number in range(len(self._files)))
        for _, message in merge(*parts, key=lambda item: item[0]):
            if message is not None:
                yield message

    def _messages_of(
        self, number: int, wanted: Collection[Connection], start_ns: int
    ) -> Iterator[tuple[int, BagMessage | None]]:
        path, file = self._files[number]
        yield min(file.start_ns, MAX_NS), None
        ours = [connection for connection in file.connections if connection in wanted]
        if not ours:  # which rosbags 0.11 would take for all
            return
        with _damage_of(self.path, path, "cannot be read to its end"):
            for connection, log_ns, place, data in file.messages(ours, start_ns):
                log_ns = min(log_ns, MAX_NS)
                yield log_ns, BagMessage(connection, log_ns, (number, place), _plain(data))


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Opens a bag folder, or a single .mcap, .db3 or ROS 1 .bag file; raises MediaError if it cannot be read."""
    paths, notes, announced = storage_files(path)
    with ExitStack() as stack:
        files = []
        for file in paths:
            with _damage_of(path, file, "cannot be read"):
                files.append((file, _open(file, stack)))
        yield Bag(path, files, notes, announced)


def _plain(data: bytes) -> bytes:
    """Undoes rosbag2's compression mode "message"; no serialised message begins with these bytes."""
    if data.startswith(ZSTD_MAGIC):
        with suppress(zstandard.ZstdError, ValueError):  # `deserialize` reports it
            return decompress(data, "zstd")
    return data


def _decompress_file(path: Path, folder: Path) -> Path:
    target = folder / path.stem
    with zstandard.open(path, "rb") as packed, target.open("wb") as plain:
        while block := packed.read(1 << 24):
            plain.write(block)
            if shutil.disk_usage(folder).free < _FREE_BYTES:
                raise MediaError(
                    f"{path.name} has more than {plain.tell() >> 20} MiB after decompression, which {folder.parent} "
                    "has no space for: set TMPDIR to a folder with more space"
                )
    return target


def _open(path: Path, stack: ExitStack, packed: bool = True) -> StorageFile:
    """Opens a file; `packed` says whether it may be compressed as a whole."""
    with path.open("rb") as file:
        magic = file.read(64)
    if magic.startswith(ZSTD_MAGIC) and packed:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="penguin-bag-")))
        return _open(_decompress_file(path, folder), stack, packed=False)
    opened: StorageFile
    if magic.startswith(sqlite.MAGIC):
        copied = sqlite.pending_files(path)
        scratch = stack.enter_context(TemporaryDirectory(prefix="penguin-bag-")) if copied else "."
        opened = sqlite.SqliteFile(path, Path(scratch))
    elif magic.startswith(mcap.MAGIC):
        opened = mcap.McapFile(path)
    elif magic.startswith(ros1.MAGIC):
        opened = ros1.Ros1File(path)
    elif magic and not any(magic):
        raise ValueError("it begins with zeros, as after a power cut")
    elif not magic:
        raise MediaError(f"{path.name} is empty (0 bytes)")
    elif magic.startswith(b"version https://git-lfs"):
        raise MediaError(f"{path.name} is a placeholder of Git LFS; fetch the file with `git lfs pull`")
    else:
        raise MediaError(f"{path.name} is not a bag (MCAP, SQLite or ROS 1); it begins with {magic[:8]!r}")
    stack.callback(opened.close)
    return opened


@contextmanager
def _damage_of(bag: Path, file: Path, what: str) -> Iterator[None]:
    """Raises MediaError in place of any error of reading a file, with the command that can repair the file."""
    try:
        yield
    except PenguinError as err:
        raise MediaError(f"bag {bag} {what}: {err}") from err
    except PermissionError as err:
        raise MediaError(f"bag {bag} {what}: you may not read {file}") from err
    except Exception as err:  # the parsers raise many types of error on damaged bytes
        text = " ".join(str(err).split())
        reason = text if isinstance(err, ValueError) else f"{type(err).__name__}: {text}".rstrip(": ")
        raise MediaError(f"bag {bag} {what}: {file.name} is damaged: {reason}{_repair(file)}") from err


def _repair(file: Path) -> str:
    commands = {
        ".mcap": f"mcap recover {file} -o recovered.mcap",
        ".db3": f"sqlite3 {file} .recover | sqlite3 recovered.db3",
        ".bag": f"rosbag reindex {file}",
    }
    command = commands.get(file.suffix)
    return f"; to recover what it holds, run: {command}" if command else ""
