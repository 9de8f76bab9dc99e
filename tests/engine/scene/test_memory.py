"""The invariants of the frame memory on random streams, and the cost of a long stream."""

import gc
import tracemalloc
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguin_engine.scene.memory import FrameMemory, MemoryConfig
from penguin_models.errors import BudgetError
from penguin_models.token_allocation import grid_size
from penguin_models.types import Frame, FrameKind, Size

KEY, INTERMEDIATE = FrameKind
SECOND = 10**9

# With patches of one pixel, frames have the token counts of real cameras but few pixels: 640x480 pixels in 14-pixel
# patches are 17 x 23 tokens.
VGA, FULL_HD, QVGA, TINY, WIDE, TALL, STRIP = (
    Size(2 * h, 2 * w) for h, w in ((17, 23), (39, 69), (9, 11), (4, 6), (13, 23), (23, 17), (2, 32))
)
sizes = st.sampled_from([VGA, FULL_HD, TINY, WIDE, TALL, STRIP])
steps = st.integers(1, 2 * SECOND)
kinds = st.sampled_from(FrameKind)
budgets = st.integers(256, 16384)
configs = st.builds(
    MemoryConfig, token_budget=budgets, patch_size=st.just(1), arrival=st.sampled_from(["full_size", "by_kind"])
)
streams = st.lists(st.tuples(sizes, steps, kinds), min_size=1, max_size=120)


class ScriptedPolicy:
    """A keyframe policy that returns the kind set by the test."""

    kind, resets = KEY, 0

    def observe(self, frame):
        return self.kind

    def reset(self):
        self.resets += 1


def memory_for(config):
    """Returns a memory and a function that adds a frame of a given kind to it."""
    policy = ScriptedPolicy()
    memory = FrameMemory(config, policy)

    def add(frame, kind):
        policy.kind = kind
        return memory.add(frame)

    return memory, add


class Camera:
    """Makes black frames that share their pixels."""

    def __init__(self):
        self.blank = {}

    def frame(self, size, stamp_ns):
        rgb = self.blank.setdefault(size, np.zeros((*size, 3), np.uint8))
        return Frame(rgb, stamp_ns, header=stamp_ns)


def snapshot(memory):
    return [(f.seq, f.size) for f in memory.frames]


def run(config, stream):
    """Adds a stream of frames; yields (memory, frames held before, first changed index) after each one."""
    (memory, add), camera, stamp = memory_for(config), Camera(), 0
    for size, step, kind in stream:
        stamp += step
        before = snapshot(memory)
        yield memory, before, add(camera.frame(size, stamp), kind)


def check_invariants(memory, config, sizes_before):
    """Checks the memory after a frame; `sizes_before` maps the number of each frame to its previous size."""
    frames = memory.frames
    assert memory.tokens == sum(frame.tokens for frame in frames) <= config.token_budget
    assert all(earlier.stamp_ns < later.stamp_ns for earlier, later in pairwise(frames))
    assert sum(frame.pixels.nbytes for frame in frames) <= 3 * config.factor**2 * config.token_budget
    for frame in frames:
        assert frame.tokens == frame.size.area // config.factor**2 > 0
        largest = grid_size(frame.source_size, config.factor)
        assert frame.size.height <= largest.height and frame.size.width <= largest.width
        assert frame.pixels.shape[:2] in (frame.size, frame.source_size)
        assert frame.pixels.shape[0] * frame.pixels.shape[1] <= frame.size.area
        size = sizes_before.get(frame.seq)
        if frame.size != size:  # each scale level has at most half the area of the one above
            assert frame.encoded is None and (size is None or frame.size.area <= 0.5 * size.area)
            frame.encoded = frame.size
        sizes_before[frame.seq] = frame.size
    newest = frames[-1]
    source_size = grid_size(newest.source_size, config.factor)
    if config.arrival == "full_size" or newest.kind == KEY:
        if source_size.area // config.factor**2 <= config.token_budget:
            assert newest.size == source_size
        else:  # the next scale level, with at least twice the area, would not fit
            assert 2.6 * newest.tokens > config.token_budget


@given(configs, streams)
def test_budget_sizes_and_pixels_are_bounded_and_a_resized_frame_is_encoded_again(config, stream):
    sizes_before: dict = {}
    for memory, _, _ in run(config, stream):
        check_invariants(memory, config, sizes_before)


@given(configs, streams)
def test_frames_before_the_first_change_are_untouched(config, stream):
    for memory, before, first_changed in run(config, stream):
        assert snapshot(memory)[:first_changed] == before[:first_changed]
        if memory.counters.compactions == 0:
            assert first_changed == len(before)


large = st.lists(st.tuples(st.sampled_from([VGA, FULL_HD, TALL]), steps, kinds), min_size=1, max_size=120)


@given(st.integers(4096, 16384).map(lambda b: MemoryConfig(token_budget=b, patch_size=1)), large)
def test_intermediate_frames_shrink_before_keyframes_and_eviction_comes_last(config, stream):
    held: dict = {}
    for memory, _, _ in run(config, stream):
        now = {frame.seq: frame for frame in memory.frames}
        older = list(memory.frames[:-1])
        may_shrink = {k: [f for f in older if f.kind == k and f.smaller] for k in FrameKind}
        shrunk_keys = [s for s, (kind, size) in held.items() if s in now and kind == KEY and now[s].size != size]
        evicted = [seq for seq in held if seq not in now]
        if shrunk_keys or evicted:
            assert not may_shrink[INTERMEDIATE]
        if evicted:
            assert not may_shrink[KEY]
            if any(held[seq][0] == KEY for seq in evicted):
                assert all(f.kind == KEY for f in older)
        held = {frame.seq: (frame.kind, frame.size) for frame in memory.frames}


@given(configs, st.lists(st.tuples(sizes, st.integers(-3 * SECOND, 2 * SECOND), kinds), max_size=60))
def test_stamps_are_in_order_and_a_jump_back_clears(config, stream):
    (memory, add), camera, newest, stamp = memory_for(config), Camera(), None, 100 * SECOND
    for size, step, kind in stream:
        stamp = max(0, (stamp if newest is None else newest) + step)
        late, clears = memory.counters.late, memory.counters.clears
        first_changed = add(camera.frame(size, stamp), kind)
        stamps = [frame.stamp_ns for frame in memory.frames]
        assert stamps == sorted(set(stamps))
        if newest is not None and stamp <= newest - SECOND:
            assert memory.counters.clears == clears + 1 and stamps == [stamp] and first_changed == 0
        elif newest is not None and stamp <= newest:
            assert first_changed is None and memory.counters.late == late + 1
            continue
        newest = stamp


def long_stream(frames, seed, key_share, stream_sizes):
    random = np.random.default_rng(seed)
    for _ in range(frames):
        kind = KEY if random.random() < key_share else INTERMEDIATE
        yield stream_sizes[random.integers(len(stream_sizes))], int(random.integers(1, SECOND)), kind


@pytest.mark.parametrize("budget", [256, 1024, 10_240, 16_384])
@pytest.mark.parametrize("key_share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(
    ("stream_sizes", "frames"),
    [([VGA], 500), ([TINY], 1000), ([QVGA], 1000), ([FULL_HD], 200), ([VGA, QVGA, WIDE], 500)],
    ids=["VGA", "tiny", "QVGA", "full HD", "mixed"],
)
def test_fill_and_cost_of_a_long_stream(budget, key_share, stream_sizes, frames):
    """Streams that fill the budget several times; the smaller their frames, the more of them."""
    config = MemoryConfig(token_budget=budget, patch_size=1)
    fills = []
    for memory, _, _ in run(config, long_stream(frames, 1, key_share, stream_sizes)):
        if memory.counters.compactions:
            fills.append(memory.tokens / budget)
    counters = memory.counters
    assert np.mean(fills) > 0.7
    assert counters.patches_encoded <= 1.15 * counters.patches_arrived
    assert counters.tokens_prefilled <= 2 * counters.tokens_arrived


@settings(max_examples=10)
@given(budgets, st.floats(0, 1), st.lists(sizes, min_size=1, max_size=4), st.integers(0, 99))
def test_cost_of_any_long_stream(budget, key_share, stream_sizes, seed):
    config = MemoryConfig(token_budget=budget, patch_size=1)
    for memory, _, _ in run(config, long_stream(1000, seed, key_share, stream_sizes)):  # noqa: B007
        pass
    assert memory.counters.patches_encoded <= 1.15 * memory.counters.patches_arrived
    assert memory.counters.tokens_prefilled <= 2 * memory.counters.tokens_arrived


odd_sizes = st.sampled_from([VGA, FULL_HD, QVGA, TINY, WIDE, TALL, STRIP, Size(35, 47), Size(7, 91), Size(1, 1)])


@settings(max_examples=4)
@given(
    configs,
    st.lists(odd_sizes, min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0.01, 5),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.integers(0, 99),
)
def test_all_invariants_over_two_thousand_frames(config, stream_sizes, key_share, period_s, disorder, seed):
    """Frames have any size, kind and rate; some are late or jump back."""
    (memory, add), camera, random = memory_for(config), Camera(), np.random.default_rng(seed)
    newest, sizes_before, counters = 10**6 * SECOND, {}, memory.counters
    for number in range(2000):
        back_s = random.choice([0.3, 0.999, 1.0, 5.0]) if number and random.random() < disorder else None
        stamp = newest + round(random.uniform(0.5, 1.5) * period_s * SECOND)
        if back_s is not None:
            stamp = newest - round(back_s * SECOND)
        held, late, clears, compactions = snapshot(memory), counters.late, counters.clears, counters.compactions
        kind = KEY if random.random() < key_share else INTERMEDIATE
        first_changed = add(camera.frame(stream_sizes[random.integers(len(stream_sizes))], stamp), kind)
        if back_s is not None and back_s < 1:
            assert first_changed is None and counters.late == late + 1 and snapshot(memory) == held
            continue
        newest = stamp
        assert memory.frames[-1].stamp_ns == stamp and counters.clears == clears + (back_s is not None)
        assert snapshot(memory)[:first_changed] == held[:first_changed]
        if counters.compactions == compactions and back_s is None:
            assert first_changed == len(held) == len(memory.frames) - 1
        check_invariants(memory, config, sizes_before)


def test_two_thousand_frames_need_no_more_memory_than_a_thousand():
    config = MemoryConfig(token_budget=2048, patch_size=1)
    tracemalloc.start()
    try:
        sizes_then = []
        for n, (memory, _, _) in enumerate(run(config, long_stream(2000, 0, 0.1, [QVGA]))):
            if n in (1000, 1999):
                gc.collect()
                sizes_then.append((tracemalloc.get_traced_memory()[0], memory.tokens))
    finally:
        tracemalloc.stop()
    (early, _), (late, _) = sizes_then
    assert late - early < 3 * config.factor**2 * config.token_budget  # never more than a full memory of pixels
    counters = memory.counters
    assert counters.received == 2000 == len(memory.frames) + counters.evicted
    assert counters.patches_encoded <= 1.15 * counters.patches_arrived
    assert counters.tokens_prefilled <= 2 * counters.tokens_arrived


def test_the_counters_of_a_small_stream():
    """640x480 at m = 2 is 17 x 23 = 391 tokens; a budget of 820 holds two."""
    stream = [(VGA, SECOND, KEY)] + [(VGA, SECOND, INTERMEDIATE)] * 2
    (*_, (memory, _, first_changed)) = run(MemoryConfig(token_budget=820, patch_size=1), stream)
    assert [f.tokens for f in memory.frames] == [391, 24, 391] and first_changed == 1
    assert asdict(memory.counters) == {
        "received": 3, "late": 0, "resized": 1, "evicted": 0, "keyframes": 1, "compactions": 1, "clears": 0,
        "patches_arrived": 3 * 391 * 4, "patches_encoded": 3 * 391 * 4 + 24 * 4,
        "tokens_arrived": 3 * 391, "tokens_prefilled": 3 * 391 + 24,
    }  # fmt: skip
    assert [f.header for f in memory.frames] == [SECOND, 2 * SECOND, 3 * SECOND]


def test_by_kind_makes_intermediate_frames_arrive_small_once_the_budget_was_reached():
    stream = [(VGA, SECOND, INTERMEDIATE)] * 5
    arrived = []
    for memory, _, _ in run(MemoryConfig(token_budget=800, patch_size=1, arrival="by_kind"), stream):
        arrived.append(memory.frames[-1].tokens)
    assert arrived == [391, 391, 391, 24, 24]


def test_tiny_frames_are_bounded_in_number():
    """The time stamps of frames of one token would fill the prompt, so there are at most 1000 / 24 frames."""
    counts = []
    for memory, _, _ in run(MemoryConfig(token_budget=1000, patch_size=1), [(Size(2, 2), SECOND, KEY)] * 100):
        counts.append(len(memory.frames))
    assert max(counts) == 41 and min(counts[41:]) == 21 and memory.counters.resized == 0


def test_clearing_removes_all_frames():
    (*_, (memory, _, _)) = run(MemoryConfig(), [(VGA, SECOND, KEY)] * 3)
    memory.clear()
    assert (memory.frames, memory.tokens, memory.counters.clears) == ((), 0, 1)
    assert memory.add(Camera().frame(VGA, 5)) == 0


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"token_budget": 23}, "budget of 23 cannot hold one frame of 24"),
        ({"arrival": "large"}, "'large', it must be 'full_size' or 'by_kind'"),
        ({"jump_back_s": 0.0}, "must be above 0"),
    ],
)
def test_impossible_settings_are_refused(values, error):
    with pytest.raises(BudgetError, match=error):
        MemoryConfig(**values)


# Changing the budget


@given(configs, streams, budgets)
def test_a_new_budget_applies_at_once_and_to_later_frames(config, stream, budget):
    for number, (memory, _, _) in enumerate(run(config, stream)):
        if number == len(stream) // 2:
            newest, sizes_before = memory.frames[-1], dict(snapshot(memory))
            memory.set_budget(budget)
            assert memory.frames[-1] is newest
            for frame in memory.frames:
                assert frame.size.area <= sizes_before[frame.seq].area
            if budget >= config.token_budget:
                assert snapshot(memory) == list(sizes_before.items())
        assert memory.tokens == sum(frame.tokens for frame in memory.frames) <= memory.config.token_budget


def test_a_budget_too_small_for_a_frame_is_refused_and_changes_nothing():
    memory, add = memory_for(MemoryConfig(token_budget=1000, patch_size=1))
    add(Camera().frame(VGA, SECOND), KEY)
    with pytest.raises(BudgetError, match="a token budget of 3"):
        memory.set_budget(3)
    assert memory.config.token_budget == 1000 and len(memory.frames) == 1
