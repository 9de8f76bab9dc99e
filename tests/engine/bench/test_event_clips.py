"""The clips that policies are measured on are what they say; and the policies' difference shows on a few of them."""

import numpy as np

from penguin_engine.bench.event_clips import EventClip
from penguin_engine.bench.model import drawn_clips, policy_recall
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.reference_policy import ReferencePolicy


def test_a_seed_gives_the_same_clip_again_and_again():
    clip, same, other = EventClip(1, seconds=3), EventClip(1, seconds=3), EventClip(2, seconds=3)
    first, again, equal, different = ([f.rgb for f in c] for c in (clip, clip, same, other))
    assert np.array_equal(first, again) and np.array_equal(first, equal) and not np.array_equal(first, different)


def test_events_change_the_picture_when_they_happen():
    clip = EventClip(4, seconds=40)
    assert clip.events and all(5 <= e.start_s <= e.end_s < 40 for e in clip.events)
    frames = {f.stamp_ns: f.rgb.astype(float) for f in clip}
    for event in clip.events:
        before = frames[round((event.start_s // 0.2) * 0.2 * 1e9) - round(0.2e9)]
        after = frames[round((event.end_s // 0.2) * 0.2 * 1e9) + round(0.4e9)]
        changed = np.abs(after - before).max(axis=2) > 50
        assert changed.mean() > 0.001, event
    assert EventClip(4, calm=True).events == []


def test_novelty_notices_what_the_released_rule_misses():
    novelty = policy_recall(NoveltyPolicy, drawn_clips(2, seconds=30))
    released = policy_recall(ReferencePolicy, drawn_clips(2, seconds=30))
    assert novelty["events"] == released["events"] > 4
    assert novelty["recall"] >= 0.9 and novelty["false_key_frames_per_min"] <= 2
    assert released["recall"] < 0.5


def test_where_nothing_happens_there_is_no_recall():
    calm = policy_recall(NoveltyPolicy, [EventClip(4, seconds=3, calm=True)])
    assert calm["events"] == 0 and calm["recall"] is None
