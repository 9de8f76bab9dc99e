"""What a memory keeps of the past: moments of a busy hour, thinner with age."""

import numpy as np
import pytest

from penguin_engine.scene.memory import FrameMemory, MemoryConfig
from penguin_models.token_allocation import grid_size
from penguin_models.types import Frame, FrameKind, Size

KEY, INTERMEDIATE = FrameKind
SECOND = 10**9
PERIOD_S = 0.5
BLANK = np.zeros((168, 168, 3), np.uint8)


class Motion:
    """Labels frames as keyframes while something moves: `moving_s` seconds of every `every_s`."""

    def __init__(self, moving_s, every_s):
        self.moving_s, self.every_s = moving_s, every_s

    def observe(self, frame):
        return KEY if frame.stamp_ns * 1e-9 % self.every_s < self.moving_s else INTERMEDIATE

    def reset(self):
        pass


def watch(seconds, moving_s, every_s, budget=1024, period_s=PERIOD_S):
    """Returns the memory of a camera of 36 visual tokens, which shrink to 16, after some seconds."""
    memory = FrameMemory(MemoryConfig(budget, min_tokens=8), Motion(moving_s, every_s))
    for number in range(int(seconds / period_s)):
        memory.add(Frame(BLANK, round(number * period_s * SECOND)))
    return memory


def stamps_s(memory):
    return np.array([frame.stamp_ns for frame in memory.frames]) / SECOND


@pytest.mark.parametrize("seconds", [60, 90])
def test_every_motion_of_a_minute_is_held_with_its_beginning_and_its_end(seconds):
    """A window of the newest frames would hold three of these motions, at full size 14 seconds."""
    held = stamps_s(watch(seconds, moving_s=2.5, every_s=5))
    first_last = [(held[(held >= start) & (held < start + 2.5)]) for start in range(seconds - 60, seconds - 5, 5)]
    assert all(len(motion) for motion in first_last)
    spans = [motion[-1] - motion[0] for motion in first_last if len(motion)]
    assert np.mean([span >= 1.5 for span in spans]) >= 0.4


def test_the_density_of_keyframes_falls_with_age_but_hours_ago_is_not_forgotten():
    memory = watch(7200, moving_s=5, every_s=10, period_s=1.0)
    ages_s = 7200 - stamps_s(memory)
    counts = [np.count_nonzero((ages_s >= low) & (ages_s < high)) for low, high in ((0, 30), (30, 600), (600, 7200))]
    assert counts[0] / 30 > counts[1] / 570 > counts[2] / 6600 > 0
    assert memory.counters.tokens_prefilled <= 2 * memory.counters.tokens_arrived
    assert memory.counters.patches_encoded <= 1.15 * memory.counters.patches_arrived


def test_the_share_of_the_keyframes_that_are_held():
    memory = watch(600, moving_s=2.5, every_s=5)
    keyframes = stamps_s(memory)[[frame.kind == KEY for frame in memory.frames]]
    for since_s in (0.0, 300.0, 590.0):
        arrived = sum(number * PERIOD_S % 5 < 2.5 and number * PERIOD_S >= since_s for number in range(1200))
        first = keyframes[keyframes <= since_s][-1] if since_s else 0.0
        share = memory.held_share(round(since_s * SECOND))
        assert share == pytest.approx(np.count_nonzero(keyframes >= since_s) / arrived, abs=0.15), first
    assert memory.held_share(0) < 0.2 and watch(20, 2.5, 5).held_share(0) > 0.3
    assert memory.held_share(-1) == FrameMemory(MemoryConfig(), Motion(1, 2)).held_share(0) == 0.0


@pytest.mark.parametrize("size", [Size(168, 168), Size(168, 224), Size(112, 168), Size(480, 640), Size(28, 1400)])
def test_scale_levels_become_smaller(size):
    memory = FrameMemory(MemoryConfig(min_tokens=8), Motion(1, 2))
    areas = [level.area for level in memory.ladder(grid_size(size, 28))]
    assert areas == sorted(set(areas), reverse=True)
