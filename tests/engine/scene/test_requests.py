"""Requests are checked before they are queued, the queue is bounded, and every pending request is resolved."""

import math

import hypothesis
import pytest
from fuzzing import FUZZ
from hypothesis import strategies as st

from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.requests import MAX_CAMERAS, RESERVED_TOKENS, PendingRequest, Request, RequestQueue
from penguin_models.chat import RESERVED
from penguin_models.errors import (
    BusyError,
    CancelledError,
    ContextLengthError,
    NotActiveError,
    PenguinError,
    PromptError,
)


def pending():
    return PendingRequest(Request("What?", [1]), lambda piece, tokens: None)


@pytest.fixture
def queue():
    queue = RequestQueue(2)
    queue.open()
    return queue


def test_questions_are_taken_in_order_and_a_full_queue_refuses_more(queue):
    first, second = pending(), pending()
    queue.put(first)
    queue.put(second)
    with pytest.raises(BusyError, match="2 questions are waiting, the limit is 2"):
        queue.put(pending())
    assert queue.refused == 1
    assert queue.take() is first and queue.running and len(queue) == 1
    queue.done("the answer")
    assert first.outcome.result(0) == "the answer"
    assert not queue.running and queue.take() is second
    queue.done(ValueError("no answer"))
    with pytest.raises(ValueError, match="no answer"):
        second.outcome.result(0)


def test_a_closed_queue_gives_the_reason_for_its_refusal():
    queue = RequestQueue(2, "the node is unconfigured; configure and activate it")
    for refused in (queue.check, lambda: queue.put(pending())):
        with pytest.raises(NotActiveError, match="unconfigured; configure and activate"):
            refused()
    queue.open()
    queue.close("the node is finalized; start it again")
    with pytest.raises(NotActiveError, match="finalized; start it again"):
        queue.put(pending())


def test_closing_ends_waiting_requests_and_cancels_the_running_one(queue):
    running, waiting = pending(), pending()
    queue.put(running)
    queue.put(waiting)
    queue.take()
    queue.close("the node is inactive; activate it")
    assert running.cancelled and not running.outcome.done()
    with pytest.raises(CancelledError, match="before the answer began: the node is inactive"):
        waiting.outcome.result(0)
    assert len(queue) == 0 and queue.closed


def test_cancelling_a_waiting_request_makes_room(queue):
    first, second = pending(), pending()
    queue.put(first)
    queue.put(second)
    queue.cancel(first)
    with pytest.raises(CancelledError):
        first.outcome.result(0)
    queue.put(pending())
    assert queue.take() is second


def test_cancelling_the_running_request_leaves_its_outcome_to_the_worker(queue):
    running = pending()
    queue.put(running)
    queue.take()
    queue.cancel(running)
    assert running.cancelled and not running.outcome.done()


def test_an_abandoned_request_ends_at_once_and_its_late_result_is_dropped(queue):
    running, waiting = pending(), pending()
    queue.put(running)
    queue.put(waiting)
    queue.take()
    queue.abandon()
    assert running.cancelled and not queue.running
    with pytest.raises(CancelledError, match="its text so far is lost"):
        running.outcome.result(0)
    queue.done("too late")
    assert not waiting.outcome.done() and queue.take() is waiting
    queue.cancel(waiting)
    queue.abandon()
    queue.abandon()
    assert waiting.outcome.done()


def test_a_request_holds_the_prompt_tokens_after_the_last_frame(processor):
    video = {"type": "video", "num_frames": 3, "timestamps": [0.0, 1.0, 2.0]}
    content = [video, {"type": "text", "text": "What moved?"}]
    tail = processor.prompt_segments([{"role": "user", "content": content}])[-1]
    assert Request.prepare(processor, "What moved?").token_ids == tail


@pytest.mark.parametrize(
    ("question", "options", "error", "message"),
    [
        ("  ", {}, PromptError, "is empty"),
        ("What?", {"cameras": ["/a"] * 1_000_000}, PromptError, "names 1000000 cameras, the limit is 64"),
        ("\udcff?", {}, PromptError, "not valid Unicode"),
        ("x" * 1_000_000, {}, PromptError, "has 1000000 characters, the limit is 16384"),
        ("<image>?", {}, PromptError, "<image>"),
        ("What?", {"horizon_s": -1.0}, PromptError, "horizon_s is -1.0"),
        ("What?", {"horizon_s": float("nan")}, PromptError, "horizon_s is nan"),
        ("What? " * 1500, {}, ContextLengthError, "the question with its answer"),
        ("What?", {"sampling": Sampling(max_new_tokens=2048)}, ContextLengthError, "the question with its answer"),
    ],
)
def test_bad_questions_are_refused_before_they_are_queued(processor, question, options, error, message):
    def no_work(camera):
        raise AssertionError("a limit is checked before any work is done")

    with pytest.raises(error, match=message):
        Request.prepare(processor, question, camera_name=no_work, **options)


def test_a_question_that_is_refused_anyway_costs_no_work(queue):
    queue.put(pending())
    queue.check()
    queue.put(pending())
    with pytest.raises(BusyError, match="2 questions are waiting"):
        queue.check()
    assert queue.refused == 1


def test_each_camera_counts_once(processor):
    request = Request.prepare(
        processor, "What?", cameras=["a", "/b", "/a"], camera_name=lambda name: f"/{name.strip('/')}"
    )
    assert request.cameras == ("/a", "/b")


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates and NUL as well
    | st.sampled_from([*RESERVED, "<|im_", " ", "/image", "x" * 20_000, "\U0001f600" * 700]),
    max_size=4,
).map("".join)


@FUZZ
@hypothesis.given(
    TEXTS,
    st.sampled_from([[], ["/a", "/a"], ["/a"] * 65]),
    st.just(0.0) | st.floats(width=32),
    st.sampled_from([1, 256]) | st.integers(0, 2**32 - 1),
)
def test_any_request_becomes_tokens_that_fit_or_one_short_error(
    processor, question, cameras, horizon_s, max_new_tokens
):
    try:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        request = Request.prepare(processor, question, sampling, cameras, horizon_s)
    except PenguinError as err:
        assert len(str(err)) < 400 and str(err).isprintable()
        return
    assert len(request.token_ids) + max_new_tokens <= RESERVED_TOKENS
    assert len(request.cameras) <= MAX_CAMERAS and math.isfinite(request.horizon_s) and request.horizon_s >= 0
    assert not any(token in request.question for token in RESERVED)
