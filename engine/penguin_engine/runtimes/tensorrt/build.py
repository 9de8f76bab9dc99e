"""An exported folder -> TensorRT plans for this machine, in `DIR/tensorrt`.

The networks are strongly typed: precisions are those of the graphs. The decoder has a profile for prefill and one for
decoding. What TensorRT has timed is kept in `timing.cache`, so that a second build is quicker. Plans appear when all of
them are complete.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorrt as trt

from penguin_engine.export.manifest import (
    DECODER,
    DECODER_PLAN,
    PLAN_FOLDER,
    PLAN_STAGING,
    TIMING_CACHE,
    VISION,
    VISION_PLAN,
    Manifest,
    hash_files,
)
from penguin_engine.export.staging import put_into_place, staging, writing
from penguin_engine.runtimes.tensorrt.plans import PlanManifest, check_buildable, export_hash
from penguin_engine.runtimes.tensorrt.runtime import CudaDevice
from penguin_engine.runtimes.tensorrt.shapes import (
    PlanLimits,
    ShapeProfile,
    decoder_profiles,
    plan_shapes,
    vision_profiles,
)
from penguin_models.errors import EngineError

Progress = Callable[[str, int, int], None]
"""Called with the phase, the steps done and all its steps."""


@dataclass(frozen=True)
class BuildOptions:
    """How plans are built.

    Attributes:
        precision: "fp32", "fp16", "bf16", "fp8" or "int4"; it must be what the folder holds, which None takes.
        limits: of the inputs.
        workspace_mib: memory that TensorRT may use while it tries kernels; as much as there is if None.
    """

    precision: str | None = None
    limits: PlanLimits = field(default_factory=PlanLimits)
    workspace_mib: int | None = None


def build(
    folder: Path,
    device: str = "cuda",
    options: BuildOptions | None = None,
    progress: Progress = lambda phase, done, steps: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> PlanManifest:
    """Builds the plans of an exported folder.

    Args:
        folder: made by `penguin-vl export`.
        device: "cuda" or "cuda:N", on which the plans are to run.
        options: how.
        progress: called as the build goes on, from TensorRT's threads.
        cancelled: asked between two steps; a cancelled build leaves what was there before.

    Raises:
        EngineError: there is no such GPU, the folder is damaged, TensorRT here cannot build it, or the build failed or
            was cancelled.
    """
    options = options or BuildOptions()
    gpu = CudaDevice(device)
    manifest = Manifest.read(folder)
    precision = check_buildable(manifest, options.precision, gpu.machine, folder)
    manifest.verify(folder)
    target = folder / PLAN_FOLDER
    with staging(folder / PLAN_STAGING, target) as temporary, writing(target):
        target.mkdir(exist_ok=True)
        staged = temporary / PLAN_FOLDER
        staged.mkdir()
        with gpu.active():  # TensorRT builds for the GPU that is current in the thread, without one for the first
            _PlanBuilder(folder, target / TIMING_CACHE, options, progress, cancelled).build(manifest, staged)
        files = hash_files(staged, [VISION_PLAN, DECODER_PLAN])
        plan = PlanManifest(
            gpu.machine, precision, options.limits, plan_shapes(manifest, options.limits), export_hash(folder), files
        )
        plan.write(staged)
        shutil.copy2(target / TIMING_CACHE, staged / TIMING_CACHE)
        put_into_place(staged, target, temporary / "replaced")
    return plan


class _PlanBuilder:
    """Builds one plan after the other with one timing cache; its GPU must be current as long as it lives."""

    def __init__(
        self, folder: Path, cache: Path, options: BuildOptions, progress: Progress, cancelled: Callable[[], bool]
    ):
        self._folder, self._cache, self._options = folder, cache, options
        self._progress, self._cancelled = progress, cancelled
        self._logger = _Logger()
        self._builder = trt.Builder(self._logger)

    def build(self, manifest: Manifest, target: Path) -> None:
        """Builds the plans of an exported folder."""
        limits = self._options.limits
        self._build(VISION, target / VISION_PLAN, vision_profiles(manifest, limits))
        self._build(DECODER, target / DECODER_PLAN, decoder_profiles(manifest, limits))

    def _build(self, graph: str, plan: Path, profiles: list[ShapeProfile]) -> None:
        network = self._parse(graph)
        _fix_buffers(network, profiles)
        config = self._builder.create_builder_config()
        for shapes in profiles:
            config.add_optimization_profile(self._profile(graph, shapes))
        if self._options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._options.workspace_mib * 2**20)
        self._start_from_timings(config)
        monitor = _monitor(self._progress, self._cancelled)
        config.progress_monitor = monitor
        serialized = self._builder.build_serialized_network(network, config)
        timings = config.get_timing_cache().serialize()
        _write(self._cache, timings)
        if self._cancelled():
            raise EngineError(f"the build of {graph} was cancelled; what was built before is as it was")
        if serialized is None:
            raise EngineError(f"TensorRT {trt.__version__} could not build {graph}: {self._logger.reason()}")
        _write(plan, serialized)

    def _parse(self, graph: str) -> Any:
        # TensorRT 11 knows no other networks and ignores the flag.
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(self._folder / graph)):
            errors = "; ".join(parser.get_error(i).desc() for i in range(min(3, parser.num_errors)))
            raise EngineError(f"TensorRT {trt.__version__} cannot read {self._folder / graph}: {errors}")
        return network

    def _profile(self, graph: str, shapes: ShapeProfile) -> Any:
        profile = self._builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, min=sizes.minimum, opt=sizes.optimum, max=sizes.maximum)
        if not profile:
            raise EngineError(f"TensorRT {trt.__version__} refuses the shapes of {graph}: {self._logger.reason()}")
        return profile

    def _start_from_timings(self, config: Any) -> None:
        """Takes over what an earlier build has timed; nothing where that was another version or GPU."""
        stored = self._cache.read_bytes() if self._cache.is_file() else b""
        for content in (stored, b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return


def _fix_buffers(network: Any, profiles: list[ShapeProfile]) -> None:
    """Gives cache buffers their size: TensorRT updates in place only what has a fixed one."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = profiles[0].get(tensor.name)
        if sizes is not None and tensor.name.startswith("past_") and sizes.minimum == sizes.maximum:
            tensor.shape = sizes.minimum


def _write(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
    partial.replace(path)


class _Logger(trt.ILogger):  # type: ignore[misc]
    """Remembers what went wrong."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(msg)

    def reason(self) -> str:
        """The last errors in one line."""
        return " ".join("; ".join(self._errors[-3:]).split())[:500] or "no reason was given"


def _monitor(progress: Progress, cancelled: Callable[[], bool]) -> Any:
    """Reports the phases of a build and stops it where that is asked for."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.get(phase_name, 0)
            progress(phase_name, steps, steps)

    return Monitor()
