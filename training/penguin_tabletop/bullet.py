"""The optional dependency PyBullet: its module, independent simulations, and its folder of assets."""

from __future__ import annotations

import os
import weakref
from functools import cache, partial
from pathlib import Path
from typing import Any

from penguin_models.errors import TabletopError


class BulletClient:
    """PyBullet's constants, and its functions bound to one simulation without a window, which ends with this object."""

    def __init__(self) -> None:
        self._bullet = load_pybullet()
        self._id = self._bullet.connect(self._bullet.DIRECT)
        weakref.finalize(self, self._bullet.disconnect, self._id)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._bullet, name)
        return partial(value, physicsClientId=self._id) if callable(value) else value


@cache
def load_pybullet() -> Any:
    """Imports PyBullet without the line that its C code writes; raises TabletopError if it is not installed."""
    stderr_copy, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        import pybullet
    except ImportError as err:
        raise TabletopError("the simulated table-top needs PyBullet: pip install pybullet") from err
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(null)
    return pybullet


def assets_folder() -> Path:
    """Returns the folder of PyBullet's assets; raises TabletopError if PyBullet is not installed."""
    load_pybullet()
    import pybullet_data

    return Path(pybullet_data.getDataPath())
