"""The queue of questions: bounded, and every ticket gets an outcome."""

import pytest

from penguin_engine.scene.requests import PendingRequest, Question, QuestionQueue
from penguin_models.errors import BusyError, CancelledError, NotActiveError


def pending():
    return PendingRequest(Question("What?"), lambda piece, tokens: None)


@pytest.fixture
def queue():
    queue = QuestionQueue(2)
    queue.open()
    return queue


def test_questions_come_in_order_and_a_full_queue_refuses_at_once(queue):
    first, second = pending(), pending()
    queue.put(first)
    queue.put(second)
    with pytest.raises(BusyError, match="2 questions wait already"):
        queue.put(pending())
    assert queue.refused == 1
    assert queue.take() is first and queue.running and len(queue) == 1
    queue.done("the answer")
    assert first.outcome.result(0) == "the answer"
    assert not queue.running and queue.take() is second
    queue.done(ValueError("no answer"))
    with pytest.raises(ValueError, match="no answer"):
        second.outcome.result(0)


def test_a_closed_queue_takes_nothing():
    with pytest.raises(NotActiveError, match="activate"):
        QuestionQueue(2).put(pending())


def test_closing_ends_those_that_wait_and_cancels_the_running_one(queue):
    running, waiting = pending(), pending()
    queue.put(running)
    queue.put(waiting)
    queue.take()
    queue.close()
    assert running.cancelled and not running.outcome.done()
    with pytest.raises(CancelledError, match="deactivated"):
        waiting.outcome.result(0)
    assert len(queue) == 0 and queue.closed


def test_cancelling_one_that_waits_makes_room(queue):
    first, second = pending(), pending()
    queue.put(first)
    queue.put(second)
    queue.cancel(first)
    with pytest.raises(CancelledError):
        first.outcome.result(0)
    queue.put(pending())
    assert queue.take() is second


def test_cancelling_the_running_one_leaves_the_outcome_to_the_worker(queue):
    running = pending()
    queue.put(running)
    queue.take()
    queue.cancel(running)
    assert running.cancelled and not running.outcome.done()


def test_an_abandoned_question_ends_at_once_and_what_comes_later_goes_nowhere(queue):
    running, waiting = pending(), pending()
    queue.put(running)
    queue.put(waiting)
    queue.take()
    queue.abandon()
    assert running.cancelled and not queue.running
    with pytest.raises(CancelledError, match="what had been said is lost"):
        running.outcome.result(0)
    queue.done("too late")
    assert not waiting.outcome.done() and queue.take() is waiting
    queue.cancel(waiting)
    queue.abandon()
    queue.abandon()
    assert waiting.outcome.done()
