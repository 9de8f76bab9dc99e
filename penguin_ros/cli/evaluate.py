"""`penguin-vl evaluate`: scores on recorded bags, and tools for reports and questions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from penguin_ros.cli.evaluate_output import ProgressBar, markdown_scores, print_comparison, print_results
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RuntimeOption,
    print_json,
    print_note,
    stdout,
    working,
)
from penguin_ros.cli.tabletop import SizeOption, parse_size, parse_weights
from penguin_ros.shipped import EXAMPLE, MODEL, require_shipped

if TYPE_CHECKING:
    from penguin_ros.evaluation.bags.run import RunOptions
    from penguin_ros.evaluation.records import ModelSpec, RunSettings
    from penguin_ros.evaluation.tabletop.scenes import AskedTurn

app = typer.Typer(help="Score a model on recorded bags and on the simulated table-top.", no_args_is_help=True)

EXAMPLE_PARAMETERS: dict[str, Any] = {"token_budget": 512, "answer.max_new_tokens": 64}
"""The budget that the shipped model was trained with; the clips exceed it 2.25 times, so the memory must make room."""


class Baseline(str, Enum):
    """Methods that the memory can be compared with in the same run."""

    last_4 = "last-4"
    offline = "offline"


@app.command()
def bags(
    bag: Annotated[list[Path], typer.Argument(help="Bag folders, or single .mcap or .db3 files.")],
    questions: Annotated[
        Path, typer.Option(help="JSON lines file of questions with their times and expected results.")
    ],
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted run in it is resumed.")] = Path(
        "evaluation"
    ),
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(help="Also answer from the last 4 frames only, or with the released offline procedure."),
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Also answer like the live node on this machine, which drops frames.")
    ] = False,
    realtime_factor: Annotated[
        float, typer.Option(help="Multiply the duration of work in --realtime, to estimate a slower machine.", min=0.01)
    ] = 1.0,
    param: Annotated[
        list[str] | None, typer.Option(help="Node parameter as NAME=VALUE, for example token_budget=2048.")
    ] = None,
    params_file: Annotated[
        Path | None, typer.Option(help="ROS parameter file of a robot; --param overrides its values.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes, each with its own model.", min=1)] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster (local, auto, ray://HOST:PORT) that runs the bags.")
    ] = None,
    ray_gpus: Annotated[float, typer.Option(help="GPUs per bag on the Ray cluster.", min=0)] = 0.0,
    title: Annotated[str, typer.Option(help="Title of the report; default: the model's name.")] = "",
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard earlier results in --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask questions about recorded bags, each at its time, and score the answers."""
    from penguin_ros.evaluation.bags.node_parameters import parse_parameter, read_parameters
    from penguin_ros.evaluation.bags.run import RunOptions
    from penguin_ros.evaluation.records import ModelSpec, RunSettings

    methods: list[Any] = ["memory", *(["realtime"] if realtime else []), *(item.value for item in baseline or [])]
    parameters = (read_parameters(params_file) if params_file else {}) | dict(map(parse_parameter, param or []))
    settings = RunSettings(methods=methods, parameters=parameters, realtime_factor=realtime_factor)
    settings.node()  # reports values out of range before a bag is read
    threads = max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 else 0
    spec = ModelSpec(path=model, runtime=runtime, dtype=dtype, device=device, threads=threads)
    options = RunOptions(out, title, jobs, ray, ray_gpus, overwrite)
    _run_and_report(bag, questions, spec, settings, options, as_json)


@app.command()
def example(
    out: Annotated[Path, typer.Option(help="Folder for the results, which is overwritten.")] = Path("build/evaluation"),
    model: Annotated[Path, typer.Option(help="Checkpoint; default: the shipped one.")] = MODEL,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score the shipped model on the shipped bags, together with both baselines."""
    require_shipped(model, EXAMPLE)
    from penguin_ros.evaluation.bags.run import RunOptions
    from penguin_ros.evaluation.records import ModelSpec, RunSettings

    bags = sorted(path.parent for path in EXAMPLE.glob("*/metadata.yaml"))
    # A report that is shown to others should not contain the location of the clone.
    name = model.relative_to(Path.cwd()) if model.is_relative_to(Path.cwd()) else model
    settings = RunSettings(methods=["memory", "last-4", "offline"], parameters=EXAMPLE_PARAMETERS)
    options = RunOptions(out, title=f"{model.name} on two clips of the table-top", overwrite=True)
    spec = ModelSpec(path=str(name), device=device)
    _run_and_report(bags, EXAMPLE / "questions.jsonl", spec, settings, options, as_json)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Results folder or file.")],
    against: Annotated[
        Path | None, typer.Option(help="Compare with these earlier results on the same questions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Report file; default: report.html next to the results.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the scores as a Markdown table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the report of earlier results again, or compare them with other results."""
    from penguin_ros.evaluation.report.page import shared_method, titles_of, write_report
    from penguin_ros.evaluation.results import load_results
    from penguin_ros.evaluation.summary import compare_records

    if markdown and (against is not None or as_json):
        raise typer.BadParameter("--markdown prints the scores of one run: remove --against and --json")
    paths = [path for path in (against, results) if path is not None]
    folders = [path if path.is_dir() else path.parent for path in paths]
    runs = [load_results(path) for path in paths]
    page = write_report(out or folders[-1] / ("comparison.html" if against else "report.html"), runs, folders)
    if markdown:
        stdout.out(markdown_scores(runs[-1]), end="")
    elif against is None:
        print_results(runs[0], folders[0] / "results.json", page, as_json)
    else:
        comparison = compare_records(runs[0], shared_method(runs), runs[1], shared_method(runs))
        if as_json:
            print_json({"report": str(page), "titles": titles_of(runs), "comparison": comparison})
            return
        print_comparison(comparison, *titles_of(runs))
        stdout.out(f"page: {page}")


@app.command()
def record(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or a single .mcap or .db3 file.")],
    questions: Annotated[Path, typer.Option(help="File to append questions to.")],
    camera: Annotated[
        list[str] | None, typer.Option(help="Image topic, may be repeated; default: the only one of the bag.")
    ] = None,
    port: Annotated[int, typer.Option(help="Local port of the page; 0 for any free port.", min=0, max=65535)] = 8765,
) -> None:
    """Replay a bag in a browser on this machine and type questions about it."""
    from penguin_ros.evaluation.bags.recording import open_recording
    from penguin_ros.evaluation.question_recorder import Recorder
    from penguin_ros.evaluation.recorder_server import RecorderServer

    with working(f"reading {bag}"):
        recording = open_recording(bag, camera or [None])
    for note in recording.notes:
        print_note(note)
    recorder = Recorder(recording, questions)
    server = RecorderServer(recorder, port)
    stdout.out(f"open {server.address} in a browser; press Ctrl-C to stop")
    stdout.out(
        f"to open it on another machine, first run there: ssh -L {server.port}:127.0.0.1:{server.port} THIS_MACHINE"
    )
    try:
        server.run()
    except KeyboardInterrupt:
        stdout.out(f"\n{len(recorder.questions)} questions in {questions}")


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder to create, for the bags and their questions.jsonl.")],
    clips: Annotated[int, typer.Option(help="Number of clips.", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="Length of each clip.", min=6.0, max=3600.0)] = 20.0,
    fps: Annotated[float, typer.Option(help="Images per second.", min=1.0, max=30.0)] = 2.0,
    size: Annotated[int, typer.Option(help="Width and height in pixels.", min=56, max=1080)] = 168,
    seed: Annotated[int, typer.Option(help="Seed of the clips within the test split.", min=0)] = 0,
    depth: Annotated[bool, typer.Option("--depth", help="Also write bags of a depth camera, with positions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write clips of the simulated table-top as bags with questions, from seeds that are never trained on."""
    from penguin_models.types import Size
    from penguin_ros.evaluation.tabletop.clip_bags import QUESTIONS_FILE, write_clips

    with ProgressBar(show=not as_json) as bar:
        bar.set_total(clips)
        bags = write_clips(out, clips, Size(size, size), seed, seconds, fps, bar.add, depth)
    if as_json:
        print_json({"bags": [str(path) for path in bags], "questions": str(out / QUESTIONS_FILE)})
        return
    paths = " ".join(map(str, bags))
    stdout.out(f"penguin-vl evaluate bags {paths} --questions {out / QUESTIONS_FILE} --model ...")


@app.command()
def tabletop(
    model: ModelOption,
    seed: Annotated[int, typer.Option(help="Seed of the scenes within the test split.", min=0)] = 0,
    scenes: Annotated[int, typer.Option(help="Number of scenes.", min=1)] = 200,
    mixture: Annotated[
        str, typer.Option(help="Weights of single images, pairs of before and after, and clips.")
    ] = "image=6,pair=1,clip=3",
    size: SizeOption = "168x168",
    policy: Annotated[Literal["novelty", "reference"], typer.Option(help="Keyframe policy for clips.")] = "novelty",
    max_tokens: Annotated[
        int | None, typer.Option(help="Visual token budget; default: the checkpoint's.", min=1)
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="File for all questions and answers, as JSON lines.", dir_okay=False)
    ] = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about scenes of the simulated table-top, from seeds that are never trained on, and score the answers."""
    weights, shape = parse_weights(mixture), parse_size(size)  # refuses them before imports that take seconds
    from penguin_engine.runtimes.loading import open_runtime
    from penguin_models.atomic_write import atomic_write
    from penguin_ros.evaluation.tabletop.positions import PositionErrors
    from penguin_ros.evaluation.tabletop.scenes import TabletopRun, evaluate_tabletop
    from penguin_tabletop.dataset import Mixture

    run = TabletopRun(seed, scenes, Mixture(**weights), size=shape, policy=policy, max_tokens=max_tokens)
    opened, processor = open_runtime(runtime, model, device, dtype)
    output = nullcontext() if answers is None else atomic_write(answers)
    with output as file, ProgressBar(show=not as_json) as bar:
        bar.set_total(scenes)

        def write(asked: Sequence[AskedTurn]) -> None:
            if file is not None:
                file.writelines(json.dumps(asdict(turn)) + "\n" for turn in asked)
            bar.add()

        scores = evaluate_tabletop(opened, processor, run, write, PositionErrors())
    if as_json:
        fields = ("value", "low", "high", "answers")
        values = {name: {field: getattr(score, field) for field in fields} for name, score in scores.items()}
        print_json({"seed": seed, "scenes": scenes, "scores": values})
        return
    table = Table("score", "value", "95 % interval", "answers", box=None)
    for score in scores.values():
        interval = "" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
        table.add_row(score.title, f"{score.value:.3f}", interval, str(score.answers))
    stdout.print(table)
    stdout.out(f"{scenes} scenes of the test split, seed {seed}; bootstrap intervals over scenes")


def _run_and_report(
    bags: list[Path], questions: Path, model: ModelSpec, settings: RunSettings, options: RunOptions, as_json: bool
) -> None:
    """Runs an evaluation, writes and prints its results, and exits with 1 if a bag or a question failed."""
    from penguin_ros.evaluation.bags.run import run_bags
    from penguin_ros.evaluation.question_file import read_good_questions
    from penguin_ros.evaluation.report.page import write_report

    with ProgressBar(show=not as_json) as bar:
        asked, problems = read_good_questions(questions)
        bad_lines = [f"{questions}: {problem}" for problem in problems]
        results = run_bags(bags, asked, model, settings, options, bar.set_total, bar.add, bad_lines)
    page = write_report(options.out / "report.html", [results], [options.out])
    print_results(results, options.out / "results.json", page, as_json)
    if results.problems or any(item.failed for item in results.bags):
        sys.exit(1)
