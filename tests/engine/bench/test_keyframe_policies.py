"""The drawn clips have the events they claim, and keyframe policies differ on them."""

from dataclasses import replace

import numpy as np

from penguin_engine.bench.event_clips import EventClip
from penguin_engine.bench.keyframe_policies import drawn_clips, policy_recall, policy_speed
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import FrameKind, Size


def test_the_same_seed_gives_the_same_clip():
    clip, same, other = EventClip(1, seconds=3), EventClip(1, seconds=3), EventClip(2, seconds=3)
    first, again, equal, different = ([f.rgb for f in c] for c in (clip, clip, same, other))
    assert np.array_equal(first, again) and np.array_equal(first, equal) and not np.array_equal(first, different)


def test_events_change_the_picture_when_they_happen():
    clip = EventClip(4, seconds=40)
    assert clip.events and all(5 <= start_s <= end_s < 40 for start_s, end_s in clip.events)
    frames = {f.stamp_ns: f.rgb.astype(float) for f in clip}
    for start_s, end_s in clip.events:
        before = frames[round((start_s // 0.2) * 0.2 * 1e9) - round(0.2e9)]
        after = frames[round((end_s // 0.2) * 0.2 * 1e9) + round(0.4e9)]
        changed = np.abs(after - before).max(axis=2) > 50
        assert changed.mean() > 0.001, start_s
    assert EventClip(4, calm=True).events == []


def test_novelty_notices_what_the_released_rule_misses():
    clips = [replace(clip, frames=list(clip.frames)) for clip in drawn_clips(2, seconds=30)]  # drawn once
    novelty, released = (policy_recall(policy, clips) for policy in (NoveltyPolicy, ReferencePolicy))
    assert novelty["events"] == released["events"] > 4
    assert novelty["recall"] >= 0.9 and novelty["false_keyframes_per_min"] <= 2
    assert released["recall"] < 0.5


def test_calm_clips_have_no_recall():
    _, calm = drawn_clips(1, seconds=3)
    result = policy_recall(NoveltyPolicy, [calm])
    assert result["events"] == 0 and result["recall"] is None


def test_speed_is_measured_on_one_stream_of_the_requested_size():
    class CountingPolicy:
        frames = 0

        def observe(self, frame):
            assert frame.size == Size(50, 90)
            self.frames += 1
            return FrameKind.INTERMEDIATE

    policy = CountingPolicy()
    result = policy_speed(policy, Size(50, 90), seconds=0.01)
    assert result["frames"] == policy.frames - 20 > 0  # the first twenty are not timed
    assert (result["policy"], result["size"]) == ("CountingPolicy", "90x50")
