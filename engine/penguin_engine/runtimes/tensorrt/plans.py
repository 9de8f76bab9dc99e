"""TensorRT plans beside an exported folder, and on which machine they run. Does not import tensorrt.

A plan is compiled for one version of TensorRT and one kind of GPU. `DIR/tensorrt/plan.json` says for which, and a plan
that does not fit is refused with the command that builds it again.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from penguin_engine.export.manifest import MANIFEST, PLAN_FOLDER, PLAN_MANIFEST, ExportedFile, Manifest, hash_file
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits, plan_shapes
from penguin_models.errors import EngineError

FORMAT = 1
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "int4": "int4"}
"""Names of `--precision` and what the exported folder must hold: networks are strongly typed, so types come from it."""
_NEEDS_TENSORRT = {"portable": (10, 1), "fused": (10, 15)}
_NEEDS_COMPUTE = {"fp8": (8, 9), "bf16": (8, 0), "int4": (8, 0)}


@dataclass(frozen=True)
class Machine:
    """What a plan depends on.

    Attributes:
        tensorrt: version.
        gpu: its name.
        compute_capability: for example "8.7".
    """

    tensorrt: str
    gpu: str
    compute_capability: str


@dataclass(frozen=True)
class PlanManifest:
    """What `plan.json` says.

    Attributes:
        machine: that built the plans.
        precision: as `--precision` names it.
        limits: of the inputs.
        shapes: of the inputs, as `plan_shapes` gives them.
        export_sha256: hash of the exported folder's manifest.
        files: the plans.
    """

    machine: Machine
    precision: str
    limits: PlanLimits
    shapes: dict[str, Any]
    export_sha256: str
    files: dict[str, ExportedFile]

    def write(self, folder: Path) -> None:
        """Writes `plan.json` into a folder of plans."""
        (folder / PLAN_MANIFEST).write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, exported: Path) -> PlanManifest:
        """Reads `plan.json` of an exported folder.

        Raises:
            EngineError: there are no plans, or they are damaged or of another version.
        """
        path = exported / PLAN_FOLDER / PLAN_MANIFEST
        if not path.is_file():
            raise EngineError(
                f"{exported} has no TensorRT plans; build them with: penguin-vl build {_quoted(exported)}"
            )
        try:
            raw = json.loads(path.read_text())
            if not isinstance(raw, dict):
                raise ValueError("it is no JSON object")
            if raw.get("format") != FORMAT:
                raise ValueError(f"its format is {raw.get('format')!r}, this version reads {FORMAT}")
            known: dict[str, Any] = {f.name: raw[f.name] for f in fields(cls)}
            known["machine"] = Machine(**raw["machine"])
            known["limits"] = PlanLimits(**raw["limits"])
            known["files"] = {name: ExportedFile(**value) for name, value in raw["files"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            raise EngineError(
                f"{path} cannot be read ({err}); build the plans again: penguin-vl build {_quoted(exported)}"
            ) from err
        return cls(**known)

    def check(self, exported: Path, manifest: Manifest, machine: Machine, device: str = "cuda") -> None:
        """Compares with a machine and with what is in the folder now; reads the plans once, which takes seconds.

        Args:
            exported: the folder.
            manifest: of the export.
            machine: that is to run the plans.
            device: its GPU.

        Raises:
            EngineError: something differs; names it, and the command that builds the plans again.
        """
        different = [
            f"{what} {ours!r}, here it is {theirs!r}"
            for what, ours, theirs in (
                ("TensorRT", self.machine.tensorrt, machine.tensorrt),
                ("the GPU", self.machine.gpu, machine.gpu),
                ("compute capability", self.machine.compute_capability, machine.compute_capability),
            )
            if ours != theirs
        ]
        if self.export_sha256 != export_hash(exported):
            different.append("another export of the model than the folder holds now")
        elif self.shapes != plan_shapes(manifest, self.limits):
            different.append("other shapes than this version of penguin_vl uses")
        for name, file in self.files.items():
            path = exported / PLAN_FOLDER / name
            if not path.is_file() or path.stat().st_size != file.bytes:
                different.append(f"{name} with {file.bytes} bytes, which is missing or cut short")
            elif not different and hash_file(path) != file:
                different.append(f"{name} as it was built, which has changed since: its hash differs")
        if different:
            raise EngineError(
                f"the plans in {exported / PLAN_FOLDER} do not fit this machine: built for {'; '.join(different)}. "
                f"Build them again: {self.command(exported, device)}"
            )

    def command(self, exported: Path, device: str = "cuda", max_patches: int | None = None) -> str:
        """The command that builds these plans for a device, or such for larger images."""
        limits = f"--max-tokens {self.limits.max_tokens} --max-patches {max_patches or self.limits.max_patches}"
        place = "" if device == "cuda" else f" --device {device}"
        return f"penguin-vl build {_quoted(exported)} --precision {self.precision} {limits}{place}"


def export_hash(exported: Path) -> str:
    """Hash of an exported folder: of its manifest, which holds those of all other files."""
    return hash_file(exported / MANIFEST).sha256


def check_buildable(manifest: Manifest, precision: str | None, machine: Machine, exported: Path) -> str:
    """Whether TensorRT here can build a folder in a precision.

    Args:
        manifest: of the exported folder.
        precision: as `--precision` names it; what the folder holds if None.
        machine: that builds.
        exported: the folder, for messages.

    Returns:
        The precision.

    Raises:
        EngineError: it cannot; says what to do.
    """
    held = next((name for name, holds in PRECISIONS.items() if holds == manifest.precision), None)
    again = f"penguin-vl export --model {shlex.quote(manifest.source)} --out {_quoted(exported)}"
    if manifest.profile not in _NEEDS_TENSORRT or held is None:
        raise EngineError(
            f"{exported} was exported for ONNX Runtime alone ({manifest.profile}, {manifest.precision}), TensorRT "
            f"cannot read it; export it again: {again} --profile portable --dtype float16"
        )
    if precision is not None and precision != held:
        raise EngineError(
            f"{exported} holds {manifest.precision}, --precision {precision} needs an export of "
            f"{PRECISIONS.get(precision, precision)}: {_export_command(manifest, exported, precision)}"
        )
    needed, version = _NEEDS_TENSORRT[manifest.profile], _version(machine.tensorrt)
    if version < needed:
        raise EngineError(
            f"the {manifest.profile} profile needs TensorRT {_dotted(needed)}, this is {machine.tensorrt}; export it "
            f"again: {again} --profile portable"
        )
    compute = _NEEDS_COMPUTE.get(held, (0, 0))
    if _version(machine.compute_capability) < compute:
        raise EngineError(
            f"{held} needs a GPU of compute capability {_dotted(compute)}, {machine.gpu} has "
            f"{machine.compute_capability}; take --precision fp16: {_export_command(manifest, exported, 'fp16')}"
        )
    return held


def _export_command(manifest: Manifest, exported: Path, precision: str) -> str:
    source, out = shlex.quote(manifest.source), _quoted(exported)
    if precision in ("fp8", "int4"):
        return f"penguin-vl quantize --model {source} --out {out} --profile portable --weights {precision}"
    dtype = PRECISIONS.get(precision, "float16")
    return f"penguin-vl export --model {source} --out {out} --profile portable --dtype {dtype}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
