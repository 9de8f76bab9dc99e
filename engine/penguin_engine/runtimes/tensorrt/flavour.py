"""The two flavours of TensorRT. Only this module imports them, and only when one is loaded.

"tensorrt" is TensorRT itself, of JetPack and of data-centre GPUs: it builds on the GPU that runs the plans, because it
chooses kernels by their time. "rtx" is TensorRT for RTX: it builds on any machine and compiles kernels where plans run.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from penguin_models.errors import EngineError

TENSORRT, RTX = "tensorrt", "rtx"
FLAVOURS = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}
"""Names of the flavours, as options and in messages."""
_MODULES = {TENSORRT: ("tensorrt",), RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_REMEDIES = {
    TENSORRT: "on a Jetson, JetPack provides it; on a PC: pip install tensorrt",
    RTX: "pip install tensorrt-rtx-cu13-bindings onnxruntime-ep-nv-tensorrt-rtx-cu13 (Linux x86-64)",
}
_RTX_WHEEL = "onnxruntime_ep_nv_tensorrt_rtx"
"""ONNX Runtime's plug-in, whose wheel contains the libraries that the bindings need."""
_RTX_LIBRARIES = ("libcudart.so", "libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")


@dataclass(frozen=True)
class Flavour:
    """A loaded flavour."""

    name: str  # key of `FLAVOURS`
    api: Any  # its Python module

    @property
    def version(self) -> str:
        """Version of TensorRT."""
        return str(self.api.__version__)

    @property
    def title(self) -> str:
        """Name and version for messages."""
        return f"{FLAVOURS[self.name]} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.name == RTX

    @cached_property
    def compute_capabilities(self) -> dict[str, Any]:
        """The members of the API's enumeration for which TensorRT for RTX builds, by capability ("8.9")."""
        members = self.api.ComputeCapability.__members__
        return {_dotted(name): member for name, member in members.items() if name.startswith("SM")}


class Messages:
    """Collects TensorRT's error messages; `logger` is what TensorRT's objects take, and must outlive them."""

    def __init__(self, trt: Any):
        self._errors: deque[str] = deque(maxlen=3)
        self.logger = _logger(trt, self._errors)

    def reason(self) -> str:
        """Returns the last errors in one line."""
        return " ".join("; ".join(self._errors).split())[:500] or "no reason was given"


def _logger(trt: Any, errors: deque[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(msg)

    return Logger()


def installed() -> list[str]:
    """Returns the names of the flavours that are installed, without loading them."""
    return [name for name in FLAVOURS if _module(name) is not None]


def default() -> str:
    """Returns the flavour that is used if none is named: the first that is installed."""
    return next(iter(installed()), TENSORRT)


def load(name: str) -> Flavour:
    """Imports a flavour; raises EngineError if it is not installed or its libraries cannot be loaded."""
    module = _module(name)
    if module is None:
        raise EngineError(f"{FLAVOURS[name]} is not installed; {_REMEDIES[name]}")
    try:
        return Flavour(name, _import(module))
    except (ImportError, OSError) as err:
        raise EngineError(f"{FLAVOURS[name]} cannot be loaded ({err}); install it again: {_REMEDIES[name]}") from err


def _import(module: str) -> Any:
    if module == "tensorrt":
        import tensorrt

        return tensorrt
    if module == "tensorrt_rtx":
        import tensorrt_rtx

        return tensorrt_rtx
    load_rtx_libraries()
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def parse_capabilities(names: Iterable[str]) -> list[str]:
    """Returns the compute capabilities ("8.9") of names such as "sm89"; raises EngineError for another form."""
    names = list(names)
    for name in names:
        if not (name.startswith("sm") and name[2:].isdigit() and len(name) in (4, 5)):
            raise EngineError(f"--for {name!r} is not a compute capability; write it as sm89 for 8.9, sm120 for 12.0")
    return [_dotted(name) for name in names]


def capability_name(capability: str) -> str:
    """Returns "sm89" for "8.9"."""
    return "sm" + capability.replace(".", "")


def _dotted(name: str) -> str:
    return f"{name[2:-1]}.{name[-1]}"


def _module(name: str) -> str | None:
    specs = map(importlib.util.find_spec, _MODULES[name])
    # A folder "tensorrt" with plans is no package, but Python finds it if its parent is on the path.
    return next((spec.name for spec in specs if spec is not None and spec.origin is not None), None)


def load_rtx_libraries() -> None:
    """Loads the libraries of the plug-in's wheel, which ships them under names that the bindings do not look for.

    Raises:
        OSError: The wheel lacks one, or it cannot be loaded.
    """
    wheel = importlib.util.find_spec(_RTX_WHEEL)
    if wheel is None or wheel.origin is None:  # the bindings find libraries that the system has
        return
    for library in _RTX_LIBRARIES:
        found = sorted(Path(wheel.origin).parent.glob(f"{library}.*"))
        if not found:
            raise OSError(f"{_RTX_WHEEL} contains no {library}")
        ctypes.CDLL(str(found[-1]), mode=ctypes.RTLD_GLOBAL)
