"""Watches: how long a condition has held, when it is judged, and what a judgement costs."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from scripted_runtime import ScriptedRuntime, ScriptedTokens
from timed_runtime import Clock

from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.pace import Pace, PaceConfig
from penguin_engine.scene.requests import Request, RequestQueue
from penguin_engine.scene.session import SceneSession
from penguin_engine.scene.watches import PendingWatch, Watches, WatchRequest
from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import (
    BusyError,
    CancelledError,
    CheckpointError,
    NotActiveError,
    PromptError,
    UnknownCameraError,
)
from penguin_models.processor import CALIBRATION
from penguin_models.types import Frame, FrameKind
from penguin_models.watch import Calibration

S = 10**9


class EveryFrameIsKey:
    def observe(self, frame):
        return FrameKind.KEY

    def reset(self):
        pass


class Listener:
    """Collects captions; fails the test on a failure."""

    def __init__(self):
        self.captions, self.failures = [], []

    def on_caption(self, outcome):
        self.captions.append(outcome)

    def on_failure(self, doing, error):
        self.failures.append((doing, error))

    def __getattr__(self, name):
        return lambda *args: None


class CountingRuntime(ScriptedRuntime):
    """Says yes or no, and counts encoded images and appended tokens; an appended token takes 10 ms."""

    def __init__(self, processor, clock):
        super().__init__(processor, text="no")
        self.clock, self.encoded, self.appended = clock, 0, []

    def encode(self, images):
        self.encoded += len(images)
        return super().encode(images)

    def open_cache(self, max_length):
        cache = super().open_cache(max_length)
        extend = cache._extend

        def counted(segments, new):
            self.appended.append((new, any(isinstance(segment, ScriptedTokens) for segment in segments)))
            self.clock.now_s += 0.01 * new
            return extend(segments, new)

        cache._extend = counted
        return cache


@pytest.fixture
def scene(processor):
    """Returns a function that makes a worker whose steps the test takes itself."""
    workers = []

    def make(cameras=("a",), caption=None, paced=False):
        clock = Clock()
        runtime, listener, queue = CountingRuntime(processor, clock), Listener(), RequestQueue(4)
        pace = Pace(PaceConfig(), clock) if paced else None
        states = [
            CameraState(
                camera,
                SceneSession(runtime, processor, EveryFrameIsKey(), MemoryConfig(500), pace),
                Mailbox(0.0),
                clock,
            )
            for camera in cameras
        ]
        config = caption or CaptionConfig(on_keyframe=False)
        worker = SceneWorker(runtime, processor, states, config, queue, listener, clock, pace)
        queue.open()
        worker.watches.open()
        workers.append(worker)

        def see(second, says="no", camera="a", steps=30):
            runtime.text = says
            pixels = np.full((56, 84, 3), int(second) % 256, np.uint8)
            worker.offer(camera, round(second * S), partial(Frame, pixels, round(second * S), camera))
            for _ in range(steps):
                if not worker.step():
                    break

        def watch(condition="it is there", cameras=("a",), **limits):
            request = WatchRequest.prepare(processor, condition, cameras, str, **limits)
            judgements = []
            found = worker.watch(request, judgements.append)
            found.judgements = judgements
            return found

        return SimpleNamespace(worker=worker, runtime=runtime, listener=listener, clock=clock, see=see, watch=watch)

    yield make
    for worker in workers:
        assert not worker.listener.failures
        worker.queue.close("the test is over")
        worker.stop()


@pytest.mark.parametrize(
    ("hold_s", "seen", "alert_s"),
    [
        (0.0, [(1, "no"), (2, "yes")], 2),
        (2.0, [(1, "yes"), (2, "yes"), (3, "yes")], 3),
        (2.0, [(1, "yes"), (2, "no"), (3, "yes"), (4, "yes"), (5, "yes")], 5),
        (6.0, [(1, "yes"), (4, "yes"), (9.5, "yes"), (12, "yes"), (15, "yes")], None),  # a gap of 5.5 s
        (6.0, [(1, "yes"), (4, "yes"), (9.5, "yes"), (12, "yes"), (15.5, "yes")], 15.5),
        (3.0, [(100, "yes"), (102, "yes"), (50, "yes"), (51, "yes"), (52, "yes"), (53, "yes")], 53),  # a jump back
        (3.0, [(1, "yes"), (2, "yes"), "clear", (3, "yes"), (4, "yes"), (5, "yes"), (6, "yes")], 6),
        (1.0, [(1, "yes"), (1.4, "no"), (2, "yes")], 2),  # 1.4 comes within the period and is not judged
    ],
)
def test_a_condition_has_to_hold_from_stamp_to_stamp(scene, hold_s, seen, alert_s):
    made = scene()
    watch = made.watch(hold_s=hold_s)
    for item in seen:
        if item == "clear":
            made.worker.clear()
            made.worker.step()
            continue
        assert not watch.result.done()
        made.see(*item)
    assert watch.result.done() == (alert_s is not None)
    if alert_s is not None:
        found = watch.result.result()
        assert (found.frame.stamp_ns, found.camera) == (round(alert_s * S), "a") and found.pixels.shape == (56, 84, 3)
        assert hold_s <= found.held_s < hold_s + 1 and found.probability > 0.6 and found == watch.judgements[-1]
        assert not len(made.worker.watches)
    assert [judgement.judged for judgement in watch.judgements] == list(range(1, len(watch.judgements) + 1))


def test_watches_share_the_prefill_of_a_frame_and_cost_their_own_tokens(scene):
    made = scene()
    watches = [made.watch(f"thing {number} is there", threshold=0.9) for number in range(3)]
    for second in range(1, 5):
        made.see(second)
    assert made.runtime.encoded == 4 and all(len(watch.judgements) == 4 for watch in watches)
    tokens = [len(watch.request.token_ids) for watch in watches]
    assert [new for new, shows_frame in made.runtime.appended if not shows_frame] == tokens * 4
    assert made.worker.camera_states["a"].session.up_to_date
    assert made.watch().newest is None and not made.worker.watches.slowest


def test_cameras_are_judged_on_their_own(scene):
    made = scene(("a", "b"))
    watch = made.watch(cameras=("a", "b"), hold_s=2.0)
    for second, camera in ((1, "a"), (1.5, "b"), (2, "b"), (2.5, "a")):
        made.see(second, "yes", camera)
    assert not watch.result.done()  # each has held for less than 2 s
    made.see(3.5, "yes", "b")
    assert watch.result.result().camera == "b"


def test_a_question_comes_first_and_captions_are_not_starved(scene):
    made = scene(caption=CaptionConfig(on_keyframe=True, max_new_tokens=2))
    watches = [made.watch(f"thing {number} is there", threshold=0.9, period_s=1e-3) for number in range(2)]
    asked = made.worker.submit(Request.prepare(made.worker.processor, "What?"))
    made.see(1, steps=1)
    assert asked.outcome.done() and not watches[0].judgements
    for second in range(2, 6):
        made.see(second, steps=2)
    assert len(made.listener.captions) == 4 and len(watches[1].judgements) == 4
    interrupting = []
    watches[0].on_judgement = lambda _: interrupting.append(
        made.worker.submit(Request.prepare(made.worker.processor, "And now?"))
    )
    made.see(6, steps=1)
    assert len(interrupting) == 1 and len(watches[1].judgements) == 4  # the second waits for the question
    watches[0].on_judgement = lambda _: None
    made.see(7, steps=5)
    assert interrupting[0].outcome.done() and len(watches[1].judgements) == 5


def test_the_pace_stretches_the_period_of_watches_beyond_their_share(scene):
    made = scene(paced=True)
    watches = [made.watch(f"{'it is very ' * 20} {n}", threshold=0.9, period_s=0.5) for n in range(12)]
    start_s = made.clock.now_s
    for _ in range(200):
        made.see(made.clock.now_s)
        assert made.worker.idle_s() is None or made.worker.idle_s() > 0
        made.clock.now_s += 1.0 - made.clock.now_s % 1
    worked_s = sum(0.01 * new for new, _ in made.runtime.appended)
    assert 0.45 < worked_s / (made.clock.now_s - start_s) < 0.65  # a judgement of all twelve takes ten seconds
    counts = [len(watch.judgements) for watch in watches]
    assert min(counts) >= 5 and max(counts) - min(counts) <= 1 and 0.3 < made.worker.pace.watch_load < 0.6
    assert made.worker.watches.slowest.period_s > 10


def test_frames_that_are_no_longer_new_are_not_judged(scene):
    made = scene()
    made.see(1)
    made.clock.now_s += 11
    watch = made.watch()
    assert not made.worker.step() and not watch.judgements
    made.see(20)
    assert len(watch.judgements) == 1


def test_the_end_of_a_watch_is_final_and_more_than_the_limit_are_refused(scene):
    made = scene()
    watches = [made.watch(threshold=1.0) for _ in range(made.worker.watches.limit)]
    made.see(1, "yes")
    with pytest.raises(BusyError, match="16 conditions are watched for, the limit is 16; cancel one"):
        made.watch()
    made.worker.watches.end(watches[0], CancelledError("enough"))
    made.watch()
    made.worker.watches.close("the node is inactive; activate it")
    with pytest.raises(CancelledError, match="enough"):
        watches[0].result.result()
    with pytest.raises(CancelledError, match="before the condition held: the node is inactive"):
        watches[1].result.result()
    with pytest.raises(NotActiveError, match="inactive"):
        made.watch()
    assert made.worker.watches.refused == 1 and watches[1].newest.judged == 1
    made.worker.watches.end(watches[1], watches[1].newest)  # too late: nothing happens


@pytest.mark.parametrize(
    ("condition", "limits", "error", "message"),
    [
        ("  ", {}, PromptError, "the condition is empty; give a statement"),
        ("x" * 20_000, {}, PromptError, "has 20000 characters, the limit is 16384"),
        ("a <image> b", {}, PromptError, "image"),
        ("x", {"threshold": float("nan")}, PromptError, "threshold is nan, it must be from 0"),
        ("x", {"threshold": 1.5}, PromptError, "threshold is 1.5, it must be from 0"),
        ("x", {"period_s": -1.0}, PromptError, "period_s is -1, it must be from 0"),
        ("x", {"hold_s": float("inf")}, PromptError, "hold_s is inf, it must be from 0"),
        ("x", {"cameras": ("a",) * 65}, PromptError, "names 65 cameras, the limit is 64"),
        ("x", {"cameras": ("b",)}, UnknownCameraError, "camera 'b' is not configured; the cameras are: a"),
    ],
)
def test_bad_watches_are_refused_with_the_reason(scene, condition, limits, error, message):
    with pytest.raises(error, match=message):
        scene().watch(condition, **limits)


def test_a_calibration_is_read_from_the_checkpoint_and_changes_probabilities(processor):
    assert Calibration.of(processor) == Calibration() and Calibration().apply(0.3) == pytest.approx(0.3)
    shifted = Calibration(2.0, -1.0, 500)
    processor.side_files[CALIBRATION] = shifted.to_json().encode()
    try:
        assert Calibration.of(processor) == shifted
        assert shifted.apply(0.5) == pytest.approx(1 / (1 + np.e)) and 0 < shifted.apply(0.0) < shifted.apply(1.0) < 1
        for damaged in (
            b"{",
            b"[]",
            b'{"scale": 1, "offset": 0}',
            b'{"scale": NaN, "offset": 0, "samples": 1}',
            b"\xff",
        ):
            processor.side_files[CALIBRATION] = damaged
            with pytest.raises(CheckpointError, match=r"watch_calibration.json.*evaluate watch --fit"):
                Calibration.of(processor)
    finally:
        del processor.side_files[CALIBRATION]


def test_watches_can_be_used_without_a_worker():
    watches, watch = Watches(limit=1), PendingWatch(WatchRequest("x", [1], ("a",)))
    with pytest.raises(NotActiveError, match="not active"):
        watches.add(watch)
    watches.open()
    watches.add(watch)
    assert watches.due("a", None, 0) == [] and len(watches) == 1
