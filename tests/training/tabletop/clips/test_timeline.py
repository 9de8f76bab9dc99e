"""Clips and the live table: events happen at their stated times, and nothing moves in between."""

from functools import cache
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.clips.events import EventKind, camera_between, carry
from penguin_tabletop.clips.timeline import LiveTabletop, TabletopClip
from penguin_tabletop.scene.planning import all_visible
from penguin_tabletop.scene.scene import out_of_view
from penguin_tabletop.seeds import Split

SIZE = Size(112, 112)
NUMBERS = range(24)


@cache
def clip_of(number):
    return TabletopClip(Split.TRAIN.seed(number), SIZE)


def all_events():
    """Returns (clip, event) of all clips."""
    return [(clip_of(number), event) for number in NUMBERS for event in clip_of(number).events]


def placed(scene):
    """Returns what can move, without light and noise."""
    return scene.things, scene.camera


def test_every_kind_of_event_occurs():
    assert {event.kind for _, event in all_events()} == set(get_args(EventKind))
    assert any(not clip.events for clip in map(clip_of, NUMBERS))


@pytest.mark.parametrize("number", NUMBERS)
def test_events_follow_each_other_within_the_clip(number):
    clip = clip_of(number)
    times = [time for event in clip.events for time in (event.start_s, event.end_s)]
    assert times == sorted(times) and times == [round(time, 1) for time in times]
    assert all(a.end_s + 0.9 < b.start_s for a, b in pairwise(clip.events))
    assert not times or (times[0] >= 1 and times[-1] <= clip.seconds - 1)
    assert clip.stamps_s[0] == 0 and clip.stamps_s[-1] < clip.seconds <= clip.stamps_s[-1] + 0.6


@pytest.mark.parametrize("number", NUMBERS)
def test_objects_move_during_events_and_at_no_other_time(number):
    clip = clip_of(number)
    edges = [0.0, *(time for event in clip.events for time in (event.start_s, event.end_s)), clip.seconds]
    for part, (start, end) in enumerate(pairwise(edges)):
        early, late = (placed(clip.scene(start + share * (end - start))) for share in (0.3, 0.7))
        assert (early == late) == (part % 2 == 0)


def test_events_describe_the_change_of_the_scene():
    for clip, event in all_events():
        before, after = clip.scene(event.start_s - 0.05), clip.scene(event.end_s + 0.05)
        labels = [{thing.label for thing in scene.things} for scene in (before, after)]
        if event.kind == "appears":
            assert labels[1] - labels[0] == {event.label}
            assert out_of_view(clip.scene(event.start_s).thing(event.thing), before.camera, SIZE)
            assert not out_of_view(clip.scene(event.start_s + 0.11).thing(event.thing), before.camera, SIZE)
        elif event.kind == "leaves":
            assert labels[0] - labels[1] == {event.label}
            assert not out_of_view(clip.scene(event.end_s - 0.11).thing(event.thing), before.camera, SIZE)
        elif event.where == "off the table":
            assert labels[0] - labels[1] == {event.label}
        else:
            assert labels[0] == labels[1]
            assert (before.camera != after.camera) == (event.kind == "camera")
            if event.kind == "moved":
                start, end = before.thing(event.thing), after.thing(event.thing)
                (right, ahead) = np.subtract(*(before.camera.on_ground(np.array(t.position)) for t in (end, start)))
                signs = {"to the right": right, "to the left": -right, "to the back": ahead, "to the front": -ahead}
                assert signs.get(event.where, 1) > 0
                assert event.where or max(abs(right), abs(ahead)) < 1.6 * min(abs(right), abs(ahead))
        assert all_visible(after, SIZE)


def test_frames_show_the_events(renderer):
    clip, event = next((clip, event) for clip, event in all_events() if event.kind == "appears")
    views = {view.stamp_s: view for view in clip.frames(renderer)}
    for stamp, view in views.items():
        labels = {item.label for item in view.truth.objects}
        if stamp < event.start_s:
            assert event.label not in labels
        elif event.end_s <= stamp < event.end_s + 0.9:
            assert event.label in labels


def test_the_same_seed_gives_the_same_frames_at_any_rate(renderer):
    slow, fast = (TabletopClip(clip_of(0).seed, SIZE, fps=fps) for fps in (1.0, 4.0))
    assert slow.events == fast.events
    first = {view.stamp_s: view.picture.rgb.tobytes() for view in slow.frames(renderer)}
    second = {view.stamp_s: view.picture.rgb.tobytes() for view in fast.frames(renderer)}
    assert all(second[stamp] == rgb for stamp, rgb in first.items()) and len(second) > 3 * len(first)


def test_in_a_calm_clip_only_light_and_noise_change(renderer):
    clip = TabletopClip(5, SIZE, calm=True, seconds=6)
    frames = [view.picture.rgb.astype(float) for view in clip.frames(renderer)]
    assert not clip.events and len({frame.tobytes() for frame in frames}) == len(frames)
    levels = [frame / frame.mean() for frame in frames]
    assert max(np.abs(level - levels[0]).mean() for level in levels) < 0.12
    assert placed(clip.scene(0)) == placed(clip.scene(5.9))


@pytest.mark.parametrize("settings", [{"fps": 0.5}, {"fps": 500}, {"seconds": 0.5}, {"seconds": 1e6}])
def test_timings_out_of_range_are_refused(settings):
    with pytest.raises(TabletopError, match="must be from 1 to"):
        TabletopClip(0, SIZE, **settings)


def test_the_live_table_is_reproducible_and_full_of_events():
    first, second = (LiveTabletop(3, SIZE, rate_hz=2.0) for _ in range(2))
    kinds, seen = [], []
    for number in range(160):
        (view, event), (same, same_event) = first.step(), second.step()
        assert view.stamp_s == number / 2 and view.picture.rgb.shape == (112, 112, 3)
        assert view.picture.rgb.tobytes() == same.picture.rgb.tobytes() and event == same_event
        if event is not None:
            assert event.start_s <= view.stamp_s < event.end_s
            kinds.append(event.kind)
        seen.append(len(view.truth.objects))
    assert len(set(kinds)) >= 3 and min(seen) > 0 and max(seen) <= 7


def test_a_moved_object_is_lifted_over_obstacles(make):
    mover, obstacle = make.thing(0), make.thing(1, "bottle", "blue", position=(0.2, 0, 0))
    over = carry(mover, (0, 0, 0), (0.4, 0, 0), [obstacle], 1.0, 3.0)
    assert over.at(2.0)[0] == pytest.approx((0.2, 0, 0.17), abs=1e-6)
    assert over.at(0.0)[0] == pytest.approx((0, 0, 0)) and over.at(9.0)[0] == pytest.approx((0.4, 0, 0))
    beside = carry(mover, (0, 0.3, 0), (0.4, 0.3, 0), [obstacle], 1.0, 3.0)
    assert beside.positions[:, 2].max() == 0


def test_the_camera_turns_the_shorter_way(make):
    start, end = make.camera(yaw=170), make.camera(yaw=-170)
    assert camera_between(start, end, 0.5).yaw == pytest.approx(np.pi)
    assert camera_between(start, end, 0.0) == start
