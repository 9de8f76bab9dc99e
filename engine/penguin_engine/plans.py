"""TensorRT plans beside an exported folder: their shapes, and on which machine they run. Does not import tensorrt.

A plan is compiled for one version of TensorRT and one kind of GPU. `DIR/tensorrt/plan.json` says for which, and a plan
that does not fit is refused with the command that builds it again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from penguin_engine.exported import PATCHES_PER_PASS, TOKENS_PER_STEP
from penguin_engine.manifest import MANIFEST, PROFILES, ExportedFile, Manifest, hash_file
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage

FOLDER = "tensorrt"
VISION_PLAN, DECODER_PLAN, TIMING_CACHE = "vision.plan", "decoder.plan", "timing.cache"
PLAN_MANIFEST = "plan.json"
FORMAT = 1
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "int4": "int4"}
"""Names of `--precision` and what the exported folder must hold: networks are strongly typed, so types come from it."""
PREFILL, DECODE = 0, 1
"""Indices of the decoder's profiles."""
SINGLE, BATCH = 0, 1
"""Indices of the vision graph's profiles: one frame of any size, or several small ones."""
BUCKET_TOKENS = 256
"""A decoding step is captured once for each so many tokens held, where the graph's shapes follow the cache's length."""
_NEEDS_TENSORRT = {"portable": (10, 0), "fused": (10, 15)}
_NEEDS_COMPUTE = {"fp8": (8, 9), "bf16": (8, 0), "int4": (8, 0)}
_SMALL_PATCHES, _SMALL_FRAMES = 512, 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """Sizes of an input that a profile takes."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


ShapeProfile = dict[str, ShapeRange]


@dataclass(frozen=True)
class PlanLimits:
    """How large inputs may be.

    Attributes:
        max_tokens: longest cache; with the "fused" profile every cache takes memory for so many.
        max_patches: of the largest single frame.
    """

    max_tokens: int = 8192
    max_patches: int = PATCHES_PER_PASS

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_tokens", self.max_tokens, BUCKET_TOKENS),
            ("max_patches", self.max_patches, _SMALL_PATCHES),
        ):
            if value < least or (name == "max_tokens" and value % BUCKET_TOKENS):
                multiple = f" and a multiple of {BUCKET_TOKENS}" if name == "max_tokens" else ""
                raise EngineError(f"{name} is {value}, it must be at least {least}{multiple}")


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
        export_sha256: hash of the exported folder's manifest.
        files: the plans.
    """

    machine: Machine
    precision: str
    limits: PlanLimits
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
        path = exported / FOLDER / PLAN_MANIFEST
        if not path.is_file():
            raise EngineError(
                f"{exported} has no TensorRT plans; build them with: penguin-vl build {_quoted(exported)}"
            )
        try:
            raw = json.loads(path.read_text())
            if raw.get("format") != FORMAT:
                raise ValueError(f"its format is {raw.get('format')!r}, this version reads {FORMAT}")
            known: dict[str, Any] = {f.name: raw[f.name] for f in fields(cls)}
            known["machine"] = Machine(**raw["machine"])
            known["limits"] = PlanLimits(**raw["limits"])
            known["files"] = {name: ExportedFile(**value) for name, value in raw["files"].items()}
        except (OSError, ValueError, TypeError, KeyError) as err:
            raise EngineError(
                f"{path} cannot be read ({err}); build the plans again: penguin-vl build {_quoted(exported)}"
            ) from err
        return cls(**known)

    def check(self, exported: Path, machine: Machine) -> None:
        """Compares with a machine and with what is in the folder now.

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
        for name, file in self.files.items():
            path = exported / FOLDER / name
            if not path.is_file() or path.stat().st_size != file.bytes:
                different.append(f"{name} with {file.bytes} bytes, which is missing or cut short")
        if different:
            raise EngineError(
                f"the plans in {exported / FOLDER} do not fit this machine: built for {'; '.join(different)}. "
                f"Build them again: {self.command(exported)}"
            )

    def command(self, exported: Path) -> str:
        """The command that builds these plans."""
        limits = f"--max-tokens {self.limits.max_tokens} --max-patches {self.limits.max_patches}"
        return f"penguin-vl build {_quoted(exported)} --precision {self.precision} {limits}"


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


def vision_profiles(manifest: Manifest, limits: PlanLimits) -> list[ShapeProfile]:
    """Shapes of the vision graph's inputs: one frame of any size, and several small ones."""
    typical = min(1280, limits.max_patches)
    single = _vision_shapes(manifest, (1, 1), (1, typical), (1, limits.max_patches), limits.max_patches)
    small = (_SMALL_FRAMES, _SMALL_PATCHES)
    batch = _vision_shapes(manifest, (2, 1), (_SMALL_FRAMES, 80), small, _SMALL_FRAMES * _SMALL_PATCHES)
    return [single, batch]


def decoder_profiles(manifest: Manifest, limits: PlanLimits) -> list[ShapeProfile]:
    """Shapes of the decoder's inputs: for a prefill, and for a decoding step."""
    return [_decoder_shapes(manifest, limits, PREFILL), _decoder_shapes(manifest, limits, DECODE)]


def fits_vision_plan(images: Sequence[PatchedImage]) -> bool:
    """Whether images may go through the vision plan together."""
    return len(images) == 1 or (
        len(images) <= _SMALL_FRAMES and max(image.grid.area for image in images) <= _SMALL_PATCHES
    )


def check_patches(images: Sequence[PatchedImage], limits: PlanLimits, command: str) -> None:
    """Raises EngineError where an image is larger than the plan takes."""
    for image in images:
        if image.grid.area > limits.max_patches:
            raise EngineError(
                f"an image of {image.grid.area} patches is larger than the {limits.max_patches} that the plan takes; "
                f"lower the token budget, or build with a larger --max-patches: {command}"
            )


def _vision_shapes(manifest: Manifest, least: Shape, typical: Shape, most: Shape, patches: int) -> ShapeProfile:
    counts = (least[0] * least[1], typical[0] * typical[1], patches)
    return {
        "patches": ShapeRange(*((n, manifest.patch_dim) for n in counts)),
        "positions": ShapeRange(*((n, 2) for n in counts)),
        "slots": ShapeRange(least, typical, most),
        "places": ShapeRange(*((n,) for n in counts)),
        "blocks": ShapeRange((1, 1), (max(1, counts[1] // 4), 4), (patches, 4)),
    }


def _decoder_shapes(manifest: Manifest, limits: PlanLimits, kind: int) -> ShapeProfile:
    d = manifest.decoder
    new = (1, TOKENS_PER_STEP, TOKENS_PER_STEP) if kind == PREFILL else (1, 1, 1)
    shapes = {
        "embeddings": ShapeRange(*((n, d.hidden) for n in new)),
        "positions": ShapeRange(*((n,) for n in new)),
    }
    caches = [f"past_{name}_{layer}" for layer in range(d.layers) for name in ("key", "value")]
    if PROFILES[manifest.profile].cache == "buffer":
        buffer = (1, d.kv_heads, limits.max_tokens, d.head_dim)
        return shapes | dict.fromkeys(caches, ShapeRange(buffer, buffer, buffer))
    past = (BUCKET_TOKENS, max(BUCKET_TOKENS, limits.max_tokens // 2), limits.max_tokens)
    rows = ShapeRange(*((n, d.kv_heads, d.head_dim) for n in past))
    return shapes | {"past_mask": ShapeRange(*((n,) for n in past))} | dict.fromkeys(caches, rows)


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
