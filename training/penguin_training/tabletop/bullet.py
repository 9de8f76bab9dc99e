"""PyBullet, where it is installed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from penguin_models.errors import TabletopError

_MISSING = "the simulated table-top needs PyBullet: pip install 'penguin-vl[sim]'"


@lru_cache(maxsize=1)
def bullet() -> Any:
    """The module; it writes the time of its build to standard error when it is imported.

    Raises:
        TabletopError: it is not installed.
    """
    try:
        import pybullet
    except ImportError as err:
        raise TabletopError(_MISSING) from err
    return pybullet


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
