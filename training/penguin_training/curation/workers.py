"""Distributes shards through Ray Data: over processes of this machine, or over a cluster with a shared file system."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2

from penguin_models.errors import PenguinError, SettingError, TrainingError

Work = Callable[[int], None]
"""Does one part of a step, by its number, and writes the result to a file."""
_OBJECT_STORE_BYTES = 512 * 2**20  # only numbers travel; the data are in files


@dataclass(frozen=True)
class Workers:
    """Where the work is done.

    Attributes:
        address: "local", or the address of a Ray cluster ("auto", HOST:PORT, ray://HOST:PORT).
        processes: Number of processes at a time.
        gpus: GPUs that each process which runs the encoder reserves.
    """

    address: str = "local"
    processes: int = 1
    gpus: float = 0.0

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Starts Ray on this machine, or connects to the cluster; raises SettingError if none answers."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # or it warns of its own actors
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # 30 are too few on a busy machine
        import ray
        import ray.data

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            options |= {"num_cpus": self.processes, "object_store_memory": _OBJECT_STORE_BYTES}
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}  # not open to the network
        try:
            ray.init(address=self.address, **options)
        except Exception as err:  # Ray raises plain exceptions, too
            what = "Ray does not start here" if self.address == "local" else f"no Ray cluster answers at {self.address}"
            raise SettingError(f"{what}: {' '.join(str(err).split())[:200]}") from err
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        try:
            yield
        finally:
            ray.shutdown()

    def run(self, numbers: Sequence[int], open_work: Callable[[], Work], uses_encoder: bool = False) -> Iterator[int]:
        """Yields the number of each part once it is done; raises PenguinError if one fails.

        `open_work` is called in each process; those that run the encoder live until the end of the step.
        """
        import ray
        import ray.data

        if not numbers:
            return
        parts = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        if uses_encoder:
            pool = ray.data.ActorPoolStrategy(size=min(self.processes, len(numbers)))
            options: dict[str, Any] = {"compute": pool, "num_gpus": self.gpus or None}
            done = parts.map(_Worker, fn_constructor_args=(open_work,), **options)
        else:
            worker = _Worker(open_work)
            done = parts.map(lambda row: worker(row), compute=ray.data.TaskPoolStrategy(size=self.processes))
        try:
            for row in done.iter_rows():
                if row["error"]:
                    raise TrainingError(row["error"])
                yield row["number"]
        except ray.exceptions.RayError as err:
            raise TrainingError(f"a worker failed: {_last_line(err)}; run the command again to continue") from err


class _Worker:
    """Does the parts that Ray Data hands to one process."""

    def __init__(self, open_work: Callable[[], Work]):
        self._open_work = open_work
        self._work: Work | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._work is None:
                cv2.setNumThreads(1)  # each process has one core
                self._work = self._open_work()
            self._work(int(row["number"]))
        except PenguinError as err:
            return {"number": row["number"], "error": str(err)}
        return {"number": row["number"], "error": ""}


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
