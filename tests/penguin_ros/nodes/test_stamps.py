"""Images are dated by their stamps, and by arrival where these cannot be used; times are in seconds."""

import pytest

from penguin_ros.nodes.stamps import Stamps

NOW = 1_780_000_000.0
CAMERA_HZ = 10


def dated(stamps, stamps_s, start_s=0.0, hz=CAMERA_HZ):
    """Dates images that arrive at a steady rate, and returns their times relative to the first arrival."""
    times = []
    for i, stamp_s in enumerate(stamps_s):
        arrived_s = start_s + i / hz
        time_ns = stamps.date(round(stamp_s * 1e9), round((NOW + arrived_s) * 1e9), arrived_s)
        times.append(round(time_ns * 1e-9 - NOW, 3))
    return times


def arrivals(count, start_s=0.0, hz=CAMERA_HZ):
    return [round(start_s + i / hz, 3) for i in range(count)]


@pytest.mark.parametrize(
    ("kind", "stamps_s"),
    [
        ("never changes", [1_600_000_000.0] * 30),
        ("counts in nanoseconds", [5.0 + i * 1e-9 for i in range(30)]),
        ("has no seconds and wraps", [5.0 + i * 0.1 % 0.9 for i in range(30)]),
        ("in the future, never changes", [1_900_000_000.0] * 30),
    ],
)
def test_stamps_that_do_not_advance_are_replaced_after_a_second(kind, stamps_s):
    stamps = Stamps(1.0)
    times = dated(stamps, stamps_s)
    assert times[-8:] == arrivals(30)[-8:], kind
    assert "stamps stood still" in stamps.broken and stamps.ahead_s == 0
    assert stamps.age_s(round((NOW + times[-1]) * 1e9), round((NOW + 3) * 1e9)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "stamps_s", "hz"),
    [
        ("pairs", [NOW + i // 2 * 0.2 for i in range(40)], 10),
        ("a bag that loops", [NOW + i % 20 * 0.1 for i in range(200)], 10),
        ("a bag that loops a hundred times faster", [NOW + i % 20 * 0.1 for i in range(200)], 1000),
        ("a bag at a twentieth of its speed", [i * 0.005 + 3 for i in range(60)], 10),
        ("hours behind", [NOW - 7200 + i * 0.1 for i in range(60)], 10),
        ("in the future", [NOW + 86_400 + i * 0.1 for i in range(60)], 10),
        ("a clock that was set once, there and back", [NOW + i * 0.1 + 50 * (i == 7) for i in range(60)], 10),
        ("seconds without an image, then many at once", [NOW] + [NOW + 0.03 * i for i in range(1, 99)], 1e6),
        ("an image every ten seconds", [NOW + 10 * i for i in range(5)], 0.1),
    ],
)
def test_other_stamps_are_used(kind, stamps_s, hz):
    stamps = Stamps(1.0)
    stamps.date(round((NOW - 0.001) * 1e9), round(NOW * 1e9), -5.0)
    assert dated(stamps, stamps_s, hz=hz) == [round(s - NOW, 3) for s in stamps_s] and not stamps.broken, kind


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("jump_s", [-3, 3, 7200])
def test_stamps_that_jump_to_and_fro_are_replaced_by_arrival(every, jump_s):
    stamps = Stamps(1.0)
    stamps_s = [NOW + i * 0.1 + jump_s * (i // every % 2) for i in range(40)]
    times = dated(stamps, stamps_s)
    assert times[-10:] == arrivals(40)[-10:]
    assert "stamps jumped to and fro" in stamps.broken and stamps.jumps_back <= 3


def test_stamps_are_used_again_after_they_have_advanced_for_half_a_minute():
    stamps = Stamps(1.0)
    dated(stamps, [7.0] * 20)
    good = [NOW - 100 + i * 0.1 for i in range(400)]
    times = dated(stamps, good, start_s=2.0)
    assert times[200] == arrivals(400, 2.0)[200] and times[-1] == round(good[-1] - NOW, 3) and not stamps.broken


def test_images_without_a_stamp_are_dated_among_those_with_one():
    stamps = Stamps(1.0)
    assert dated(stamps, [0.0] * 3) == arrivals(3) and stamps.unstamped == 3
    old = [0 if i == 5 else NOW - 86_400 + i * 0.1 for i in range(10)]
    assert dated(stamps, old) == [round(i * 0.1 - 86_400, 3) for i in range(10)] and stamps.jumps_back == 0


@pytest.mark.parametrize(("ahead_s", "reported_s"), [(0.2, 0.0), (-3.0, 0.0), (-7200.0, -7200.0), (60.0, 60.0)])
def test_a_difference_between_the_clocks_is_known_and_no_age_is_negative(ahead_s, reported_s):
    stamps = Stamps(1.0)
    dated(stamps, [NOW + ahead_s])
    assert stamps.ahead_s == pytest.approx(reported_s)
    age_s = stamps.age_s(round((NOW + ahead_s) * 1e9), round((NOW + 0.5) * 1e9))
    assert age_s == pytest.approx(0.5 if reported_s else max(0.0, 0.5 - ahead_s))


def test_frequent_jumps_back_are_known_for_a_minute():
    stamps = Stamps(1.0)
    dated(stamps, [NOW + i % 5 for i in range(12)])
    assert stamps.jumps_back == 2 and not stamps.jumps_often(1.2)
    dated(stamps, [NOW + i % 5 for i in range(12, 17)], start_s=1.2)
    assert not stamps.broken and stamps.jumps_often(2.0) and not stamps.jumps_often(61.0)


def test_repeated_stamps_and_jumps_back_are_counted():
    stamps = Stamps(1.0)
    dated(stamps, [NOW, NOW, NOW + 0.1, NOW - 5, NOW - 4.9, NOW - 4.9])
    assert (stamps.repeated, stamps.jumps_back) == (2, 1)
