"""Which clock says when images were taken: header stamps or log times."""

from __future__ import annotations

import numpy as np
import pytest

from penguin_ros.image_times import duration, image_times, without_jumps

DAY, YEARS = 86_400, 56 * 365.25 * 86_400
NOW = 1_780_000_000
GOOD = [NOW + number for number in range(8)]
TICKS = [100.5 + number for number in range(8)]  # a camera that counts from its start
LOOPS = [NOW + number % 4 * 2 for number in range(8)]
SET_FORWARD = [1000, 1001, 1002, *(NOW + number for number in range(5))]
SET_BACK = [*(NOW + number for number in range(5)), 1000, 1001, 1002]


def times(log, header, **options):
    """Returns the seconds since the first image with jumps removed, the notes, and the fault."""
    scale = np.array([1e9])
    result = image_times("/camera", (log * scale).astype(int), (header * scale).astype(int), **options)
    ns = without_jumps(result.ns)
    return ((ns - ns[0]) * 1e-9).round(3).tolist(), result.notes, result.fault


@pytest.mark.parametrize(
    ("log", "header", "note"),
    [
        (GOOD, GOOD, ""),
        (GOOD, [0] * 8, ""),
        (GOOD, [NOW, 0, *GOOD[2:]], ""),
        (GOOD, TICKS, ""),
        ([0] * 8, GOOD, "8 of 8 log times are 0, so header stamps are used"),
        ([0, 0, 0, *GOOD[3:]], GOOD, "3 of 8 log times are 0, so header stamps are used"),
        ([NOW] * 8, TICKS, "only 1 of 8 log times differ, so header stamps are used"),
        ([NOW + n // 4 for n in range(8)], GOOD, "only 2 of 8 log times differ, so header stamps"),
        ([0, 0, *GOOD[2:]], [0, 0, *TICKS[2:]], "2 of 8 log times are 0, so header stamps are used"),
        ([0, 0, *GOOD[2:]], [0] * 8, "2 of 8 images have no time, and count at the usual distance"),
        ([*GOOD[:3], 0, 0, *GOOD[5:]], [0] * 8, "2 of 8 images have no time, and count at the usual distance"),
        (GOOD[::-1], TICKS, "log times jump back by 7.0 s at image 2, so header stamps are used"),
        (SET_FORWARD, GOOD, "log times jump forward by 56.4 years at image 3, so header stamps are used"),
        (SET_BACK, TICKS, "log times jump back by 56.4 years at image 5, so header stamps are used"),
        (GOOD, [NOW] * 8, "only 1 of 8 header stamps differ, so log times are used"),
        (GOOD, LOOPS, "header stamps jump back by 6.0 s at image 4, so log times are used"),
        (GOOD, SET_BACK, "header stamps jump back by 56.4 years at image 5, so log times are used"),
        (TICKS, SET_FORWARD, "header stamps jump forward by 56.4 years at image 3, so log times are used"),
        (SET_FORWARD, SET_FORWARD, "header stamps jump forward by 56.4 years at image 3: was the clock set"),
        (SET_FORWARD, [0] * 8, "log times jump forward by 56.4 years at image 3: was the clock set"),
        (SET_BACK, SET_BACK, "back by 56.4 years at image 5: was the clock set while recording? Images are used"),
        (SET_BACK, [0] * 8, "log times jump back by 56.4 years at image 5: was the clock set while recording?"),
        ([0] * 8, [0] * 8, "8 of 8 log times are 0: the images are taken to be 1 s apart, in the order of writing"),
        ([NOW] * 8, [5] * 8, "only 1 of 8 header stamps differ; only 1 of 8 log times differ: the images are"),
    ],
)
def test_the_clock_that_can_be_trusted_is_used(log, header, note):
    seconds, notes, _ = times(log, header)
    assert seconds == pytest.approx(range(8))
    assert bool(notes) == bool(note) and note in "".join(notes)
    assert all(text.startswith("/camera: ") for text in notes)


@pytest.mark.parametrize(
    ("log", "header", "fault"),
    [
        (GOOD, GOOD, ""),
        ([0] * 8, GOOD, ""),
        (GOOD, [NOW] * 8, ""),
        (GOOD[::-1], TICKS, ""),
        (SET_FORWARD, SET_FORWARD, ""),
        (GOOD, LOOPS, "time jumps back by 6.0 s at image 4 of /camera; split the bag there"),
        (SET_BACK, SET_BACK, "time jumps back by 56.4 years at image 5 of /camera; split the bag there"),
        ([0] * 8, [0] * 8, "so nothing says when the images of /camera were taken"),
    ],
)
def test_times_that_do_not_identify_an_image_are_a_fault(log, header, fault):
    assert fault in times(log, header)[2] and bool(fault) == bool(times(log, header)[2])


def test_of_two_good_clocks_the_preferred_one_is_used():
    half = [NOW + number / 2 for number in range(8)]
    assert times(half, GOOD)[0] == list(range(8))
    assert times(half, GOOD, prefer_log=True)[0] == [number / 2 for number in range(8)]


def test_images_written_in_another_order_are_no_jump():
    """Both clocks agree: a converter wrote them, and they are sorted later."""
    shuffled = [NOW + number for number in (3, 0, 20, 7)]
    note = "/camera: images were not written in the order of their {}, by which they are sorted"
    assert times(shuffled, shuffled) == ([0, -3, 17, 4], (note.format("header stamps"),), "")
    assert times(shuffled, [0] * 4) == ([0, -3, 17, 4], (note.format("log times"),), "")


def test_one_image_has_a_time():
    assert times([NOW], [0])[1:] == ((), "")
    assert times([0], [NOW])[1:] == (("/camera: 1 of 1 log times are 0, so header stamps are used",), "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.24, "1.2 s"), (7199, "7199.0 s"), (7200, "2.0 hours"), (3 * DAY, "3.0 days"), (YEARS, "56.0 years")],
)
def test_durations_have_a_readable_unit(seconds, text):
    assert duration(seconds) == text
