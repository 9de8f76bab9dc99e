"""New objects and camera motion give keyframes; noise, flicker and slow light do not."""

import cv2
import numpy as np
import pytest

from penguin_models.errors import SettingError
from penguin_models.novelty_policy import NoveltyConfig, NoveltyPolicy
from penguin_models.types import Frame, FrameKind

KEY, INTERMEDIATE = FrameKind
SECOND = 10**9
HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def table():
    """A textured table: float [240, 320, 3], levels around 120."""
    grain = np.random.default_rng(0).normal(0, 1, (30, 20, 1))
    grain = cv2.resize(grain, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.array([140.0, 115.0, 90.0]) + 12 * grain


class Camera:
    """Shows images to a policy at one frame per second, with sensor noise."""

    def __init__(self, config=None, noise=3.0):
        self.policy, self.random, self.noise, self.second = NoveltyPolicy(config), np.random.default_rng(1), noise, 0.0

    def show(self, image, step_s=1.0):
        noisy = image + self.random.normal(0, self.noise, image.shape)
        self.second += step_s
        return self.policy.observe(Frame(np.clip(noisy, 0, 255).astype(np.uint8), round(self.second * SECOND)))

    def settle(self, image, frames=8):
        """Shows the same scene for a while; only the first frame is a keyframe."""
        first, *rest = [self.show(image) for _ in range(frames)]
        assert first == KEY and set(rest) == {INTERMEDIATE}


def with_block(image, x, y, side=20, level=30.0):
    changed = image.copy()
    changed[y : y + side, x : x + side] = level
    return changed


def test_an_object_that_appears_moves_or_leaves_is_new(table):
    camera = Camera()
    camera.settle(table)
    assert camera.show(with_block(table, 100, 100)) == KEY
    assert camera.show(with_block(table, 100, 100)) == INTERMEDIATE
    assert camera.show(with_block(table, 130, 100)) == KEY
    assert camera.show(table) == KEY
    assert camera.show(table) == INTERMEDIATE


def test_an_object_that_differs_in_colour_only_is_new(table):
    """Neither a grey image nor the released rule would show it."""
    camera, coloured = Camera(), table.copy()
    camera.settle(table)
    coloured[100:120, 100:120] = (100.0, 115.0, 160.0)
    assert camera.show(coloured) == KEY


def test_camera_motion_is_new(table):
    camera = Camera()
    scene = with_block(with_block(table, 60, 60), 200, 120, level=220.0)
    camera.settle(scene)
    assert camera.show(np.roll(scene, 24, axis=1)) == KEY


@pytest.mark.parametrize("noise", [0.0, 4.0, 10.0])
def test_noise_is_not_new(table, noise):
    camera = Camera(noise=noise)
    camera.settle(table, frames=40)


@pytest.mark.parametrize("amplitude", [0.05, 0.3])
def test_flicker_is_not_new_but_an_object_in_it_is(table, amplitude):
    camera = Camera()
    scene = with_block(table, 200, 60, level=250.0)  # clips when it gets brighter
    gains = 1 + amplitude * np.sin(np.arange(30))
    kinds = [camera.show(gain * scene) for gain in gains]
    assert kinds == [KEY] + [INTERMEDIATE] * 29
    assert camera.show((1 + amplitude) * with_block(scene, 50, 150)) == KEY


def test_slow_light_from_one_side_is_not_new(table):
    camera = Camera()
    ramp = np.linspace(-1, 1, WIDTH)[None, :, None]
    kinds = [camera.show(table * (1 + 0.2 * np.sin(n / 10) * ramp), step_s=0.5) for n in range(80)]
    assert kinds.count(KEY) == 1


def test_a_shaking_camera_is_not_new(table):
    camera = Camera(noise=1.0)
    scene = with_block(table, 100, 100, side=60, level=230.0)
    kinds = [camera.show(np.roll(scene, (-1) ** n, axis=n % 2)) for n in range(20)]
    assert kinds.count(KEY) == 1


def test_continuous_motion_gives_keyframes_at_the_minimum_interval(table):
    camera = Camera(NoveltyConfig(min_interval_s=0.5))
    camera.settle(table)
    kinds = [camera.show(with_block(table, 20 + 8 * n, 100), step_s=0.1) for n in range(30)]
    keys = [n for n, kind in enumerate(kinds) if kind == KEY]
    assert 4 <= len(keys) <= 6 and min(np.diff(keys)) >= 5


def test_a_change_of_size_and_reset_start_over(table):
    camera = Camera()
    camera.settle(table)
    assert camera.show(table[:120]) == KEY
    assert camera.show(table[:120]) == INTERMEDIATE
    camera.policy.reset()
    assert camera.show(table[:120]) == KEY


@pytest.mark.parametrize("size", [(1, 1), (14, 700), (3, 5)])
def test_extreme_sizes_are_accepted(size):
    policy = NoveltyPolicy()
    for n in range(3):
        assert policy.observe(Frame(np.full((*size, 3), 100, np.uint8), n * SECOND)) == (
            KEY if n == 0 else INTERMEDIATE
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 0), ("threshold", 255), ("min_cells", 0), ("min_cells", 26), ("min_interval_s", -1)],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(SettingError, match=f"{name} is {value}, it must be"):
        NoveltyConfig(**{name: value})
