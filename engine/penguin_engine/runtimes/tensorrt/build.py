"""Builds TensorRT plans of an exported folder for this machine, in `DIR/tensorrt`.

The networks are strongly typed: precisions are those of the graphs. The decoder has an optimisation profile for prefill
and one for decoding. TensorRT's timings are kept in `timing.cache`, so that a second build is faster. Plans appear when
all of them are complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt

from penguin_engine.export.manifest import (
    DECODER,
    DECODER_PLAN,
    PLAN_FOLDER,
    PLAN_MANIFEST,
    PLAN_STAGING,
    TIMING_CACHE,
    VISION,
    VISION_PLAN,
    Manifest,
    hash_files,
    write_json,
)
from penguin_engine.export.staging import put_into_place, staging
from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice
from penguin_engine.runtimes.tensorrt.plans import PlanManifest, check_buildable, export_hash
from penguin_engine.runtimes.tensorrt.shapes import (
    PlanLimits,
    ShapeProfile,
    decoder_profiles,
    plan_shapes,
    vision_profiles,
)
from penguin_models.atomic_write import atomic_write, writing
from penguin_models.errors import EngineError

Progress = Callable[[str, int, int], None]
"""Called with the name of a phase, the number of steps done and the number of all its steps."""


def build(
    folder: Path,
    device: str = "cuda",
    limits: PlanLimits | None = None,
    precision: str | None = None,
    workspace_mib: int | None = None,
    progress: Progress = lambda phase, done, steps: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> PlanManifest:
    """Builds the plans of an exported folder for the GPU "cuda" or "cuda:N".

    `precision`, a key of `PRECISIONS`, must be that of the folder; None for any. `workspace_mib` limits the memory for
    trying kernels, in MiB. `progress` and `cancelled`, which returns whether to stop, are called between steps from
    TensorRT's threads. A cancelled build leaves earlier plans unchanged.

    Raises:
        EngineError: The GPU does not exist, the folder is damaged, TensorRT cannot build it, or the build failed or was
            cancelled.
        WriteError: The plans cannot be written; earlier ones are unchanged.
    """
    gpu = CudaDevice(device)
    manifest = Manifest.read(folder)
    precision = check_buildable(manifest, precision, gpu.machine, folder)
    manifest.verify(folder)
    target, limits = folder / PLAN_FOLDER, limits or PlanLimits()
    with staging(folder / PLAN_STAGING, target) as temporary, writing(target):
        target.mkdir(exist_ok=True)
        staged = temporary / PLAN_FOLDER
        staged.mkdir()
        with gpu.active():  # TensorRT builds for the GPU that is current in the thread, by default the first
            builder = _PlanBuilder(target / TIMING_CACHE, workspace_mib, progress, cancelled)
            builder.build(folder / VISION, staged / VISION_PLAN, vision_profiles(manifest, limits))
            builder.build(folder / DECODER, staged / DECODER_PLAN, decoder_profiles(manifest, limits))
            del builder  # while its GPU is current
        files = hash_files(staged, [VISION_PLAN, DECODER_PLAN])
        plan = PlanManifest(gpu.machine, precision, limits, plan_shapes(manifest, limits), export_hash(folder), files)
        write_json(plan, staged / PLAN_MANIFEST)
        shutil.copy2(target / TIMING_CACHE, staged / TIMING_CACHE)
        put_into_place(staged, target, temporary / "replaced")
    return plan


class _PlanBuilder:
    """Builds plans one after the other with one timing cache; its GPU must stay current while it exists."""

    def __init__(
        self, timing_cache: Path, workspace_mib: int | None, progress: Progress, cancelled: Callable[[], bool]
    ):
        self._timing_cache, self._workspace_mib = timing_cache, workspace_mib
        self._progress, self._cancelled = progress, cancelled
        self._logger = _Logger()
        self._builder = trt.Builder(self._logger)

    def build(self, graph: Path, plan: Path, profiles: list[ShapeProfile]) -> None:
        network = self._parse(graph)
        _fix_buffers(network, profiles)
        config = self._builder.create_builder_config()
        for shapes in profiles:
            config.add_optimization_profile(self._profile(graph, shapes))
        if self._workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._workspace_mib * 2**20)
        self._load_timings(config)
        monitor = _Monitor(self._progress, self._cancelled)
        config.progress_monitor = monitor
        serialized = self._builder.build_serialized_network(network, config)
        self._save_timings(config)
        if self._cancelled():
            raise EngineError(f"the build of {graph.name} was cancelled; earlier plans are unchanged")
        if serialized is None:
            raise EngineError(f"TensorRT {trt.__version__} could not build {graph.name}: {self._logger.reason()}")
        plan.write_bytes(serialized)

    def _parse(self, graph: Path) -> Any:
        # From TensorRT 11 on, all networks are strongly typed and the flag is ignored.
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            errors = "; ".join(parser.get_error(i).desc() for i in range(min(3, parser.num_errors)))
            raise EngineError(f"TensorRT {trt.__version__} cannot read {graph}: {errors}")
        return network

    def _profile(self, graph: Path, shapes: ShapeProfile) -> Any:
        profile = self._builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, min=sizes.minimum, opt=sizes.optimum, max=sizes.maximum)
        if not profile:
            raise EngineError(f"TensorRT {trt.__version__} rejects the shapes of {graph.name}: {self._logger.reason()}")
        return profile

    def _load_timings(self, config: Any) -> None:
        """Uses the timings of an earlier build, or none if they are of another version or GPU."""
        stored = self._timing_cache.read_bytes() if self._timing_cache.is_file() else b""
        for content in (stored, b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return

    def _save_timings(self, config: Any) -> None:
        with atomic_write(self._timing_cache, "wb") as file:
            file.write(config.get_timing_cache().serialize())


def _fix_buffers(network: Any, profiles: list[ShapeProfile]) -> None:
    """Gives cache buffers a fixed size, without which TensorRT cannot update them in place."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = profiles[0].get(tensor.name)
        if sizes is not None and tensor.name.startswith("past_") and sizes.minimum == sizes.maximum:
            tensor.shape = sizes.minimum


class _Logger(trt.ILogger):  # type: ignore[misc]
    """Collects error messages."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(msg)

    def reason(self) -> str:
        """Returns the last errors in one line."""
        return " ".join("; ".join(self._errors[-3:]).split())[:500] or "no reason was given"


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Reports the phases of a build and stops it on request; TensorRT calls it from any of its threads."""

    def __init__(self, progress: Progress, cancelled: Callable[[], bool]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress, self._cancelled = progress, cancelled
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._steps[phase_name] = num_steps
        self._progress(phase_name, 0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._progress(phase_name, step + 1, self._steps.get(phase_name, step + 1))
        return not self._cancelled()

    def phase_finish(self, phase_name: str) -> None:
        steps = self._steps.get(phase_name, 0)
        self._progress(phase_name, steps, steps)
