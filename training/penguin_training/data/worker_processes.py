"""Processes that read data for the training process."""

from __future__ import annotations

from typing import Any

import cv2


def worker_options(workers: int) -> dict[str, Any]:
    """Returns the arguments of torch's DataLoader for this number of worker processes; 0 reads in the calling one.

    Workers are spawned, not forked: a fork inherits locks held by threads of OpenCV, torch or a tracker without the
    threads that would release them, and can deadlock.
    """
    if not workers:
        return {"num_workers": 0}
    return {"num_workers": workers, "multiprocessing_context": "spawn", "worker_init_fn": _use_one_thread}


def _use_one_thread(_: int) -> None:
    cv2.setNumThreads(1)
