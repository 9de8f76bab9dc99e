"""`penguin-vl evaluate`: scores on recorded bags, and the report of them."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_ros.cli.evaluate_example import example
from penguin_ros.cli.evaluate_output import Bar, markdown_scores, print_comparison, print_results
from penguin_ros.cli.evaluate_tabletop import tabletop
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RuntimeOption,
    print_json,
    stdout,
    working,
)

app = typer.Typer(help="Score a model on recorded bags and on the table-top.", no_args_is_help=True)
app.command()(example)
app.command()(tabletop)


class Baseline(str, Enum):
    """What the memory can be compared with in the same run."""

    last_4 = "last-4"
    offline = "offline"


OutOption = Annotated[Path, typer.Option(help="Folder of the results; a run that was interrupted goes on there.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Discard what an earlier run left in --out.")]
TitleOption = Annotated[str, typer.Option(help="Name of the run in its report; the model's name if not given.")]


@app.command()
def bags(
    bag: Annotated[list[Path], typer.Argument(help="Bag folders, or single .mcap or .db3 files.")],
    questions: Annotated[Path, typer.Option(help="JSON lines: what is asked when, and what is expected.")],
    model: ModelOption,
    out: OutOption = Path("evaluation"),
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(help="Answer in this way too: from the last 4 frames only; by the released offline procedure."),
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Answer also as the live node would, dropping frames for lack of time.")
    ] = False,
    realtime_factor: Annotated[
        float, typer.Option(help="Work takes so many times as long as it is measured here.", min=0.01)
    ] = 1.0,
    token_budget: Annotated[
        int | None, typer.Option(help="Visual tokens in total, shared by the cameras; 4096 if not given.")
    ] = None,
    sample_rate_hz: Annotated[
        float | None, typer.Option(help="Frames a second from each camera, 0 for all; 2 if not given.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer where a question does not say; 256 if not given.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="Another parameter of the node, as NAME=VALUE: keyframe.threshold=12.")
    ] = None,
    params_file: Annotated[
        Path | None, typer.Option(help="A robot's parameter file; what is given beside it replaces what is in it.")
    ] = None,
    recent_s: Annotated[float, typer.Option(help="Evidence at most this old is recent perception.", min=0)] = 2.0,
    seed: Annotated[int, typer.Option(help="Of the intervals.", min=0)] = 0,
    jobs: Annotated[int, typer.Option(help="Bags at a time, each in a process with its own model.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Of the CPU in each process; shared out evenly if 0.", min=0)] = 0,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster (local, auto, ray://HOST:PORT): bags on its machines.")
    ] = None,
    ray_gpus: Annotated[float, typer.Option(help="GPUs for each bag on the cluster.", min=0)] = 0.0,
    title: TitleOption = "",
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask questions about recorded bags, each at its time, and score the answers."""
    from penguin_ros.evaluation.bags.run import RunOptions, run_bags
    from penguin_ros.evaluation.question_file import read_questions
    from penguin_ros.evaluation.records import ModelSpec, RunSettings
    from penguin_ros.evaluation.report.page import write_report

    given = {"token_budget": token_budget, "sample_rate_hz": sample_rate_hz, "answer.max_new_tokens": max_new_tokens}
    settings = RunSettings(
        methods=_methods(realtime, baseline or []),
        parameters=_parameters(params_file, param or [], given),
        realtime_factor=realtime_factor,
    )
    spec = ModelSpec(path=model, runtime=runtime, dtype=dtype, device=device, threads=threads or _threads(jobs))
    options = RunOptions(out, title, jobs, ray, ray_gpus, overwrite, recent_s, seed)
    asked = read_questions(questions)
    with Bar(show=not as_json) as bar:
        results = run_bags(bag, asked, spec, settings, options, bar.start, bar.advance)
    page = write_report(out / "report.html", [results], [out])
    print_results(results, out / "results.json", page, as_json)
    if any(item.failed for item in results.bags):
        sys.exit(1)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder of results, or their file.")],
    against: Annotated[Path | None, typer.Option(help="Compare with these results, on the same questions.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; report.html beside the results if not given.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the scores as a Markdown table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the page of results again, or compare two runs: those given against others."""
    from penguin_ros.evaluation.report.page import shared_method, titles_of, write_report
    from penguin_ros.evaluation.results import load_results
    from penguin_ros.evaluation.summary import compare_records

    if markdown and (against is not None or as_json):
        raise typer.BadParameter("--markdown prints the scores of one run: leave out --against and --json")
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
    questions: Annotated[Path, typer.Option(help="File to which questions are appended.")],
    camera: Annotated[
        list[str] | None, typer.Option(help="Image topic; may be given several times, and left out if there is one.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the page on this machine; 0 takes any.", min=0, max=65535)] = 8765,
) -> None:
    """Replay a bag in a browser on this machine, and type questions about it."""
    from penguin_ros.evaluation.bags.recording import open_recording
    from penguin_ros.evaluation.recorder import Recorder, RecorderServer

    with working(f"reading {bag}"):
        recorder = Recorder(open_recording(bag, camera or [None]), questions)
    with RecorderServer(recorder, port) as server:
        stdout.out(f"open {server.address} in a browser; Ctrl-C ends")
        stdout.out(
            f"from another machine, first: ssh -L {server.server_port}:127.0.0.1:{server.server_port} THIS_MACHINE"
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            stdout.out(f"\n{len(recorder.questions)} questions in {questions}")


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder to make: bags, and questions.jsonl about all of them.")],
    clips: Annotated[int, typer.Option(help="How many.", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="Length of each clip.", min=6.0, max=3600.0)] = 20.0,
    fps: Annotated[float, typer.Option(help="Images per second.", min=1.0, max=30.0)] = 2.0,
    size: Annotated[int, typer.Option(help="Width and height in pixels.", min=56, max=1080)] = 168,
    quality: Annotated[int, typer.Option(help="Of the JPEGs.", min=1, max=95)] = 85,
    seed: Annotated[int, typer.Option(help="A family of clips of its own.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write clips of the simulated table-top as bags with questions, of seeds that nothing was trained on."""
    from penguin_models.types import Size
    from penguin_ros.evaluation.tabletop.clip_bags import QUESTIONS_FILE, write_clips

    with Bar(show=not as_json) as bar:
        bar.start(clips, 0)
        bags = write_clips(out, clips, seed, seconds, fps, Size(size, size), quality, lambda: bar.advance(1))
    if as_json:
        print_json({"bags": [str(path) for path in bags], "questions": str(out / QUESTIONS_FILE)})
        return
    named = " ".join(str(path) for path in bags)
    stdout.out(f"penguin-vl evaluate bags {named} --questions {out / QUESTIONS_FILE} --model ...")


def _methods(realtime: bool, baselines: list[Baseline]) -> Any:
    return ["memory", *(["realtime"] if realtime else []), *(item.value for item in baselines)]


def _parameters(file: Path | None, words: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """The node's parameters: of a file, replaced by those given in words, replaced by options of their own."""
    from penguin_ros.evaluation.bags.node_parameters import node_settings, parse_parameter, read_parameters

    found = read_parameters(file) if file else {}
    found |= dict(parse_parameter(word) for word in words)
    found |= {name: value for name, value in given.items() if value is not None}
    node_settings(found, ["camera"])  # out of range is said before any bag is read
    return found


def _threads(jobs: int) -> int:
    """Threads of each of several processes; one process alone takes what the library takes."""
    import os

    return max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 else 0
