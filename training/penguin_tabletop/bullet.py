"""PyBullet, where it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from penguin_models.errors import TabletopError

_MISSING = "the simulated table-top needs PyBullet: pip install pybullet"


@lru_cache(maxsize=1)
def bullet() -> Any:
    """The module, imported without the line that it would write to standard error.

    Raises:
        TabletopError: it is not installed.
    """
    try:
        with _silent():
            import pybullet
    except ImportError as err:
        raise TabletopError(_MISSING) from err
    return pybullet


@contextmanager
def _silent() -> Iterator[None]:
    """Standard error goes nowhere: the line comes from C, past Python's own streams."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def assets() -> Path:
    """The folder of PyBullet's assets.

    Raises:
        TabletopError: PyBullet is not installed.
    """
    try:
        import pybullet_data
    except ImportError as err:
        raise TabletopError(_MISSING) from err
    return Path(pybullet_data.getDataPath())
