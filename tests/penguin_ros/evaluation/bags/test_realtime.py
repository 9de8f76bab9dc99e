"""A bag as it would reach the live node, on a clock that the tests control."""

from dataclasses import replace
from itertools import pairwise

import pytest
from collected import Collected

from penguin_ros.evaluation.bags.methods import Engine
from penguin_ros.evaluation.bags.plan import make_plan
from penguin_ros.evaluation.bags.realtime import SimulatedClock, replay_realtime
from penguin_ros.evaluation.question_file import ExpectedText, Question
from penguin_ros.evaluation.records import ModelSpec, RunSettings

CAMERA = "/camera"
QUARTERS = [(i / 4, i) for i in range(21)]  # four pictures a second for five seconds


class Timer:
    """Seconds that pass only when work is done."""

    def __init__(self, **costs):
        self.now, self.costs = 100.0, costs

    def __call__(self):
        return self.now

    def work(self, kind):
        self.now += self.costs.get(kind, 0.0)


def question(at, name=None):
    return Question(id=name or f"at {at:g}", time_s=at, question="Which?", expected=[ExpectedText(accept=["x"])])


def live(bag, questions, runtime, timer, done=None, captions=False, max_new_tokens=256, factor=1.0, pace=False):
    parameters = {"pace": pace, "sample_rate_hz": 0.0, "caption.on_keyframe": captions}
    parameters["answer.max_new_tokens"] = max_new_tokens
    settings = RunSettings(methods=["realtime"], parameters=parameters, realtime_factor=factor)
    ((job,), _, _) = make_plan([bag], questions, ModelSpec(path="scripted"), settings)
    runtime.work = timer.work
    engine = Engine(runtime, runtime.processor, settings)
    return Collected(replay_realtime(replace(job, done=done or {}), engine, timer))


def seen(sink):
    return {record.question: [int(word) for word in record.raw.split()] for record in sink.answers}


def test_a_fast_machine_sees_everything(picture_bag, scripted):
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(1), question(5)], scripted(), Timer(encode=0.01))
    assert seen(sink) == {"at 1": [0, 1, 2, 3, 4], "at 5": list(range(21))}
    assert [record.waited_s for record in sink.answers] == [0, 0]
    assert sink.timelines[0].dropped == 0


def test_a_slow_machine_takes_the_newest_frame_when_it_is_done(picture_bag, scripted):
    """A frame costs 0.6 s. Taken: 0; at 0.6 s the one of 0.5; at 1.2 s of 1.0; at 1.8 s of 1.75. The question of 2 s
    waits until 2.4 s, when the frame of 2.25 has come as well."""
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(2)], scripted(), Timer(encode=0.6))
    assert seen(sink) == {"at 2": [0, 2, 4, 7, 9]}
    (record,) = sink.answers
    assert record.waited_s == pytest.approx(0.4)
    assert record.frame.time_s == pytest.approx(2.25)
    (timeline,) = sink.timelines
    assert timeline.time_s == [0, 0.5, 1, 1.75, 2.25, 3]  # the last one while the answer is generated
    assert timeline.dropped == 7  # 0.25, 0.75, 1.25, 1.5, 2.0, 2.5 and 2.75
    assert timeline.seconds[:4] == pytest.approx([0.6] * 4)


def test_with_a_pace_a_slow_machine_answers_in_time(picture_bag, scripted):
    """A frame costs 0.6 s and is taken every 1.1 s (0.6 s / 0.54), so that the worker rests when the question comes."""
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(4)], scripted(), Timer(encode=0.6), pace=True)
    (record,) = sink.answers
    assert record.waited_s + record.seconds["encode"] + record.seconds["prefill"] <= 2.0
    assert record.frame.time_s >= 3.75  # the newest one when the work began
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(sink.timelines[0].time_s[:3]))


def test_captions_take_their_time_and_a_question_preempts_them(picture_bag, scripted):
    """Every operation takes 0.4 s, longer than a frame's period: while captions are made, more frames are replaced."""
    words = "one word after the other until the end of a long sentence"
    bag = picture_bag({CAMERA: QUARTERS})

    def replayed(captions):
        runtime = scripted(lambda asked, numbers: words)
        sink = live(bag, [question(3)], runtime, Timer(append=0.4), captions=captions, max_new_tokens=2)
        return sink, [asked for asked, _ in runtime.asked]

    (quiet, quiet_asked), (captioned, asked) = replayed(False), replayed(True)
    assert quiet_asked == ["Which?"] and asked[-1] == "Which?" and len(asked) > 1
    assert captioned.timelines[0].dropped > quiet.timelines[0].dropped
    assert captioned.answers[0].waited_s <= 0.8  # the caption ended before its next token


def test_durations_are_multiplied_by_the_factor(picture_bag, scripted):
    """Twice 0.3 s is 0.6 s."""
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(2)], scripted(), Timer(encode=0.3), factor=2.0)
    assert seen(sink) == {"at 2": [0, 2, 4, 7, 9]}


def test_the_factor_multiplies_the_time_of_answers(picture_bag, scripted, monkeypatch):
    class QuarterSeconds:
        def lap(self):
            return 0.25

    monkeypatch.setattr("penguin_engine.scene.session.LapTimer", QuarterSeconds)
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(2)], scripted(), Timer(), factor=3.0)
    assert (sink.answers[0].first_token_s, sink.answers[0].total_s) == (1.5, 2.25)  # encode, prefill, decode


def test_frames_are_taken_while_an_answer_is_generated(picture_bag, scripted):
    """An answer of many tokens, 0.2 s each: the frames that come meanwhile are taken between them, and none is lost."""
    runtime = scripted(lambda asked, numbers: "one word after the other until the end of a long sentence")
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(1, "a"), question(5, "b")], runtime, Timer(append=0.2))
    assert sink.answers[0].generated_tokens > 5
    (timeline,) = sink.timelines
    assert timeline.dropped == 0 and timeline.time_s == pytest.approx([at for at, _ in QUARTERS])


def test_a_question_that_waits_for_another(picture_bag, scripted):
    """Two questions at once: the second waits for the first. Prefill of the first takes what its tokens cost."""
    timer = Timer(append=0.001)
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(3, "a"), question(3, "b")], scripted(), timer)
    a, b = sink.answers
    assert (a.question, b.question) == ("a", "b")
    assert b.waited_s > a.waited_s


def test_reading_the_bag_takes_no_time(picture_bag, scripted, monkeypatch):
    from penguin_ros.recording import Recording

    timer = Timer(encode=0.01)
    read = Recording.read

    def slow(self, refs=None):
        for image in read(self, refs):
            timer.now += 7.0
            yield image

    monkeypatch.setattr(Recording, "read", slow)
    sink = live(picture_bag({CAMERA: QUARTERS}), [question(5)], scripted(), timer)
    assert sink.timelines[0].dropped == 0 and sink.answers[0].waited_s == 0


def test_after_an_interruption_the_answers_that_are_there_take_their_time(picture_bag, scripted):
    bag = picture_bag({CAMERA: QUARTERS})
    questions = [question(1, "a"), question(1.2, "b")]
    first = live(bag, questions, scripted(), Timer(append=0.005))
    done = {(r.question, r.method, r.key): r for r in first.answers[:1]}
    done[next(iter(done))].seconds = {"encode": 0.0, "prefill": 1.0, "decode": 0.5}
    runtime = scripted()
    second = live(bag, questions, runtime, Timer(append=0.005), done)
    assert [record.question for record in second.answers] == ["b"] and len(runtime.asked) == 1
    assert second.answers[0].waited_s > 1.2


def test_the_clock():
    timer = Timer()
    clock = SimulatedClock(5_000, factor=2.0, timer=timer)
    timer.now += 1.0
    assert clock.now_ns() == 2_000_005_000
    clock.jump_to(1)
    assert clock.now_ns() == 2_000_005_000  # never back
    clock.jump_to(3_000_000_000)
    with clock.excluded():
        timer.now += 1.0
    assert clock.now_ns() == 3_000_000_000
