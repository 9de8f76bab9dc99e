"""CUDA graphs through the driver's own interface, because pycuda has none.

A step is recorded from a stream once; launching it as one graph avoids the cost of launching hundreds of kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from penguin_models.errors import EngineError

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may use CUDA during the recording."""


class CudaGraph:
    """Work recorded from a stream, by its handle; it must not be the default stream. Recording executes nothing."""

    def __init__(self, stream: int, work: Callable[[], None]):
        self._driver = load_driver()
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._stream, self._work = ctypes.c_void_p(stream), work  # the work refers to everything that the graph uses
        try:
            self._record()
        except BaseException:  # the caller gets no object that it could close
            self.close()
            raise

    def launch(self) -> None:
        """Enqueues the recorded work on the stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Frees the graph, but not the memory that it works on."""
        if self._executable:
            self._call("cuGraphExecDestroy", self._executable)
        if self._graph:
            self._call("cuGraphDestroy", self._graph)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()

    def _record(self) -> None:
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            self._work()
        finally:  # a stream that stays in capture mode can never be used again
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(self._graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, ctypes.c_ulonglong(0))

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._driver, name)(*arguments)
        if result:
            raise EngineError(f"{name} failed with CUDA error {result}")


def load_driver() -> Any:
    """Loads the CUDA driver library."""
    return ctypes.CDLL("libcuda.so.1")
