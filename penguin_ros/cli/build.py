"""`penguin-vl build`: an exported folder -> TensorRT plans."""

from __future__ import annotations

import importlib.util
import threading
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from penguin_models.errors import EngineError
from penguin_ros.cli.output import JsonOption, print_json, stdout
from penguin_ros.cli.phases import Phases
from penguin_ros.stopping import stopping_like_ctrl_c

if TYPE_CHECKING:
    from penguin_engine.runtimes.tensorrt.plans import PlanManifest


def build(
    folder: Annotated[Path, typer.Argument(help="Folder from `penguin-vl export`; the plans go into FOLDER/tensorrt.")],
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "fp8", "int4"] | None,
        typer.Option(help="Precision that the folder must have; default: any."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Length of the KV cache in tokens, a multiple of 256.", min=256)
    ] = 8192,
    max_patches: Annotated[
        int,
        typer.Option(
            help="Patches of the largest image: 1564 for 640x480, 4784 for 1280x720, 10764 for 1920x1080. More patches "
            "cost GPU memory, see docs/jetson.md.",
            min=512,
        ),
    ] = 10_764,
    workspace_mib: Annotated[
        int | None, typer.Option(help="GPU memory for choosing kernels; default: all.", min=16, max=2**30)
    ] = None,
    device: Annotated[str, typer.Option(help="GPU for TensorRT: cuda, cuda:1, ...")] = "cuda",
    flavour: Annotated[
        Literal["tensorrt", "rtx"] | None,
        typer.Option(
            help="tensorrt: TensorRT, for the GPU of this machine; rtx: TensorRT for RTX, for the GPUs of --for, on "
            "any machine. Default: the one that is installed, tensorrt before rtx."
        ),
    ] = None,
    for_: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="SM",
            help="Compute capability for rtx: sm86 (RTX 30), sm89 (RTX 40), sm120 (RTX 50), ...; can be repeated. "
            "Default: all that have the precision.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile TensorRT plans, which takes minutes. Ctrl-C stops it and leaves earlier plans unchanged."""
    from penguin_engine.runtimes.tensorrt import flavour as flavours
    from penguin_engine.runtimes.tensorrt.shapes import PlanLimits

    targets = flavours.parse_capabilities(for_ or [])
    name: str = flavour or flavours.default()
    if targets and name != flavours.RTX:
        raise typer.BadParameter("goes with --flavour rtx; TensorRT builds for the GPU of --device", param_hint="--for")
    loaded = flavours.load(name)
    if name == flavours.TENSORRT and importlib.util.find_spec("pycuda") is None:
        raise EngineError("building plans for the GPU of this machine needs pycuda: pip install pycuda")
    from penguin_engine.runtimes.tensorrt.build import build as run

    limits = PlanLimits(max_tokens, max_patches)
    cancelled = threading.Event()
    options = (folder, loaded, device, targets, limits, precision, workspace_mib)
    with stopping_like_ctrl_c(), Phases() as phases, ThreadPoolExecutor(1) as pool:
        building = pool.submit(run, *options, phases.show, cancelled.is_set)
        plan = _wait(building, cancelled)
    if as_json:
        print_json({"folder": str(folder), "precision": plan.precision, "machine": vars(plan.machine)})
        return
    size = sum(file.bytes for file in plan.files.values())
    machine = plan.machine
    gpus = machine.gpu or ", ".join(map(flavours.capability_name, machine.compute_capabilities))
    stdout.out(f"{folder}: {plan.precision} plans of {size / 2**20:.0f} MiB for {gpus}, {loaded.title}")


def _wait(building: Future[PlanManifest], cancelled: threading.Event) -> PlanManifest:
    """Waits in the main thread, the only one that gets Ctrl-C, while the build runs in another."""
    while True:
        try:
            return building.result(timeout=0.2)
        except TimeoutError:
            continue
        except KeyboardInterrupt:
            cancelled.set()
