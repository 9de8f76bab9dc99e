"""`penguin-vl build`: an exported folder -> TensorRT plans for this machine."""

from __future__ import annotations

import importlib.util
import threading
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penguin_models.errors import EngineError
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout
from penguin_ros.cli.stopping import stopping_like_ctrl_c

if TYPE_CHECKING:
    from penguin_engine.runtimes.tensorrt.plans import PlanManifest


def build(
    folder: Annotated[Path, typer.Argument(help="Made by `penguin-vl export`; the plans go into DIR/tensorrt.")],
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "fp8", "int4"] | None,
        typer.Option(help="What the folder must hold; whatever it holds if not given."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest cache in tokens, a multiple of 256.", min=256)] = 8192,
    max_patches: Annotated[
        int,
        typer.Option(
            help="Patches of the largest image: a memory holds 640x480 as 1564, 1280x720 as 4784, 1920x1080 as 10764. "
            "Each more costs GPU memory, see docs/jetson.md.",
            min=512,
        ),
    ] = 10_764,
    workspace_mib: Annotated[
        int | None, typer.Option(help="GPU memory for trying kernels; as much as there is if not given.", min=16)
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, ...")] = "cuda",
    as_json: JsonOption = False,
) -> None:
    """Compile plans for this GPU, which takes a while. Ctrl-C stops it and leaves earlier plans as they are."""
    from penguin_engine.runtimes.tensorrt.shapes import PlanLimits

    missing = [name for name in ("tensorrt", "pycuda") if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(
            f"building plans needs {' and '.join(missing)}; on a Jetson the first comes with JetPack, the second with "
            "pip: see docs/jetson.md"
        )
    from penguin_engine.runtimes.tensorrt.build import BuildOptions
    from penguin_engine.runtimes.tensorrt.build import build as run

    options = BuildOptions(precision, PlanLimits(max_tokens, max_patches), workspace_mib)
    cancelled = threading.Event()
    with stopping_like_ctrl_c(), _Bars() as show, ThreadPoolExecutor(1) as pool:
        building = pool.submit(run, folder, device, options, show, cancelled.is_set)
        plan = _wait(building, cancelled)
    if as_json:
        print_json({"folder": str(folder), "precision": plan.precision, "machine": vars(plan.machine)})
        return
    size = sum(file.bytes for file in plan.files.values())
    stdout.out(
        f"{folder}: {plan.precision} plans of {size / 2**20:.0f} MiB for {plan.machine.gpu}, "
        f"TensorRT {plan.machine.tensorrt}"
    )


def _wait(building: Future[PlanManifest], cancelled: threading.Event) -> PlanManifest:
    """Waits in the main thread, which alone is told of Ctrl-C, while the build runs in another."""
    while True:
        try:
            return building.result(timeout=0.2)
        except TimeoutError:
            continue
        except KeyboardInterrupt:
            cancelled.set()


class _Bars:
    """Bars of the phases that are going on."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=stderr, transient=True)
        self._tasks: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def __call__(self, phase: str, done: int, steps: int) -> None:
        """Called from TensorRT's threads."""
        with self._lock:
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(phase, total=steps)
            self._bars.update(self._tasks[phase], completed=done, total=steps, visible=done < steps)
