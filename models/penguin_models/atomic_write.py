"""Atomic file writes: a reader sees the old file or the complete new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, overload

from penguin_models.errors import WriteError

PARTIAL_SUFFIX = ".partial"
"""Ending of temporary files; one that a killed process left behind can be deleted."""


@overload
def atomic_write(path: Path, mode: Literal["w"] = "w") -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(path: Path, mode: Literal["wb"]) -> AbstractContextManager[IO[bytes]]: ...
@contextmanager
def atomic_write(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file, UTF-8 text or bytes, which replaces `path` when the block ends without an error.

    Missing parent folders are created. After an error the old file is unchanged and the temporary file is removed. A
    pipe or a device is written to directly.

    Raises:
        WriteError: The file cannot be written, for example because the disk is full.
    """
    encoding = None if "b" in mode else "utf-8"
    try:
        if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            with path.open(mode, encoding=encoding) as file:
                yield file
            return
        target = path.resolve()  # the target of a symbolic link, which stays a link
        partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open(mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise WriteError(f"{path} cannot be written: {err.strerror or err}") from err
