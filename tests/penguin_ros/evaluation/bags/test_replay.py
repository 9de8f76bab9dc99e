"""Replays of bags on their own clock: what each method sees, and that the speed of the machine has no influence."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from collected import Collected

from penguin_models.errors import NonFiniteError
from penguin_models.grounding import Box, GroundedObject, TimeRange, format_object, format_time_range
from penguin_ros.evaluation.bags.methods import Engine
from penguin_ros.evaluation.bags.plan import make_plan
from penguin_ros.evaluation.bags.replay import replay
from penguin_ros.evaluation.question_file import ExpectedText, Question
from penguin_ros.evaluation.records import ModelSpec, RunSettings

CAMERA = "/camera"
EVERY_SECOND = [(float(second), 10 + second) for second in range(10)]
ALL = ["memory", "last-4", "offline"]


def question(at, name=None, **fields):
    fields.setdefault("expected", [ExpectedText(accept=["x"])])
    return Question(id=name or f"at {at:g}", time_s=at, question="Which?", **fields)


def run(bag, questions, runtime, done=None, meter=None, sample_rate_hz=0.0, token_budget=4096, **settings):
    settings = RunSettings(parameters={"sample_rate_hz": sample_rate_hz, "token_budget": token_budget}, **settings)
    ((job,), _, _) = make_plan([bag], questions, ModelSpec(path="scripted"), settings)
    engine = Engine(runtime, runtime.processor, settings, meter)
    return Collected(replay(replace(job, done=done or {}), engine))


def seen(sink, method="memory"):
    """Returns the numbers of the images that each answer saw."""
    return {r.question: [int(word) for word in r.raw.split()] for r in sink.answers if r.method == method}


def test_a_question_sees_images_up_to_its_time(picture_bag, scripted):
    """An image stamped at exactly the time of the question is seen."""
    bag = picture_bag({CAMERA: EVERY_SECOND})
    sink = run(bag, [question(t) for t in (0, 2.9, 3.0, 9.0)], scripted())
    assert seen(sink) == {"at 0": [10], "at 2.9": [10, 11, 12], "at 3": [10, 11, 12, 13], "at 9": list(range(10, 20))}


@pytest.mark.parametrize("method", ALL)
def test_logits_that_are_not_finite_are_no_wrong_answer(picture_bag, scripted, method):
    def broken(question, numbers):
        raise NonFiniteError("the model's logits are not finite")

    with pytest.raises(NonFiniteError):
        run(picture_bag({CAMERA: EVERY_SECOND}), [question(2)], scripted(broken), methods=[method])


def test_questions_are_asked_in_order_of_time(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    sink = run(bag, [question(5, "late"), question(1, "early"), question(5, "late too")], scripted())
    assert [record.question for record in sink.answers] == ["early", "late", "late too"]
    assert seen(sink)["late"] == seen(sink)["late too"] == [10, 11, 12, 13, 14, 15]


def test_question_times_may_be_absolute_stamps(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    asked = Question(
        id="q", stamp_ns=1_700_000_002_500_000_000, question="Which?", expected=[ExpectedText(accept=["x"])]
    )
    sink = run(bag, [asked], scripted())
    assert seen(sink) == {"q": [10, 11, 12]}
    assert sink.answers[0].time_s == 2.5


def test_the_baselines_see_the_last_four_images_and_all_images_so_far(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    sink = run(bag, [question(2), question(7)], scripted(), methods=ALL)
    assert seen(sink, "last-4") == {"at 2": [10, 11, 12], "at 7": [14, 15, 16, 17]}
    assert seen(sink, "offline") == {"at 2": [10, 11, 12], "at 7": list(range(10, 18))}
    assert {r.frame.time_s for r in sink.answers if r.question == "at 7"} == {7.0}


def test_the_offline_baseline_samples_like_the_released_code(picture_bag, scripted):
    """The last image of each second, then thinned out evenly to the maximum."""
    bag = picture_bag({CAMERA: [(i / 2, i) for i in range(20)]})
    sink = run(bag, [question(9.4)], scripted(), methods=["offline"], offline_max_frames=4)
    assert seen(sink, "offline") == {"at 9.4": [1, 7, 13, 18]}


def test_a_horizon_limits_every_method(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    sink = run(bag, [question(8, horizon_s=2)], scripted(), methods=ALL)
    assert [seen(sink, method)["at 8"] for method in ALL] == [[16, 17, 18]] * 3


def test_frames_are_sampled_at_the_nodes_rate(picture_bag, scripted):
    bag = picture_bag({CAMERA: [(i / 4, i) for i in range(17)]})
    sink = run(bag, [question(4)], scripted(), sample_rate_hz=2.0)
    assert seen(sink) == {"at 4": [0, 2, 4, 6, 8, 10, 12, 14, 16]}
    (timeline,) = sink.timelines
    assert timeline.images == 17 and len(timeline.time_s) == 9


def test_the_replay_ends_with_the_last_question(picture_bag, scripted):
    runtime = scripted()
    sink = run(picture_bag({CAMERA: EVERY_SECOND}), [question(3)], runtime)
    assert sink.timelines[0].time_s == [0, 1, 2, 3] and runtime.encoded == 4


def test_each_camera_has_its_own_memory(picture_bag, scripted):
    bag = picture_bag({"/a": [(0, 1), (2, 2)], "/b": [(0.5, 101), (1, 102)]})
    questions = [
        question(2, "a", camera="/a"),
        question(0.5, "b", camera="/b"),  # its clock starts at the first image of /b
        question(2, "both", camera=["/a", "/b"]),
    ]
    sink = run(bag, questions, scripted(), methods=["memory", "last-4"])
    assert seen(sink)["a"] == [1, 2] and seen(sink)["b"] == [101, 102]
    assert sorted(seen(sink)["both"]) == [1, 2, 101, 102]
    assert set(seen(sink, "last-4")) == {"a", "b"}  # it has no prompt for several cameras
    budgets = {timeline.camera: timeline.token_budget for timeline in sink.timelines}
    assert budgets == {"/a": 2048, "/b": 2048}


@pytest.mark.parametrize("cameras", [["/a", "/b"], ["/b", "/a"]])
def test_boxes_refer_to_the_newest_image_or_the_camera_named_last(picture_bag, scripted, cameras):
    """Both cameras have an image with the same stamp, so the one named last is shown last."""
    bag = picture_bag({"/a": [(0, 1), (2, 2)], "/b": [(0, 101), (2, 102)]})
    (record,) = run(bag, [question(2, camera=cameras)], scripted()).answers
    shown = [int(number) for number in record.raw.split()]
    assert record.frame.camera == cameras[1] and shown[-1] == {"/a": 2, "/b": 102}[cameras[1]]


def test_time_ranges_are_converted_to_the_questions_clock(picture_bag, scripted):
    """The last four frames start at 4 s, so the model's 1 to 2 s are 5 to 6 s."""
    runtime = scripted(lambda asked, numbers: format_time_range(TimeRange(1.0, 2.0)))
    sink = run(picture_bag({CAMERA: EVERY_SECOND}), [question(7)], runtime, methods=ALL)
    spans = {record.method: record.spans for record in sink.answers}
    assert spans == {"memory": [(1, 2)], "offline": [(1, 2)], "last-4": [(5, 6)]}


def test_boxes_tokens_and_pictures_are_recorded(picture_bag, scripted):
    cube = GroundedObject("red cube", Box(100, 200, 300, 400))
    sink = run(picture_bag({CAMERA: EVERY_SECOND}), [question(1)], scripted(lambda asked, seen: format_object(cube)))
    (record,) = sink.answers
    assert record.text == "red cube" and record.raw == "[red cube](100,200,300,400)"
    assert [(item.label, item.box) for item in record.objects] == [("red cube", (100, 200, 300, 400))]
    assert (record.frame.width, record.frame.height, record.frame.time_s) == (84, 56, 1)
    assert record.frames == 2 and record.visual_tokens == 12 < record.prompt_tokens
    assert record.generated_tokens == len(scripted().processor.encode_text(record.raw))
    assert record.first_token_s < record.total_s
    assert record.frame.jpeg[:2] == b"\xff\xd8"


def test_two_replays_give_the_same_answers(picture_bag, model, processor):
    """With the real model, everything is equal except measured times."""
    from penguin_engine.runtimes.torch import TorchRuntime

    bag = picture_bag({CAMERA: [(i / 4, 5 * i) for i in range(16)]})
    questions = [question(t, max_new_tokens=4) for t in (1, 2, 3)]

    def answers():
        runtime = TorchRuntime(model)
        runtime.processor = processor
        sink = run(bag, questions, runtime, methods=ALL, token_budget=60)
        return [record.model_dump(exclude={"seconds"}) for record in sink.answers]

    first = answers()
    assert len(first) == 9 and any(record["raw"] for record in first)
    assert answers() == first


def test_damaged_images_are_skipped_and_counted(bags, scripted):
    start = 1_700_000_000_000_000_000
    grey = np.full((56, 84, 3), 40, np.uint8)
    jpegs = [(i, bags.jpeg(grey, 0.4 if i == 1 else 1.0, start + i * 10**9)) for i in range(3)]
    sink = run(bags.write({CAMERA: jpegs}), [question(2)], scripted(), methods=ALL)
    assert {method: len(numbers["at 2"]) for method in ALL if (numbers := seen(sink, method))} == dict.fromkeys(ALL, 2)
    (timeline,) = sink.timelines
    assert (timeline.images, timeline.bad) == (3, 1) and "cannot be decoded" in timeline.last_error


def test_an_error_of_one_question_does_not_affect_the_others(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    sink = run(bag, [question(1, max_new_tokens=50_000), question(2)], scripted())
    too_long, fine = sink.answers
    assert too_long.error.startswith("ContextLengthError: the question with its answer needs") and too_long.raw == ""
    assert fine.error is None and fine.raw == "10 11 12"


def test_known_answers_are_not_asked_again(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    questions = [question(2), question(5)]
    first = run(bag, questions, scripted())
    done = {(r.question, r.method, r.key): r for r in first.answers[:1]}
    runtime = scripted()
    sink = run(bag, questions, runtime, done)
    assert [r.raw for r in sink.answers] == [first.answers[1].raw] and len(runtime.asked) == 1
    everything = {(r.question, r.method, r.key): r for r in first.answers}
    runtime = scripted()
    run(bag, questions, runtime, everything)
    assert runtime.asked == [] and runtime.encoded == 0


def test_methods_without_missing_answers_are_not_replayed(picture_bag, scripted):
    """The memory is done; the offline baseline does not answer the question about two cameras."""
    bag = picture_bag({"/a": EVERY_SECOND, "/b": EVERY_SECOND})
    questions = [question(2, camera="/a"), question(5, "both", camera=["/a", "/b"])]
    done = {(r.question, r.method, r.key): r for r in run(bag, questions, scripted(), methods=["memory"]).answers}
    alone, runtime = scripted(), scripted()
    run(bag, questions, alone, methods=["offline"])
    sink = run(bag, questions, runtime, done, methods=["memory", "offline"])
    assert [record.method for record in sink.answers] == ["offline"] and sink.timelines == []
    assert runtime.encoded == alone.encoded == 3
    done |= {(r.question, r.method, r.key): r for r in sink.answers}
    runtime = scripted()
    run(bag, questions, runtime, done, methods=["memory", "offline"])
    assert runtime.encoded == 0


def test_a_changed_question_is_asked_again(picture_bag, scripted):
    bag = picture_bag({CAMERA: EVERY_SECOND})
    first = run(bag, [question(2, "q")], scripted())
    done = {(r.question, r.method, r.key): r for r in first.answers}
    for changed, asked in ((question(3, "q"), 1), (question(2, "q", kind="other"), 0)):
        runtime = scripted()
        run(bag, [changed], runtime, done)
        assert len(runtime.asked) == asked


def test_the_timeline_records_the_memory_over_time(picture_bag, scripted):
    """Sixteen images of six tokens exceed the budget of sixty, so old frames are evicted."""
    bag = picture_bag({CAMERA: [(float(i), 10 + 9 * i) for i in range(16)]})
    sink = run(bag, [question(15)], scripted(), token_budget=60)
    (timeline,) = sink.timelines
    assert timeline.token_budget == 60 and max(timeline.tokens) <= 60
    assert timeline.kind[0] == 0 and set(timeline.kind) <= {0, 1}
    assert len(timeline.tokens) == len(timeline.frames) == len(timeline.seconds) == 16
    assert sum(timeline.left) == 16 - timeline.frames[-1] > 0


@pytest.mark.parametrize("methods", [["memory"], ["offline", "memory"]])
def test_methods_answer_in_the_order_of_the_settings(picture_bag, scripted, methods):
    sink = run(picture_bag({CAMERA: EVERY_SECOND}), [question(1)], scripted(), methods=methods)
    assert [record.method for record in sink.answers] == methods


def test_energy_is_recorded_if_it_is_measured(picture_bag, scripted):
    """Each answer has its own reading, which excludes the work on frames."""

    class Meter:
        @contextmanager
        def measure(self):
            before, reading = len(runtime.asked), SimpleNamespace(total=None)
            yield reading
            reading.total = 2.5 * (len(runtime.asked) - before)

    runtime = scripted()
    sink = run(picture_bag({CAMERA: EVERY_SECOND}), [question(2), question(7)], runtime, meter=Meter(), methods=ALL)
    assert [record.joules for record in sink.answers] == [2.5] * 6
    without = run(picture_bag({CAMERA: EVERY_SECOND}, name="again"), [question(2)], scripted())
    assert without.answers[0].joules is None
