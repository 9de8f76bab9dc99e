"""Writes that succeed as a whole: a reader sees the old file or the complete new one, never a part."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal, overload

from penguin_models.errors import PenguinError, WriteError

PARTIAL_SUFFIX = ".partial"
"""Ending of temporary files; one that a killed process left behind can be deleted."""
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (tokenizers, safetensors) show the number of an operating-system error."""
_TORCH_WRITER = "inline_container.cc"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises WriteError, which names the path and the reason, if the block fails to write to the disk.

    The block may call libraries that report a full disk as an error of their own; other errors are passed on. In place
    of a temporary path, for which a block inside raised WriteError, the error names `path`.
    """
    try:
        yield
    except Exception as err:
        is_elsewhere = isinstance(err, WriteError) and not str(err).startswith((f"{path} ", f"{path}{os.sep}"))
        if (isinstance(err, PenguinError) and not is_elsewhere) or (reason := _reason(err)) is None:
            raise
        raise WriteError(f"{path} cannot be written: {reason}; free space there, or choose another place") from err


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
    with writing(path):
        if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            with path.open(mode, encoding=encoding) as file:
                yield file
            return
        target = path.resolve()  # the target of a symbolic link, which stays a link
        beginning = target.name[:50]  # names have at most 255 bytes
        partial = target.with_name(f".{beginning}.{os.getpid()}{PARTIAL_SUFFIX}")
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


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Provides an empty folder whose files move to `folder` when the block ends without an error.

    They replace files of the same names. Missing folders are created; after an error, everything is as it was before.

    Raises:
        WriteError: The files cannot be written, for example because the disk is full.
    """
    with writing(folder):
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
                yield Path(staging)
                for file in Path(staging).iterdir():
                    file.replace(folder / file.name)
        except BaseException:
            if is_new:
                with suppress(OSError):
                    folder.rmdir()
            raise


def _reason(err: BaseException | None) -> str | None:
    """Returns what the operating system reported: in this error, or in those that led to it."""
    reason = None
    while err is not None:
        if isinstance(err, FileExistsError):  # of mkdir, if a file has the name of a folder
            return os.strerror(errno.ENOTDIR)
        if isinstance(err, OSError) and err.strerror:
            return err.strerror
        if number := _ERROR_NUMBER.search(str(err)):
            return os.strerror(int(number[1]))
        if _TORCH_WRITER in str(err):  # with the operating system's error before it, unless another process raised it
            reason = "a file is shorter than what was written to it"
        err = err.__cause__ or (None if err.__suppress_context__ else err.__context__)
    return reason
