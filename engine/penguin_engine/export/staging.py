"""Folders that appear only when they are complete: written in a staging folder, then renamed into place.

The staging folder of a result always has the same name and contains a locked file. The lock ends with its process, so
the next run removes what a killed run left, and two runs that write the same result exclude each other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from penguin_models.atomic_write import writing
from penguin_models.errors import EngineError

_LOCK = "lock"


@contextmanager
def staging(folder: Path, result: Path) -> Iterator[Path]:
    """Provides an empty folder, always the same for one result, and removes it at the end.

    Raises:
        EngineError: Another process is writing the result.
        WriteError: The folder cannot be created.
    """
    lock = FileLock(folder / _LOCK, timeout=0)
    with writing(result):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as err:
            raise EngineError(f"another process is writing {result}; wait until it ends, or choose another") from err
    try:
        with writing(result):
            for left in folder.iterdir():
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                elif left.name != _LOCK:
                    left.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def check_movable(folder: Path) -> None:
    """Raises EngineError if a folder, named by its absolute path, cannot be replaced by renaming."""
    if Path.cwd().is_relative_to(folder):
        raise EngineError(
            f"{folder} would be replaced while it is the working directory of this command; choose another folder, or "
            "run the command elsewhere"
        )
    if folder.is_mount():
        raise EngineError(f"{folder} is a mount point, which cannot be replaced; choose a folder inside it")


def put_into_place(staged: Path, target: Path, backup: Path) -> None:
    """Renames a complete folder to its final name; an existing folder is moved to `backup` and restored on failure."""
    if target.exists():
        target.rename(backup)
    try:
        staged.rename(target)
    except BaseException:
        if backup.exists() and not target.exists():
            backup.rename(target)
        raise
