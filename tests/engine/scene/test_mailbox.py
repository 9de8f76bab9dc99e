"""The mailbox holds the newest frame and applies the sampling rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_engine.scene.mailbox import Mailbox

SECOND = 10**9


def offered(mailbox, stamps_s):
    return [mailbox.offer(round(s * SECOND), lambda s=s: s) for s in stamps_s]


def test_the_newest_frame_replaces_others_which_are_counted():
    mailbox = Mailbox(0.0)
    offered(mailbox, [0, 1, 2])
    assert mailbox.take()() == 2 and mailbox.take() is None
    assert (mailbox.received, mailbox.dropped, mailbox.skipped) == (3, 2, 0)


@pytest.mark.parametrize(("camera_hz", "rate_hz"), [(30, 2), (30, 10), (10, 10), (15, 4), (5, 30), (100, 7)])
def test_the_average_rate_is_kept_and_a_slower_camera_loses_no_frame(camera_hz, rate_hz):
    mailbox = Mailbox(rate_hz)
    jitter = [0.1 * ((7 * i) % 5 - 2) / 2 for i in range(camera_hz * 20)]
    taken = sum(offered(mailbox, [(i + jitter[i]) / camera_hz for i in range(camera_hz * 20)]))
    assert taken == pytest.approx(20 * min(camera_hz, rate_hz), rel=0.02, abs=2)


@given(st.lists(st.integers(0, 100), max_size=60), st.sampled_from([0.0, 0.5, 3.0, 30.0]))
def test_every_frame_is_counted_once(tenths, rate):
    mailbox = Mailbox(rate, jump_back_s=2.0)
    taken = 0
    for index, tenth in enumerate(tenths):
        mailbox.offer(tenth * SECOND // 10, lambda: None)
        if index % 3 == 0:
            taken += mailbox.take() is not None
    waiting = mailbox.take() is not None
    assert mailbox.received == len(tenths) == taken + waiting + mailbox.dropped + mailbox.skipped + mailbox.late


def test_a_late_frame_is_refused_and_a_jump_back_is_accepted():
    mailbox = Mailbox(1.0, jump_back_s=1.0)
    assert offered(mailbox, [10, 9.5]) == [True, False]
    assert mailbox.late == 1 and mailbox.take()() == 10
    assert offered(mailbox, [3, 3.1, 4]) == [True, False, True]


def test_the_rate_can_change():
    mailbox = Mailbox(1.0)
    assert offered(mailbox, [0, 0.5]) == [True, False]
    mailbox.set_rate(10.0)
    assert offered(mailbox, [0.6]) == [True]
    mailbox.set_rate(0.0)
    assert offered(mailbox, [0.61, 0.62]) == [True, True]
