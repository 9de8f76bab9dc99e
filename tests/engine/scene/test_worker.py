"""The worker's thread, with a scripted runtime: order of work, captions, cancelling and errors."""

import threading
from functools import partial

import numpy as np
import pytest
from scripted_runtime import ScriptedRuntime, ScriptedTokens

from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import open_episodes
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.requests import Request, RequestQueue
from penguin_engine.scene.session import SceneSession
from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import (
    CancelledError,
    EpisodeError,
    MediaError,
    NoFramesError,
    NotActiveError,
    PromptError,
    UnknownCameraError,
)
from penguin_models.types import Frame, FrameKind

SECOND = 10**9
NO_CAPTIONS = CaptionConfig(on_keyframe=False)
PATIENCE_S = 20


class EveryFrameIsKey:
    def observe(self, frame):
        return FrameKind.KEY

    def reset(self):
        pass


class NoFrameIsKey(EveryFrameIsKey):
    def observe(self, frame):
        return FrameKind.INTERMEDIATE


class RecordingListener:
    """A listener that records every call; `wait` waits for one."""

    def __init__(self):
        self.frames, self.keyframes, self.bad, self.captions, self.answers, self.failures = [], [], [], [], [], []
        self._changed = threading.Condition()

    def _add(self, records, item):
        with self._changed:
            records.append(item)
            self._changed.notify_all()

    def on_memory(self, camera_state):
        self._add(self.frames, camera_state.camera)

    def on_keyframe(self, frame):
        self._add(self.keyframes, frame)

    def on_bad_frame(self, camera_state):
        self._add(self.bad, camera_state.last_error)

    def on_caption(self, outcome):
        self._add(self.captions, outcome)

    def on_answer(self, outcome):
        self._add(self.answers, outcome)

    def on_failure(self, doing, error):
        self._add(self.failures, (doing, error))

    def wait(self, condition):
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), vars(self)


@pytest.fixture
def make(processor):
    """Returns a function that builds and starts a worker."""
    workers = []

    def build(cameras=("a",), caption=NO_CAPTIONS, locate=lambda outcome: (), **script):
        runtime = ScriptedRuntime(processor, **script)
        camera_states = [
            CameraState(c, SceneSession(runtime, processor, EveryFrameIsKey(), MemoryConfig(500)), Mailbox(0.0))
            for c in cameras
        ]
        listener = RecordingListener()
        worker = SceneWorker(runtime, processor, camera_states, caption, RequestQueue(4), listener, locate=locate)
        worker.listener, worker.runtime, worker.processor = listener, runtime, processor
        worker.start()
        resume(worker)
        workers.append(worker)
        return worker

    yield build
    for worker in workers:
        worker.queue.close("the test is over")
        worker.stop()
        assert worker.runtime.open_caches == 0
    assert not [t for t in threading.enumerate() if t.name == "scene-worker"]


def frame(second, camera="a", value=0):
    return Frame(np.full((56, 84, 3), value, np.uint8), round(second * SECOND), camera, f"header {second}")


def offer_and_wait(worker, second, camera="a"):
    """Offers a frame and waits until it is in the memory."""
    before = len(worker.listener.frames)
    worker.offer(camera, round(second * SECOND), partial(frame, second, camera))
    worker.listener.wait(lambda: len(worker.listener.frames) > before)


def submit(worker, text="What?", on_text=lambda piece, tokens: None, **options):
    return worker.submit(Request.prepare(worker.processor, text, **options), on_text)


def answer(worker, text="What?", **options):
    return submit(worker, text, **options).outcome.result(PATIENCE_S)


def resume(worker):
    worker.queue.open()
    worker.wake()


def test_an_answer_belongs_to_the_newest_frame(make):
    worker = make()
    offer_and_wait(worker, 1)
    offer_and_wait(worker, 2)
    outcome = answer(worker)
    assert outcome.answer.grounding.objects[0].label == "red cube"
    assert (outcome.camera, outcome.frame.header, outcome.answer.frames) == ("a", "header 2", 2)
    assert outcome.answer.start_ns == SECOND and outcome.answer.generated_tokens > 5
    assert worker.listener.answers == [outcome]


def test_answers_and_captions_carry_positions_and_an_error_in_them_loses_neither(make):
    def locate(outcome):
        if outcome.frame.header == "header 2":
            raise RuntimeError("boom")
        return [f"{item.label} of {outcome.frame.header}" for item in outcome.answer.grounding.objects]

    worker = make(caption=CaptionConfig(on_keyframe=True), locate=locate)
    offer_and_wait(worker, 1)
    worker.listener.wait(lambda: worker.listener.captions)
    assert answer(worker).positions == worker.listener.captions[0].positions == ["red cube of header 1"]
    offer_and_wait(worker, 2)
    assert answer(worker).positions == () and "boom" in str(worker.listener.failures[0][1])


def test_text_is_streamed_with_its_number_of_tokens(make):
    worker, pieces = make(), []
    offer_and_wait(worker, 1)
    pending = submit(worker, "What?", on_text=lambda piece, tokens: pieces.append((piece, tokens)))
    outcome = pending.outcome.result(PATIENCE_S)
    assert "".join(piece for piece, _ in pieces) == outcome.answer.raw
    assert [tokens for _, tokens in pieces] == sorted(tokens for _, tokens in pieces)
    assert pieces[-1][1] <= outcome.answer.generated_tokens


def test_several_cameras_share_one_prompt_and_the_newest_frame_is_reported(make):
    worker = make(("a", "b", "c"))
    offer_and_wait(worker, 1, "b")
    offer_and_wait(worker, 2, "a")
    outcome = answer(worker)
    assert (outcome.camera, outcome.answer.frames) == ("a", 2)
    assert answer(worker, cameras=("b",)).camera == "b"
    assert answer(worker, cameras=("b", "c")).answer.frames == 1
    assert answer(worker, horizon_s=0.5).answer.frames == 1


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_with_equal_stamps_the_answer_belongs_to_the_last_camera_in_the_prompt(make, order):
    worker = make(("a", "b"))
    for camera, size in (("a", (56, 84)), ("b", (112, 56))):
        before = len(worker.listener.frames)
        worker.offer(camera, SECOND, partial(Frame, np.zeros((*size, 3), np.uint8), SECOND, camera))
        worker.listener.wait(lambda before=before: len(worker.listener.frames) > before)
    outcome = answer(worker, cameras=order)
    assert outcome.answer.frames == 2 and outcome.camera == order[-1]
    assert outcome.answer.image_size == outcome.frame.source_size  # boxes are in pixels of this camera's frame


def test_a_window_is_answered_from_episodes_and_an_unreadable_store_fails_only_windows(make, tmp_path):
    worker = make(("a", "b"))
    with open_episodes(tmp_path / "episodes.db") as store:
        store.add(Episode("b", 5 * SECOND), np.zeros((56, 84, 3), np.uint8))
        assert store.flush(PATIENCE_S)
        worker.episodes = store
        outcome = answer(worker, since_ns=SECOND)  # no camera has a frame
        assert (outcome.camera, outcome.frame.stamp_ns, len(outcome.answer.evidence)) == ("b", 5 * SECOND, 1)
        with pytest.raises(NoFramesError, match=r"no frame and no episode of a, b since 6\.000 s"):
            answer(worker, since_ns=6 * SECOND)
        offer_and_wait(worker, 9, "a")
        outcome = answer(worker, horizon_s=100)
        assert (outcome.camera, outcome.frame.header, outcome.answer.frames) == ("a", "header 9", 2)
    (tmp_path / "episodes.db").unlink()
    with pytest.raises(EpisodeError, match="no episode file"):
        answer(worker, since_ns=SECOND)
    assert not worker.listener.failures
    assert answer(worker, horizon_s=100).answer.frames == 1
    assert worker.listener.failures[0][0] == "looking for episodes"


def test_an_error_reaches_only_the_caller(make):
    worker = make()
    with pytest.raises(NoFramesError, match="no frame of a"):
        answer(worker)
    offer_and_wait(worker, 1)
    with pytest.raises(UnknownCameraError, match="camera 'x' is not configured; the cameras are: a"):
        answer(worker, cameras=("x",))
    assert answer(worker).answer.raw and not worker.listener.failures


def test_an_error_of_the_runtime_fails_the_question_but_not_the_worker(make):
    worker = make()
    offer_and_wait(worker, 1)
    answer(worker)  # the frame is prefilled
    worker.runtime.text = "boom"
    with pytest.raises(RuntimeError, match="boom"):
        answer(worker)
    worker.runtime.text = "fine"
    offer_and_wait(worker, 2)
    assert answer(worker).answer.raw == "fine"


def test_an_error_during_prefill_is_reported_and_clears_the_session(make):
    worker = make()
    worker.runtime.text = "boom"
    offer_and_wait(worker, 1)
    worker.listener.wait(lambda: worker.listener.failures)
    assert worker.listener.failures[0][0] == "prefilling frames"
    with pytest.raises(RuntimeError, match="boom"):  # which is why there are no frames
        answer(worker)
    worker.clear()
    with pytest.raises(NoFramesError):
        answer(worker)
    worker.runtime.text = "fine"
    offer_and_wait(worker, 2)
    assert answer(worker).answer.frames == 1


def test_an_unreadable_image_is_counted_and_the_next_one_is_used(make):
    worker = make()

    def broken():
        raise MediaError("half a JPEG")

    worker.offer("a", SECOND, broken)
    worker.listener.wait(lambda: worker.listener.bad)
    camera_state = worker.camera_states["a"]
    assert (camera_state.bad_frames, camera_state.last_error, camera_state.newest_failed) == (1, "half a JPEG", True)
    offer_and_wait(worker, 2)
    assert not camera_state.newest_failed and answer(worker).answer.frames == 1


def test_frames_keep_arriving_while_an_answer_is_generated(make):
    worker, streaming = make(token_s=0.02), threading.Event()
    offer_and_wait(worker, 1)
    pending = submit(worker, "What?", on_text=lambda piece, tokens: streaming.set())
    assert streaming.wait(PATIENCE_S)
    for second in range(2, 6):
        offer_and_wait(worker, second)
    assert not pending.outcome.done()
    assert pending.outcome.result(PATIENCE_S).answer.frames == 1
    assert len(worker.camera_states["a"].session.memory.frames) == 5


def test_cancelling_ends_an_answer_between_two_tokens(make):
    worker, streaming = make(token_s=0.05), threading.Event()
    offer_and_wait(worker, 1)
    pending = submit(worker, "What?", on_text=lambda piece, tokens: streaming.set())
    assert streaming.wait(PATIENCE_S)
    worker.queue.cancel(pending)
    outcome = pending.outcome.result(PATIENCE_S)
    assert outcome.answer.ended_by == "cancelled"
    assert 0 < len(outcome.answer.raw) < len(worker.runtime.text)


def test_closing_the_queue_cancels_all_requests_and_keeps_the_memory(make):
    worker = make(token_s=0.02)
    offer_and_wait(worker, 1)
    pendings = [submit(worker, text) for text in ("one", "two")]
    worker.queue.close("the node is inactive")
    endings = []
    for pending in pendings:
        try:
            endings.append(pending.outcome.result(PATIENCE_S).answer.ended_by)
        except CancelledError:
            endings.append("cancelled")
    assert endings == ["cancelled"] * 2
    with pytest.raises(NotActiveError):
        submit(worker, "What?")
    resume(worker)
    assert answer(worker).answer.frames == 1


def test_abandoning_ends_a_question_during_an_operation_of_the_runtime(make):
    worker, encoding, encoded = make(), threading.Event(), threading.Event()

    def encode(images):
        encoding.set()
        assert encoded.wait(PATIENCE_S)
        return [ScriptedTokens(6) for _ in images]

    worker.runtime.encode = encode
    worker.offer("a", SECOND, partial(frame, 1))
    pending = submit(worker, "What?")
    assert encoding.wait(PATIENCE_S)
    worker.queue.close("the node is inactive")
    worker.queue.abandon()
    with pytest.raises(CancelledError):
        pending.outcome.result(PATIENCE_S)
    encoded.set()


def test_an_exception_of_the_listener_reaches_the_caller(make):
    worker = make()
    offer_and_wait(worker, 1)
    worker.listener.on_answer = lambda outcome: 1 / 0
    with pytest.raises(ZeroDivisionError):
        answer(worker)


def test_clearing_takes_effect_before_the_next_question(make):
    worker = make(token_s=0.02)
    offer_and_wait(worker, 1)
    running = submit(worker, "What?")
    before = len(worker.listener.frames)
    worker.clear()
    worker.listener.wait(lambda: len(worker.listener.frames) > before)
    with pytest.raises(NoFramesError):
        answer(worker)
    assert running.outcome.done()
    offer_and_wait(worker, 2)
    assert answer(worker).answer.frames == 1


def test_settings_change_between_two_questions(make):
    worker = make()
    for second in range(1, 30):
        offer_and_wait(worker, second)
    session = worker.camera_states["a"].session
    worker.change(partial(session.set_budget, 100))
    assert answer(worker).answer.visual_tokens <= 100
    worker.change(partial(session.set_budget, 10_000_000))  # far above the context
    worker.listener.wait(lambda: worker.listener.failures)
    assert answer(worker).answer.visual_tokens <= 100


def test_a_change_of_the_frame_settings_does_not_wait_for_an_answer(make):
    worker, streaming = make(token_s=0.1), threading.Event()
    offer_and_wait(worker, 1)
    running = submit(worker, "What?", on_text=lambda piece, tokens: streaming.set())
    assert streaming.wait(PATIENCE_S)
    memory = worker.camera_states["a"].session.memory
    worker.change_frames(partial(setattr, memory, "policy", NoFrameIsKey()))
    offer_and_wait(worker, 2)
    assert [held.kind for held in memory.frames] == [FrameKind.KEY, FrameKind.INTERMEDIATE]
    assert not running.outcome.done()
    running.cancel()


# Captions


def test_each_keyframe_that_is_still_the_newest_frame_gets_a_caption(make):
    worker = make(caption=CaptionConfig())
    for second in (1, 2):
        offer_and_wait(worker, second)
        worker.listener.wait(
            lambda s=second: worker.listener.captions and worker.listener.captions[-1].frame.stamp_ns == s * SECOND
        )
    assert [c.frame.header for c in worker.listener.captions] == ["header 1", "header 2"]
    assert worker.camera_states["a"].captions == 2


def test_the_caption_period_counts_frame_stamps(make):
    worker = make(caption=CaptionConfig(on_keyframe=False, period_s=10.0))
    for second, captions in ((1, 1), (2, 1), (9, 1), (11, 2)):
        offer_and_wait(worker, second)
        answer(worker)
        worker.listener.wait(lambda count=captions: len(worker.listener.captions) >= count)
    assert [c.frame.stamp_ns // SECOND for c in worker.listener.captions] == [1, 11]


def test_a_question_preempts_a_caption(make):
    worker = make(caption=CaptionConfig(), token_s=0.01)
    offer_and_wait(worker, 1)
    outcome = answer(worker)
    assert outcome.answer.ended_by == "end" and not worker.listener.captions
    assert worker.captions_preempted <= 1
    worker.listener.wait(lambda: worker.listener.captions)
    assert worker.listener.captions[0].frame is outcome.frame


def test_a_frame_older_than_max_age_gets_no_caption(make):
    worker = make(("a", "b"), caption=CaptionConfig(max_age_s=0.1), token_s=0.005)
    offer_and_wait(worker, 1, "a")
    worker.listener.wait(lambda: worker.listener.captions)
    pending = submit(worker, "What?")  # takes longer than max_age_s
    offer_and_wait(worker, 2, "b")
    pending.outcome.result(PATIENCE_S)
    answer(worker)
    assert (worker.camera_states["b"].captions, worker.camera_states["b"].captions_skipped) == (0, 1)


def test_every_camera_gets_captions(make):
    worker = make(("a", "b"), caption=CaptionConfig())
    for second in range(1, 6):
        offer_and_wait(worker, second, "a")
        offer_and_wait(worker, second, "b")
    worker.listener.wait(lambda: {c.camera for c in worker.listener.captions} == {"a", "b"})


@pytest.mark.parametrize(
    ("field", "value"), [("prompt", " "), ("period_s", -1.0), ("max_new_tokens", 0), ("max_age_s", 0.0)]
)
def test_impossible_caption_settings_are_refused(field, value):
    with pytest.raises(PromptError, match=f"caption.{field}"):
        CaptionConfig(**{field: value})
