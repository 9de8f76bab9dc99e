"""TensorRT plans of an exported folder and the machine on which they run. Does not import tensorrt.

A plan is compiled for one flavour and version of TensorRT and some kinds of GPU, which `DIR/tensorrt/plan.json`
records. A plan that does not fit this machine is refused with the command that builds it again.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penguin_engine.export.manifest import (
    DECODER_PLAN,
    MANIFEST,
    PLAN_FOLDER,
    PLAN_MANIFEST,
    VISION_PLAN,
    Files,
    Manifest,
    hash_file,
    read_json,
)
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.flavour import FLAVOURS, RTX, Flavour
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits, plan_shapes
from penguin_models.errors import EngineError

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "int4": "int4"}
"""`--precision` and the precision that the exported folder must have, because networks are strongly typed."""
_OLDEST_TENSORRT = (10, 1)
_NEEDS_COMPUTE = {"fp8": (8, 9), "bf16": (8, 0), "int4": (8, 0)}
_RTX_NEEDS_COMPUTE = {"fp32": (8, 0)}  # of TensorRT for RTX, in addition


@dataclass(frozen=True)
class Machine:
    """What plans depend on."""

    flavour: str  # key of `FLAVOURS`
    version: str  # of TensorRT
    compute_capabilities: tuple[str, ...]  # of the GPUs, for example "8.7"
    gpu: str | None = None  # name of the GPU whose times chose the kernels; None if no kernel was timed


@dataclass(frozen=True)
class PlanManifest:
    """Content of `plan.json`."""

    machine: Machine  # for which the plans were built
    precision: str  # a key of `PRECISIONS`
    limits: PlanLimits
    shapes: dict[str, Any]  # result of `plan_shapes`
    export_sha256: str  # hash of the exported folder's manifest
    files: Files  # the plans

    def __post_init__(self) -> None:
        if self.machine.flavour not in FLAVOURS:
            raise EngineError(f"the flavour {self.machine.flavour!r} is unknown")
        if self.precision not in PRECISIONS:
            raise EngineError(f"the precision {self.precision!r} is unknown")
        if missing := {VISION_PLAN, DECODER_PLAN} - self.files.keys():
            raise EngineError(f"it does not name {', '.join(sorted(missing))}")

    @classmethod
    def read(cls, exported: Path) -> PlanManifest:
        """Reads `plan.json` of an exported folder; raises EngineError if there are no plans or they are damaged."""
        path = exported / PLAN_FOLDER / PLAN_MANIFEST
        command = f"penguin-vl build {shlex.quote(str(exported))}"
        if not path.is_file():
            raise EngineError(f"{exported} has no TensorRT plans; build them with: {command}")
        try:
            return read_json(cls, path)
        except (OSError, ValueError, EngineError) as err:
            raise EngineError(f"{path} cannot be read ({err}); build the plans again: {command}") from err

    def load_flavour(self, exported: Path) -> Flavour:
        """Loads the flavour of the plans; raises EngineError with the command for the other one if it is missing."""
        name = self.machine.flavour
        present = flavour.installed()
        if name in present or not present:
            return flavour.load(name)
        here = replace(self, machine=Machine(present[0], "", ()))
        raise EngineError(
            f"the plans in {exported / PLAN_FOLDER} were built for {FLAVOURS[name]}, here is {FLAVOURS[present[0]]}. "
            f"Build them again: {here.command(exported)}"
        )

    def check(self, exported: Path, manifest: Manifest, here: Machine, device: str = "cuda") -> None:
        """Raises EngineError if the plans do not fit the machine and the folder; reads them, which takes seconds."""
        built = self.machine
        different = []
        if built.version != here.version:
            different.append(f"{FLAVOURS[built.flavour]} {built.version!r}, here it is {here.version!r}")
        if built.gpu is not None and built.gpu != here.gpu:
            different.append(f"the GPU {built.gpu!r}, here it is {here.gpu!r}")
        if not set(here.compute_capabilities) <= set(built.compute_capabilities):
            capabilities, capability = ", ".join(built.compute_capabilities), ", ".join(here.compute_capabilities)
            different.append(f"compute capability {capabilities}, here it is {capability}")
        if self.export_sha256 != export_hash(exported):
            different.append("another export of the model than the folder contains now")
        elif self.shapes != plan_shapes(manifest, self.limits):
            different.append("other shapes than this version of penguin_vl uses")
        for name, file in self.files.items():
            path = exported / PLAN_FOLDER / name
            if not path.is_file() or path.stat().st_size != file.bytes:
                different.append(f"{name} with {file.bytes} bytes, which is missing or truncated")
            elif not different and hash_file(path) != file:
                different.append(f"{name} with another hash, the file has changed since")
        if different:
            raise EngineError(
                f"the plans in {exported / PLAN_FOLDER} do not fit: they were built for {'; '.join(different)}. "
                f"Build them again: {replace(self, machine=here).command(exported, device)}"
            )

    def command(self, exported: Path, device: str = "cuda", max_patches: int | None = None) -> str:
        """Returns the command that builds these plans again, optionally for larger images."""
        limits = f"--max-tokens {self.limits.max_tokens} --max-patches {max_patches or self.limits.max_patches}"
        on_device = "" if device == "cuda" or self.machine.flavour == RTX else f" --device {device}"
        targets = [f" --for {flavour.capability_name(c)}" for c in self.machine.compute_capabilities]
        for_gpus = "".join(targets) if self.machine.flavour == RTX else ""
        return (
            f"penguin-vl build {shlex.quote(str(exported))} --flavour {self.machine.flavour} --precision "
            f"{self.precision} {limits}{on_device}{for_gpus}"
        )


def export_hash(exported: Path) -> str:
    """Returns the hash of an exported folder's manifest, which contains the hashes of all other files."""
    return hash_file(exported / MANIFEST).sha256


def check_buildable(manifest: Manifest, precision: str | None, machine: Machine, exported: Path) -> str:
    """Returns the folder's precision as a key of `PRECISIONS`; it must be `precision`, if that is not None.

    Raises:
        EngineError: TensorRT cannot build the folder; the message says what to do.
    """
    exported_precision = _precision(manifest)
    if manifest.profile != "portable" or exported_precision is None:
        raise EngineError(
            f"{exported} was exported only for ONNX Runtime ({manifest.profile}, {manifest.precision}); for TensorRT, "
            f"export it again: {_export_command(manifest, exported, 'fp16')}"
        )
    if precision is not None and precision != exported_precision:
        raise EngineError(
            f"{exported} contains {manifest.precision}, --precision {precision} needs an export of "
            f"{PRECISIONS.get(precision, precision)}: {_export_command(manifest, exported, precision)}"
        )
    if machine.flavour != RTX and _version(machine.version) < _OLDEST_TENSORRT:
        raise EngineError(
            f"TensorRT {_dotted(_OLDEST_TENSORRT)} or newer is needed, this is {machine.version}; install a newer one"
        )
    lacking = [c for c in machine.compute_capabilities if not has_precision(manifest, c, machine.flavour)]
    if lacking:
        least = _dotted(_least_compute(exported_precision, machine.flavour))
        leave_out = " ".join(f"--for {flavour.capability_name(c)}" for c in lacking)
        remedy = "use" if machine.flavour != RTX else f"leave out {leave_out}, or use"
        raise EngineError(
            f"{exported_precision} needs a GPU of compute capability {least}, {machine.gpu or 'the target'} has "
            f"{', '.join(lacking)}; {remedy} --precision fp16: {_export_command(manifest, exported, 'fp16')}"
        )
    return exported_precision


def has_precision(manifest: Manifest, compute_capability: str, flavour: str) -> bool:
    """Returns whether GPUs of a compute capability calculate in the precision of an export."""
    return _version(compute_capability) >= _least_compute(_precision(manifest) or "", flavour)


def _least_compute(precision: str, flavour: str) -> tuple[int, int]:
    needs = _NEEDS_COMPUTE | (_RTX_NEEDS_COMPUTE if flavour == RTX else {})
    return needs.get(precision, (0, 0))


def _precision(manifest: Manifest) -> str | None:
    return next((name for name, held in PRECISIONS.items() if held == manifest.precision), None)


def _export_command(manifest: Manifest, exported: Path, precision: str) -> str:
    folders = f"--model {shlex.quote(manifest.source)} --out {shlex.quote(str(exported))} --profile portable"
    if precision in ("fp8", "int4"):
        return f"penguin-vl quantize {folders} --weights {precision}"
    return f"penguin-vl export {folders} --dtype {PRECISIONS.get(precision, 'float16')}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
