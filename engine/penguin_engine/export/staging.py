"""Folders that appear when they are complete: they are written in a staging folder and renamed into their place.

The staging folder of a result always has the same name and a locked file inside. The lock ends with its process, so
what a killed run has left is removed by the next one, and two runs that write the same result do not meet. Knows
nothing of what is written.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penguin_models.errors import EngineError

_LOCK = "lock"


@contextmanager
def staging(folder: Path, result: Path) -> Iterator[Path]:
    """A folder to write in; it is removed at the end, and what a killed run has left in it at the start.

    Args:
        folder: the staging folder, always the same for one result.
        result: what is being written, for messages.

    Raises:
        EngineError: another process is writing the result, or the folder cannot be made.
    """
    with writing(result):
        lock = _lock(folder, result)
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
        os.close(lock)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises EngineError, with a path and a remedy, where the operating system refuses what is written there."""
    try:
        yield
    except Exception as err:
        if not isinstance(err, OSError) and "(os error " not in str(err):  # as tokenizers and safetensors end theirs
            raise
        raise EngineError(
            f"{path} cannot be written ({err}); make room there, or choose a folder that you may write to"
        ) from err


def check_movable(folder: Path) -> None:
    """Raises EngineError where a folder, given by its absolute path, cannot be renamed over."""
    if Path.cwd().is_relative_to(folder):
        raise EngineError(
            f"{folder} would be replaced while this command runs in it; choose another, or run the command elsewhere"
        )
    if folder.is_mount():
        raise EngineError(f"{folder} is a mount point, which cannot be replaced; choose a folder inside it")


def put_into_place(staged: Path, target: Path, aside: Path) -> None:
    """Renames a complete folder into its place; what was there goes aside, and comes back where that fails."""
    if target.exists():
        target.rename(aside)
    try:
        staged.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise


def _lock(folder: Path, result: Path) -> int:
    """Makes the folder and locks the file in it; gives the file's descriptor, which holds the lock while it is open."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), (folder / _LOCK).stat()):  # else its last holder has just removed it
            return lock
        raise BlockingIOError
    except BlockingIOError as err:
        os.close(lock)
        raise EngineError(f"another process is writing {result}; wait for its end, or choose another folder") from err
    except BaseException:
        os.close(lock)
        raise
