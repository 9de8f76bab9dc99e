"""Processes that read data beside the training process."""

from __future__ import annotations

from typing import Any

import cv2


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of torch's DataLoader for so many worker processes; 0 reads in the calling one.

    Workers start anew instead of as a fork: a fork inherits the locks of OpenCV's, torch's and a tracker's threads
    without the threads that would open them, and may wait for ever.
    """
    if not workers:
        return {"num_workers": 0}
    return {"num_workers": workers, "multiprocessing_context": "spawn", "worker_init_fn": _one_thread}


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)
