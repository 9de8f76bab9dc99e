"""TensorRT plans of an exported folder and the machine on which they run. Does not import tensorrt.

A plan is compiled for one version of TensorRT and one kind of GPU, which `DIR/tensorrt/plan.json` records. A plan that
does not fit this machine is refused with the command that builds it again.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penguin_engine.export.manifest import MANIFEST, PLAN_FOLDER, PLAN_MANIFEST, Files, Manifest, hash_file, read_json
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits, plan_shapes
from penguin_models.errors import EngineError

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "int4": "int4"}
"""`--precision` and the precision that the exported folder must have, because networks are strongly typed."""
_NEEDS_TENSORRT = {"portable": (10, 1), "fused": (10, 15)}
_NEEDS_COMPUTE = {"fp8": (8, 9), "bf16": (8, 0), "int4": (8, 0)}


@dataclass(frozen=True)
class Machine:
    """What a plan depends on."""

    tensorrt: str  # version of TensorRT
    gpu: str  # name of the GPU
    compute_capability: str  # for example "8.7"


@dataclass(frozen=True)
class PlanManifest:
    """Content of `plan.json`."""

    machine: Machine  # where the plans were built
    precision: str  # a key of `PRECISIONS`
    limits: PlanLimits
    shapes: dict[str, Any]  # result of `plan_shapes`
    export_sha256: str  # hash of the exported folder's manifest
    files: Files  # the plans

    @classmethod
    def read(cls, exported: Path) -> PlanManifest:
        """Reads `plan.json` of an exported folder; raises EngineError if there are no plans or they are damaged."""
        path = exported / PLAN_FOLDER / PLAN_MANIFEST
        command = f"penguin-vl build {shlex.quote(str(exported))}"
        if not path.is_file():
            raise EngineError(f"{exported} has no TensorRT plans; build them with: {command}")
        try:
            return read_json(cls, path)
        except (OSError, ValueError) as err:
            raise EngineError(f"{path} cannot be read ({err}); build the plans again: {command}") from err

    def check(self, exported: Path, manifest: Manifest, machine: Machine, device: str = "cuda") -> None:
        """Raises EngineError if the plans do not fit the machine and the folder; reads them, which takes seconds."""
        names = {"tensorrt": "TensorRT", "gpu": "the GPU", "compute_capability": "compute capability"}
        different = [
            f"{names[key]} {built!r}, here it is {vars(machine)[key]!r}"
            for key, built in vars(self.machine).items()
            if built != vars(machine)[key]
        ]
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
                f"Build them again: {self.command(exported, device)}"
            )

    def command(self, exported: Path, device: str = "cuda", max_patches: int | None = None) -> str:
        """Returns the command that builds these plans again, optionally for larger images."""
        limits = f"--max-tokens {self.limits.max_tokens} --max-patches {max_patches or self.limits.max_patches}"
        on_device = "" if device == "cuda" else f" --device {device}"
        return f"penguin-vl build {shlex.quote(str(exported))} --precision {self.precision} {limits}{on_device}"


def export_hash(exported: Path) -> str:
    """Returns the hash of an exported folder's manifest, which contains the hashes of all other files."""
    return hash_file(exported / MANIFEST).sha256


def check_buildable(manifest: Manifest, precision: str | None, machine: Machine, exported: Path) -> str:
    """Returns the folder's precision as a key of `PRECISIONS`; it must be `precision`, if that is not None.

    Raises:
        EngineError: TensorRT cannot build the folder; the message says what to do.
    """
    exported_precision = next((name for name, held in PRECISIONS.items() if held == manifest.precision), None)
    if manifest.profile not in _NEEDS_TENSORRT or exported_precision is None:
        raise EngineError(
            f"{exported} was exported only for ONNX Runtime ({manifest.profile}, {manifest.precision}); for TensorRT, "
            f"export it again: {_export_command(manifest, exported, 'fp16')}"
        )
    if precision is not None and precision != exported_precision:
        raise EngineError(
            f"{exported} contains {manifest.precision}, --precision {precision} needs an export of "
            f"{PRECISIONS.get(precision, precision)}: {_export_command(manifest, exported, precision)}"
        )
    needed = _NEEDS_TENSORRT[manifest.profile]
    if _version(machine.tensorrt) < needed:
        raise EngineError(
            f"the {manifest.profile} profile needs TensorRT {_dotted(needed)}, this is {machine.tensorrt}; export it "
            f"again: {_export_command(manifest, exported, exported_precision)}"
        )
    compute = _NEEDS_COMPUTE.get(exported_precision, (0, 0))
    if _version(machine.compute_capability) < compute:
        raise EngineError(
            f"{exported_precision} needs a GPU of compute capability {_dotted(compute)}, {machine.gpu} has "
            f"{machine.compute_capability}; use --precision fp16: {_export_command(manifest, exported, 'fp16')}"
        )
    return exported_precision


def _export_command(manifest: Manifest, exported: Path, precision: str) -> str:
    folders = f"--model {shlex.quote(manifest.source)} --out {shlex.quote(str(exported))} --profile portable"
    if precision in ("fp8", "int4"):
        return f"penguin-vl quantize {folders} --weights {precision}"
    return f"penguin-vl export {folders} --dtype {PRECISIONS.get(precision, 'float16')}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
