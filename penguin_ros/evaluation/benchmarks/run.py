"""`penguin-vl evaluate benchmark`, as a function: a local copy of a benchmark in, results on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_models.errors import EvaluationError, PenguinError
from penguin_models.processor import Processor
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import UInt8Array
from penguin_ros.evaluation.bags.jobs import load_model
from penguin_ros.evaluation.bags.replay import attempt
from penguin_ros.evaluation.bags.run import RunOptions, describe_model, machine
from penguin_ros.evaluation.benchmarks import pictures, videos
from penguin_ros.evaluation.benchmarks.items import ImageMedia, Item, MediaClip, load_picture
from penguin_ros.evaluation.journal import Journal, check_folder, run_key
from penguin_ros.evaluation.question_file import Question
from penguin_ros.evaluation.records import (
    AnswerRecord,
    FileSettings,
    FrameRecord,
    ModelSpec,
    answer_fields,
    digest,
    question_key,
)
from penguin_ros.evaluation.results import BagInfo, ModelInfo, Results, ScoredRecord, save_results, score_record
from penguin_ros.evaluation.summary import summarise
from penguin_ros.evaluation.thumbnails import thumbnail

METHOD = "file"
_Shown: TypeAlias = tuple[Answer, UInt8Array, float]
"""An answer, the last picture shown, and its time in the video."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: its name.
        read: items of a folder.
        max_new_tokens: longest answer in its usual harness.
    """

    title: str
    read: Callable[[Path], Iterator[Item]]
    max_new_tokens: int


BENCHMARKS = {
    "docvqa": Benchmark("DocVQA, validation", pictures.read_docvqa, 32),
    "infovqa": Benchmark("InfographicVQA, validation", pictures.read_infovqa, 32),
    "chartqa": Benchmark("ChartQA, test", pictures.read_chartqa, 16),
    "ocrbench": Benchmark("OCRBench", pictures.read_ocrbench, 128),
    "ai2d": Benchmark("AI2D, test", pictures.read_ai2d, 16),
    "realworldqa": Benchmark("RealWorldQA", pictures.read_realworldqa, 16),
    "mvbench": Benchmark("MVBench", videos.read_mvbench, 16),
    "egoschema": Benchmark("EgoSchema, public subset", videos.read_egoschema, 16),
    "activitynet-qa": Benchmark("ActivityNet-QA, test", videos.read_activitynet_qa, 64),
    "perception-test": Benchmark("Perception Test, validation", videos.read_perception_test, 16),
    "longvideobench": Benchmark("LongVideoBench, validation", videos.read_longvideobench, 32),
    "charades-sta": Benchmark("Charades-STA, test", videos.read_charades_sta, 50),
}


def read_items(name: str, folder: Path, limit: int | None = None, skip_missing: bool = False) -> list[Item]:
    """Reads a benchmark and looks for its files.

    Args:
        name: of `BENCHMARKS`.
        folder: of its files.
        limit: only so many items, from the first.
        skip_missing: leave out items whose file is not there.

    Raises:
        EvaluationError: there is no such benchmark, its files have another format, or media are missing.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is not a folder; --data is where the benchmark's files lie")
    items = list(islice(BENCHMARKS[name].read(folder), limit))
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise EvaluationError(f"{folder} has two questions with the id {twice}")
    missing = [item for item in items if not item.media.path.exists()]
    if missing and not skip_missing:
        raise EvaluationError(
            f"{len(missing)} of {len(items)} files are missing, the first is {missing[0].media.path}; "
            "--skip-missing leaves them out"
        )
    items = [item for item in items if item.media.path.exists()]
    if not items:
        raise EvaluationError(f"{folder} has no question of {BENCHMARKS[name].title} whose file is there")
    return items


def run_benchmark(
    name: str,
    items: list[Item],
    model: ModelSpec,
    settings: FileSettings,
    options: RunOptions,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_progress: Callable[[int], None] = lambda count: None,
    loaded: tuple[Runtime, Processor] | None = None,
) -> Results:
    """Asks a model the questions of a benchmark, resuming what an earlier run in the same folder left.

    Args:
        name: of `BENCHMARKS`.
        items: of `read_items`.
        model: what answers.
        settings: what answers depend on.
        options: how the run is done; jobs and Ray are for bags.
        on_start: called with the number of answers to make and of those that are there already.
        on_progress: called with 1 after each answer.
        loaded: the model, where it is loaded already.

    Returns:
        What is also in the folder.

    Raises:
        PenguinError: the model cannot be loaded, or the folder holds another run.
    """
    check_folder(options.out)
    info = describe_model(model, loaded)
    runtime, processor = loaded or load_model(model)
    journal = Journal(options.out, name, run_key(info, settings), name, lambda: on_progress(1))
    if options.overwrite:
        journal.discard()
    questions = [_question(name, item, settings) for item in items]
    wanted = {
        (question.id, METHOD, question_key(question)): item for question, item in zip(questions, items, strict=True)
    }
    done = journal.read().answers
    on_start(len(wanted), sum(key in done for key in wanted))
    meter = EnergyMeter()
    try:
        for question, (key, item) in zip(questions, wanted.items(), strict=True):
            if key not in done:
                ask_it = partial(_ask, item, runtime, processor, settings)
                done[key] = _answer(question, item, ask_it, meter, journal)
    finally:
        journal.close()
    records = [score_record(name, q, done[key]) for q, key in zip(questions, wanted, strict=True)]
    results = _results(name, info, settings, options, questions, records)
    save_results(options.out, results)
    return results


def _results(
    name: str,
    info: ModelInfo,
    settings: FileSettings,
    options: RunOptions,
    questions: list[Question],
    records: list[ScoredRecord],
) -> Results:
    results = Results(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        package=metadata.version("penguin-vl"),
        title=options.title or f"{info.spec.path} on {BENCHMARKS[name].title}",
        model=info,
        settings=settings,
        machine=machine(),
        seed=options.seed,
        bags=[BagInfo(name=name, path="")],
        questions=questions,
        records=records,
    )
    return results.model_copy(update={"summary": summarise(results)})


def _question(name: str, item: Item, settings: FileSettings) -> Question:
    return Question(
        id=item.id,
        bag=name,
        camera=item.media.path.name,
        time_s=0.0,
        question=item.question,
        expected=[item.expected],
        kind=item.group,
        max_new_tokens=settings.max_new_tokens,
    )


def _answer(
    question: Question, item: Item, ask_it: Callable[[], _Shown], meter: EnergyMeter, journal: Journal
) -> AnswerRecord:
    record = AnswerRecord(question=question.id, method=METHOD, key=question_key(question), time_s=0.0)
    outcome, record.joules = attempt(ask_it, meter)
    if isinstance(outcome, PenguinError):
        record.error = f"{type(outcome).__name__}: {outcome}"
    else:
        answer, shown, time_s = outcome
        record = record.model_copy(update=answer_fields(answer, 0))
        record.frame = _frame(question.bag or "", item, shown, time_s)
        journal.picture(record.frame.file, partial(thumbnail, shown))
    journal.answer(record)
    return record


def _ask(item: Item, runtime: Runtime, processor: Processor, settings: FileSettings) -> _Shown:
    sampling = Sampling(max_new_tokens=settings.max_new_tokens)
    if isinstance(item.media, ImageMedia):
        rgb = load_picture(item.media)
        answer = ask(
            runtime,
            processor,
            item.question,
            images=[rgb],
            max_tokens=settings.max_tokens,
            size_rule=settings.size_rule,
            sampling=sampling,
        )
        return answer, rgb, 0.0
    clip = MediaClip(item.media, settings.fps, settings.max_frames)
    answer = ask(
        runtime,
        processor,
        item.question,
        clip=clip,
        policy=ReferencePolicy(),
        max_tokens=settings.max_tokens,
        size_rule=settings.size_rule,
        sampling=sampling,
    )
    assert clip.last is not None, "a clip that was answered about has frames"
    return answer, clip.last, clip.last_s


def _frame(benchmark: str, item: Item, rgb: UInt8Array, time_s: float) -> FrameRecord:
    name = digest([str(item.media.path), time_s])
    height, width = rgb.shape[:2]
    return FrameRecord(
        camera=item.media.path.name,
        stamp_ns=0,
        time_s=time_s,
        width=width,
        height=height,
        file=f"{benchmark}/{name}.jpg",
    )
