"""Builds TensorRT plans of an exported folder, in `DIR/tensorrt`.

TensorRT builds for the GPU of this machine; its timings are kept in `timing.cache`, so that a second build is faster.
TensorRT for RTX builds for any GPUs on any machine, and times nothing. The networks are strongly typed: precisions are
those of the graphs. Plans appear when all of them are complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

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
from penguin_engine.runtimes.tensorrt import flavour as flavours
from penguin_engine.runtimes.tensorrt.flavour import Flavour, Messages
from penguin_engine.runtimes.tensorrt.plans import Machine, PlanManifest, check_buildable, export_hash, has_precision
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
    flavour: Flavour,
    device: str = "cuda",
    targets: Sequence[str] = (),
    limits: PlanLimits | None = None,
    precision: str | None = None,
    workspace_mib: int | None = None,
    progress: Progress = lambda phase, done, steps: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> PlanManifest:
    """Builds the plans of an exported folder.

    Args:
        folder: The exported folder.
        flavour: The TensorRT to build with.
        device: For TensorRT, the GPU to build on and for: "cuda" or "cuda:N".
        targets: For TensorRT for RTX, the compute capabilities to build for, as in "8.9"; empty for all that have the
            folder's precision.
        limits: Largest inputs.
        precision: A key of `PRECISIONS`, which must be that of the folder; None for any.
        workspace_mib: Limit of the memory for trying kernels, in MiB.
        progress: Called between steps from TensorRT's threads.
        cancelled: Returns whether to stop; called likewise. A cancelled build leaves earlier plans unchanged.

    Raises:
        EngineError: The GPU does not exist, the folder is damaged, TensorRT cannot build it, or the build failed or was
            cancelled.
        WriteError: The plans cannot be written; earlier ones are unchanged.
    """
    gpu = None if flavour.is_rtx else _open_gpu(device)
    manifest = Manifest.read(folder)
    if gpu is None:
        machine = Machine(flavour.name, flavour.version, _chosen_targets(flavour, targets, manifest))
    else:
        machine = Machine(flavour.name, flavour.version, (gpu.compute_capability,), gpu.name)
    precision = check_buildable(manifest, precision, machine, folder)
    manifest.verify(folder)
    target, limits = folder / PLAN_FOLDER, limits or PlanLimits()
    with staging(folder / PLAN_STAGING, target) as temporary, writing(target), _present(target):
        staged = temporary / PLAN_FOLDER
        staged.mkdir()
        # TensorRT builds for the GPU that is current in the thread, by default the first.
        with nullcontext() if gpu is None else gpu.active():
            builder = _PlanBuilder(flavour, machine, target / TIMING_CACHE, workspace_mib, progress, cancelled)
            for graph, plan_name, profiles in (
                (VISION, VISION_PLAN, vision_profiles(manifest, limits)),
                (DECODER, DECODER_PLAN, decoder_profiles(manifest, limits)),
            ):
                builder.build(folder / graph, staged / plan_name, profiles)
            del builder  # while its GPU is current
        files = hash_files(staged, [VISION_PLAN, DECODER_PLAN])
        shapes = plan_shapes(manifest, limits)
        plan = PlanManifest(machine, precision, limits, shapes, export_hash(folder), files)
        write_json(plan, staged / PLAN_MANIFEST)
        if (target / TIMING_CACHE).is_file():
            shutil.copy2(target / TIMING_CACHE, staged / TIMING_CACHE)
        put_into_place(staged, target, temporary / "replaced")
    return plan


@contextmanager
def _present(folder: Path) -> Iterator[None]:
    """Creates a folder if it does not exist, and removes it if the block leaves it empty."""
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _open_gpu(device: str) -> Any:
    from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice  # needs pycuda, and so does no other flavour

    return CudaDevice(device)


def _chosen_targets(flavour: Flavour, targets: Sequence[str], manifest: Manifest) -> tuple[str, ...]:
    offered = flavour.compute_capabilities
    for capability in targets:
        if capability not in offered:
            names = ", ".join(map(flavours.capability_name, offered))
            raise EngineError(
                f"{flavour.title} does not build for {flavours.capability_name(capability)}; choose from {names}"
            )
    return tuple(dict.fromkeys(targets)) or tuple(c for c in offered if has_precision(manifest, c, flavour.name))


class _PlanBuilder:
    """Builds plans one after the other; if it builds for a GPU, that must stay current while this object exists."""

    def __init__(
        self,
        flavour: Flavour,
        machine: Machine,
        timing_cache: Path,
        workspace_mib: int | None,
        progress: Progress,
        cancelled: Callable[[], bool],
    ):
        self._flavour, self._trt, self._machine = flavour, flavour.api, machine
        self._timing_cache, self._workspace_mib = timing_cache, workspace_mib
        self._progress, self._cancelled = progress, cancelled
        self._messages = Messages(self._trt)
        self._builder = self._trt.Builder(self._messages.logger)

    def build(self, graph: Path, plan: Path, profiles: list[ShapeProfile]) -> None:
        """Builds the plan of a graph."""
        network = self._parse(graph)
        config = self._builder.create_builder_config()
        for shapes in profiles:
            config.add_optimization_profile(self._profile(graph, shapes))
        if self._workspace_mib is not None:
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, self._workspace_mib * 2**20)
        # Graphs have phases of the same names.
        progress = partial(_report, self._progress, graph.stem)
        monitor = _monitor(self._trt, progress, self._cancelled)  # TensorRT does not keep it alive
        config.progress_monitor = monitor
        if self._flavour.is_rtx:
            self._set_targets(config)
        else:
            self._load_timings(config)
        with plan.open("wb") as file:
            built = self._write(network, config, file)
        if not self._flavour.is_rtx:
            self._save_timings(config)
        if self._cancelled():
            raise EngineError(f"the build of {graph.name} was cancelled; earlier plans are unchanged")
        if not built:
            raise EngineError(f"{self._flavour.title} could not build {graph.name}: {self._messages.reason()}")

    def _write(self, network: Any, config: Any, file: IO[bytes]) -> bool:
        """Builds into a file, piece by piece where TensorRT can; returns whether that was possible."""
        if hasattr(self._builder, "build_serialized_network_to_stream"):  # not in TensorRT 10.3
            failures: list[OSError] = []
            writer = _writer(self._trt, file, failures)
            built = bool(self._builder.build_serialized_network_to_stream(network, config, writer))
            if failures:  # TensorRT for RTX 1.7.1 says that it was built
                raise failures[0]
            return built
        serialized = self._builder.build_serialized_network(network, config)
        if serialized is not None:
            file.write(serialized)
        return serialized is not None

    def _parse(self, graph: Path) -> Any:
        # From TensorRT 11 on, all networks are strongly typed and the flag is ignored.
        flags = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        parser = self._trt.OnnxParser(network, self._messages.logger)
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            found = dict.fromkeys(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
            reason = "; ".join(list(found)[:3]) or self._messages.reason()
            raise EngineError(f"{self._flavour.title} cannot read {graph}: {' '.join(reason.split())[:500]}")
        return network

    def _profile(self, graph: Path, shapes: ShapeProfile) -> Any:
        profile = self._builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, min=sizes.minimum, opt=sizes.optimum, max=sizes.maximum)
        if not profile:
            raise EngineError(f"{self._flavour.title} rejects the shapes of {graph.name}: {self._messages.reason()}")
        return profile

    def _set_targets(self, config: Any) -> None:
        # Recorded steps may not allocate: all working memory is ours.
        config.set_flag(self._trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = len(self._machine.compute_capabilities)
        for index, capability in enumerate(self._machine.compute_capabilities):
            config.set_compute_capability(self._flavour.compute_capabilities[capability], index)

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


def _report(progress: Progress, graph: str, phase: str, done: int, steps: int) -> None:
    progress(f"{graph}: {phase}", done, steps)


def _writer(trt: Any, file: IO[bytes], failures: list[OSError]) -> Any:
    """Returns what writes a plan to a file, and stores errors in a list."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: Any) -> int:
            try:
                return file.write(data)
            except OSError as err:  # TensorRT would print it with its traceback and go on
                failures.append(err)
                return 0

    return Writer()


def _monitor(trt: Any, progress: Progress, cancelled: Callable[[], bool]) -> Any:
    """Returns what reports the phases of a build and stops it on request; TensorRT calls it from any of its threads."""
    steps: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, steps.get(phase_name, step + 1))
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            progress(phase_name, steps.get(phase_name, 0), steps.get(phase_name, 0))

    return Monitor()
