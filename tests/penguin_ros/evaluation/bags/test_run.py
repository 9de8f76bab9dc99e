"""Complete runs: results on disk, resumed runs, worker processes, Ray, and bags that fail."""

import importlib.util
import pickle
import shutil
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import EvaluationError, MediaError
from penguin_models.grounding import Box, GroundedObject
from penguin_ros.evaluation.bags import run as run_module
from penguin_ros.evaluation.bags import workers
from penguin_ros.evaluation.bags.run import RunOptions, run_bags
from penguin_ros.evaluation.question_file import ExpectedObjects, ExpectedText, ExpectedTime, Question
from penguin_ros.evaluation.records import ModelSpec, RunSettings
from penguin_ros.evaluation.results import load_results
from penguin_ros.evaluation.tabletop.truth_bag import CAMERA as EXPORTED
from penguin_ros.evaluation.tabletop.truth_bag import TRUTH, TrueFrame, write_bag
from penguin_ros.recording import Recording

CAMERA = "/camera"
PICTURES = [(float(i), 10 + 9 * i) for i in range(6)]


def question(bag, at, accept="10 19"):
    expected = [ExpectedText(accept=[accept])]
    return Question(id=f"{bag} {at:g}", bag=bag, time_s=at, question="Which?", expected=expected, max_new_tokens=40)


@pytest.fixture
def two(picture_bag):
    return [picture_bag({CAMERA: PICTURES}, name=name) for name in ("kitchen", "hall")]


@pytest.fixture
def asked():
    return [question("kitchen", 1), question("hall", 1), question("hall", 4), question("kitchen", 5)]


@pytest.fixture
def run(two, asked, scripted, checkpoint, tmp_path, monkeypatch):
    """Runs the questions with a scripted model and the hash of the small checkpoint."""

    def start(runtime=None, questions=asked, bags=two, out="out", settings=None, callbacks=(), **options):
        runtime = runtime or scripted()
        workers.load_model.cache_clear()
        monkeypatch.setattr(workers, "open_runtime", lambda *model: (runtime, runtime.processor))
        return run_bags(
            bags,
            questions,
            ModelSpec(path=str(checkpoint)),
            settings or RunSettings(methods=["memory", "last-4"], parameters={"sample_rate_hz": 0.0}),
            RunOptions(out=tmp_path / out, **options),
            *callbacks,
        )

    yield start
    workers.load_model.cache_clear()


class Interruption(Exception):  # noqa: N818
    pass


def run_until(last, run, scripted):
    """Runs until answer number `last`, which is interrupted."""

    def answer(asked, numbers):
        if len(runtime.asked) == last:
            raise Interruption
        return " ".join(map(str, numbers))

    runtime = scripted(answer)
    with pytest.raises(Interruption):
        run(runtime)


def pictures_of(results):
    return {record.frame.file for record in results.records}


def pictures_in(folder):
    return {str(file.relative_to(folder / "frames")) for file in (folder / "frames").rglob("*.jpg")}


def verdicts(results):
    return {(record.question, record.method): (record.raw, record.correct) for record in results.records}


def test_a_run_from_bags_to_results(run, tmp_path):
    results = run(title="first")
    assert load_results(tmp_path / "out") == results
    assert len(results.records) == 8 and results.title == "first" and len(results.model.hash) == 64
    assert verdicts(results)["kitchen 1", "memory"] == ("10 19", True)
    assert verdicts(results)["hall 4", "last-4"] == ("19 28 37 46", False)
    assert [(bag.name, bag.cameras, bag.failed) for bag in results.bags] == [
        ("kitchen", [CAMERA], None),
        ("hall", [CAMERA], None),
    ]
    assert {(timeline.bag, timeline.method) for timeline in results.timelines} == {
        ("kitchen", "memory"),
        ("hall", "memory"),
    }
    assert results.summary["methods"]["memory"]["metrics"]["accuracy"]["value"] == 0.5
    assert results.machine["cores"] >= 1
    assert pictures_of(results) == pictures_in(tmp_path / "out")


def test_a_results_folder_that_is_a_file_is_an_error(run, scripted, tmp_path):
    (tmp_path / "out").touch()
    runtime = scripted()
    with pytest.raises(EvaluationError, match=r"results need a folder, but .*out is a file; choose another --out"):
        run(runtime)
    assert runtime.encoded == 0


def test_progress_is_reported(run):
    progress = []
    run(settings=RunSettings(), callbacks=(lambda total, done: progress.append((total, done)), progress.append))
    assert progress == [(4, 0), 1, 1, 1, 1]


def test_an_interrupted_run_resumes_where_it_stopped(run, scripted):
    whole = run(out="whole")
    run_until(6, run, scripted)
    second = scripted()
    resumed = run(second)
    assert len(second.asked) == 3
    assert verdicts(resumed) == verdicts(whole)
    third = scripted()
    assert verdicts(run(third)) == verdicts(whole) and third.asked == [] and third.encoded == 0


def test_a_run_interrupted_after_the_memorys_last_answer_has_its_timeline(run, scripted):
    whole = run(out="whole")
    run_until(4, run, scripted)
    resumed = run(scripted())
    assert [(line.bag, line.method, line.tokens) for line in resumed.timelines] == [
        (line.bag, line.method, line.tokens) for line in whole.timelines
    ]


def test_changed_expectations_are_scored_without_asking_again(run, scripted, asked):
    run()
    runtime = scripted()
    changed = [q.model_copy(update={"expected": [ExpectedText(accept=["19 28 37 46"])]}) for q in asked]
    results = run(runtime, questions=changed)
    assert runtime.asked == []
    assert verdicts(results)["hall 4", "last-4"] == ("19 28 37 46", True)


def test_a_time_in_free_text_counts_if_a_time_range_is_expected(run, scripted):
    """The last four frames start at 1 s, so the model's 0 to 2 s are 1 to 3 s."""
    runtime = scripted(lambda asked, numbers: "From 0 to 2 seconds.")
    first = run(runtime, questions=[question("hall", 4)])
    assert {record.method: record.spans for record in first.records} == {"memory": [], "last-4": []}
    mended = question("hall", 4).model_copy(update={"expected": [ExpectedTime(accept=[(1.0, 3.0)])]})
    again = run(scripted(), questions=[mended])
    assert {record.method: record.spans for record in again.records} == {"memory": [(0, 2)], "last-4": [(1, 3)]}
    assert {record.method: record.correct for record in again.records} == {"memory": False, "last-4": True}


def test_a_resumed_run_may_add_methods(run, scripted):
    run(settings=RunSettings(parameters={"sample_rate_hz": 0.0}))
    runtime = scripted()
    results = run(runtime, settings=RunSettings(methods=["memory", "offline"], parameters={"sample_rate_hz": 0.0}))
    assert len(runtime.asked) == 4 and len(results.records) == 8


def test_answers_of_other_settings_are_not_reused(run, scripted):
    run()
    other = RunSettings(parameters={"sample_rate_hz": 0.0, "token_budget": 60})
    with pytest.raises(EvaluationError, match=r"another model or other settings.*--overwrite"):
        run(settings=other)
    runtime = scripted()
    run(runtime, settings=other, overwrite=True)
    assert len(runtime.asked) == 4


def test_a_bag_recorded_again_with_the_same_stamps_is_another_recording(run, scripted, two, picture_bag, tmp_path):
    before = run()
    shutil.rmtree(two[0])
    picture_bag({CAMERA: [(at, number + 100) for at, number in PICTURES]}, name="kitchen")
    with pytest.raises(EvaluationError, match=r"kitchen.jsonl holds answers about another recording.*--overwrite"):
        run()
    after = run(scripted(), overwrite=True)
    assert verdicts(after)["kitchen 1", "memory"] == ("110 119", False)
    assert pictures_of(after) == pictures_of(before) == pictures_in(tmp_path / "out")
    shown = Image.open(tmp_path / "out" / "frames" / after.records[0].frame.file)
    assert shown.getpixel((0, 0)) == pytest.approx((119, 119, 119), abs=2)


def test_fixed_labels_in_a_bag_are_scored_without_asking_again(run, scripted, tmp_path):
    """The answer is a mug; the bag first contains a cup and then a mug."""
    asked = [Question(id="q", camera=EXPORTED, time_s=2, question="Where?", expected=[ExpectedObjects(topic=TRUTH)])]
    rgb, found = np.full((56, 84, 3), 50, np.uint8), []
    for label in ("cup", "mug"):
        shutil.rmtree(tmp_path / "table", ignore_errors=True)
        box = GroundedObject(label, Box(0, 0, 1000, 1000))
        bag = write_bag(tmp_path / "table", [TrueFrame(float(at), rgb, [box]) for at in range(4)])
        runtime = scripted(lambda asked, numbers: "[mug](0,0,1000,1000)")
        results = run(runtime, bags=[bag], questions=asked, settings=RunSettings())
        found.append((len(runtime.asked), results.records[0].correct))
    assert found == [(1, False), (0, True)]


class Meter:
    """Measures 2.5 joules for everything."""

    sources: ClassVar = ["board"]

    @contextmanager
    def measure(self):
        yield SimpleNamespace(total=2.5)


def test_energy_is_measured_in_a_single_process(run, monkeypatch):
    monkeypatch.setattr(run_module, "EnergyMeter", Meter)
    alone = run()
    assert {record.joules for record in alone.records} == {2.5} and alone.machine["energy"] == ["board"]
    assert [method["joules_per_answer"] for method in alone.summary["methods"].values()] == [2.5, 2.5]


def test_an_unreadable_bag_does_not_affect_the_others(run, two, asked):
    before = run(out="whole")
    (file,) = two[0].glob("*.mcap")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    results = run()
    assert [bag.failed is None for bag in results.bags] == [False, True]
    assert "kitchen" in results.bags[0].failed
    hall = {key: value for key, value in verdicts(before).items() if key[0].startswith("hall")}
    assert verdicts(results) == hall


def test_skipped_images_are_in_the_notes_of_their_bag(run, bags):
    good = bags.jpeg(np.full((56, 84, 3), 50, np.uint8))
    bag = bags.write({"/camera": [(n, bags.compressed(b"", "jpeg") if n == 1 else good) for n in range(3)]}, "attic")
    asked = [Question(id="q", time_s=2, question="Which?", expected=[ExpectedText(accept=["x"])])]
    (note,) = run(bags=[bag], questions=asked, settings=RunSettings()).bags[0].notes
    assert note.startswith("/camera, method memory: 1 images cannot be decoded; the last: ")
    assert "it is empty (0 bytes)" in note


def test_a_bag_that_becomes_unreadable_keeps_its_answers(run, scripted, two, asked):
    before = run()
    (file,) = two[0].glob("*.mcap")
    file.write_bytes(file.read_bytes()[:1000])
    runtime = scripted()
    after = run(runtime)
    assert verdicts(after) == verdicts(before) and runtime.asked == []
    assert "cannot be read" in after.bags[0].failed and after.bags[1].failed is None
    mended = [q.model_copy(update={"expected": [ExpectedText(accept=["no"])]}) for q in asked]
    assert not any(right for _, right in verdicts(run(questions=mended)).values())  # scored again
    assert {question for question, _ in verdicts(run(overwrite=True))} == {"hall 1", "hall 4"}
    assert {question for question, _ in verdicts(run())} == {"hall 1", "hall 4"}  # discarded answers do not come back


def test_a_bag_that_ends_early_keeps_its_answers(run, two, asked, monkeypatch):
    """Questions about the first seconds are answered before the damage is found."""
    read = Recording.read

    def breaking(self, refs=None):
        for number, image in enumerate(read(self, refs)):
            if self.name == "hall" and number == 3:
                raise MediaError("bag hall cannot be read to its end")
            yield image

    monkeypatch.setattr(Recording, "read", breaking)
    results = run()
    assert {question for question, _ in verdicts(results)} == {"kitchen 1", "kitchen 5", "hall 1"}
    assert results.bags[1].failed == "bag hall cannot be read to its end"


@pytest.mark.parametrize("options", [{"jobs": 2}, {"ray": "local"}])
def test_realtime_excludes_processes_and_ray(run, options):
    with pytest.raises(EvaluationError, match="remove --jobs and --ray"):
        run(settings=RunSettings(methods=["memory", "realtime"]), **options)


@pytest.fixture
def real(two, asked, exported, tmp_path):
    """Runs the questions with the small model as ONNX; other processes would take seconds to import PyTorch."""

    def start(name, on_start=lambda total, done: None, on_answers=lambda count: None, **options):
        model = ModelSpec(path=str(exported()), runtime="onnx", device="cpu", threads=1)
        settings = RunSettings(
            methods=["memory", "last-4"], parameters={"sample_rate_hz": 0.0, "answer.max_new_tokens": 4}
        )
        questions = [q.model_copy(update={"max_new_tokens": 4}) for q in asked]
        options = RunOptions(out=tmp_path / name, **options)
        results = run_bags(two, questions, model, settings, options, on_start, on_answers)
        assert pictures_of(results) == pictures_in(tmp_path / name)
        return results

    return start


def plain(results, bags=("kitchen", "hall")):
    return [record.model_dump(exclude={"seconds", "joules"}) for record in results.records if record.bag in bags]


def test_processes_give_the_same_answers_and_report_failures(real, two, monkeypatch):
    """One bag is deleted after it was planned and before its process reads it."""
    one = real("one")
    assert len(one.records) == 8
    monkeypatch.setattr(run_module, "EnergyMeter", Meter)
    progress = []
    several = real("several", lambda total, done: shutil.rmtree(two[1]), progress.append, jobs=2)
    assert sorted(progress) == [0, 4]
    assert {record.joules for record in several.records} == {None}
    assert plain(several) == plain(one, ["kitchen"])
    assert several.bags[0].failed is None and "does not exist" in several.bags[1].failed


def test_a_killed_process_loses_no_answers(run, monkeypatch):
    class Pool(workers.ProcessPoolExecutor):
        def submit(self, *work):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    before = run()
    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    after = run(jobs=2)
    assert verdicts(after) == verdicts(before)
    assert all("run again with fewer --jobs, finished answers are kept" in bag.failed for bag in after.bags)


def test_a_missing_ray_package_is_an_error(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvaluationError, match=r"--ray needs the Python package ray on every machine: pip install ray"):
        run(ray="local")


class Ray(ModuleType):
    """A fake of Ray that runs tasks in this process and pickles jobs and results."""

    exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def __init__(self, dies=()):
        super().__init__("ray")
        self.dies, self.open = dies, False

    def init(self, address, log_to_driver):
        self.open = True

    def shutdown(self):
        self.open = False

    def remote(self, num_gpus):
        return lambda work: SimpleNamespace(remote=lambda job: (pickle.dumps(job), work))

    def wait(self, waiting, num_returns):
        return waiting[-1:], waiting[:-1]

    def get(self, task):
        job, work = pickle.loads(task[0]), task[1]
        if job.recording.name in self.dies:
            raise self.exceptions.RayError("The worker died\n  unexpectedly.")
        return pickle.loads(pickle.dumps(work(job)))


def test_a_fake_ray_gives_the_same_answers(real, monkeypatch):
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert plain(real("ray", ray="local")) == plain(real("one")) and not ray.open


def test_a_dead_worker_does_not_affect_other_bags(real, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Ray(dies=["kitchen"]))
    results = real("ray", ray="local")
    assert {record.bag for record in results.records} == {"hall"}
    failures = {bag.name: bag.failed for bag in results.bags}
    assert failures == {"kitchen": "its worker on the cluster failed: The worker died unexpectedly.", "hall": None}
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    progress = []
    assert len(real("ray", ray="local", on_answers=progress.append).records) == 8
    assert progress == [0, 4]  # known answers are not counted


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an extra")
def test_ray_gives_the_same_answers(real):
    assert plain(real("ray", ray="local")) == plain(real("one"))
