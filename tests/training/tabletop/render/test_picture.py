"""Pictures: the same scene gives the same bytes, in any process and whatever was rendered before."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.bullet import load_pybullet
from penguin_tabletop.render.picture import NOTHING, SceneRenderer
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.seeds import Split, seeded_random

SEEDS = [Split.TEST.seed(n) for n in range(6)]
IN_ANOTHER_PROCESS = """
import hashlib, sys
from penguin_models.types import Size
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.seeds import seeded_random
size = Size(112, 112)
renderer = SceneRenderer(size)
for seed in map(int, sys.argv[1:]):
    picture = renderer.render(plan_scene(seeded_random(seed, "image"), size))
    print(hashlib.sha256(picture.rgb.tobytes() + picture.ids.tobytes()).hexdigest())
"""


def digest(renderer, seed):
    picture = renderer.render(plan_scene(seeded_random(seed, "image"), renderer.size))
    return hashlib.sha256(picture.rgb.tobytes() + picture.ids.tobytes()).hexdigest()


def test_a_seed_gives_the_same_bytes_in_any_order_and_process(renderer):
    forwards = [digest(renderer, seed) for seed in SEEDS]
    backwards = [digest(renderer, seed) for seed in reversed(SEEDS)][::-1]
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, *map(str, SEEDS)]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert forwards == backwards == elsewhere.stdout.split()
    assert elsewhere.stderr == ""
    assert len(set(forwards)) == len(SEEDS)


def test_objects_appear_where_the_camera_projects_them(make, renderer):
    scene = make.scene(make.thing(7, position=(0.1, -0.05, 0)))
    picture = renderer.render(scene)
    pixels, _ = scene.camera.project(scene.things[0].hull, renderer.size)
    expected = cv2.boundingRect(np.round(pixels * 2).astype(np.int32))
    shown = cv2.boundingRect((picture.ids == 7).astype(np.uint8))
    assert np.abs(np.subtract(expected, shown)).max() <= 2
    inside = picture.ids[::2, ::2] == 7
    red = picture.rgb.astype(int)
    assert np.mean(red[inside][:, 0] > red[inside][:, 1] + 60) > 0.9
    assert np.mean(red[~inside][:, 0] > red[~inside][:, 1] + 60) < 0.03


def test_near_objects_hide_those_behind_them(make, renderer):
    front, back = make.thing(0, "box", position=(0, -0.1, 0)), make.thing(1, "duck", "yellow", position=(0, 0.06, 0))
    flat = make.camera(pitch=20)
    alone = renderer.render(make.scene(back, camera=flat)).visibility[1]
    for things in ((front, back), (back, front)):
        seen = renderer.render(make.scene(*things, camera=flat)).visibility
        assert seen[0].share == 1 and alone.share == 1
        assert 1 not in seen


def test_the_table_hides_objects_below_it(make, renderer):
    fallen, low = make.thing(0, position=(0, 0.55, -0.15)), make.camera(pitch=25)
    picture = renderer.render(make.scene(fallen, camera=low))
    assert not picture.visibility
    beside, steep = make.thing(0, position=(0.66, 0, -0.15)), make.camera(pitch=65, distance=1.8)
    assert renderer.render(make.scene(beside, camera=steep)).visibility[0].share > 0.5


def test_an_empty_table_shows_no_objects(make, renderer):
    picture = renderer.render(make.scene())
    assert not picture.visibility and np.all(picture.ids == NOTHING)
    assert picture.rgb.std() < 40


def test_objects_behind_the_camera_are_not_drawn(make, renderer):
    picture = renderer.render(make.scene(make.thing(0, position=(0, -2, 0))))
    assert not picture.visibility


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.6), st.sampled_from(["box", "bottle", "ring", "tray"]))
def test_objects_may_be_cut_off_at_any_edge(make, renderer, x, y, kind):
    scene = make.scene(make.thing(0, kind, position=(x, y, 0), word="TEA" if kind == "box" else "", scale=1.3))
    picture = renderer.render(scene)
    assert all(0 < seen.share <= 1 for seen in picture.visibility.values())


def test_shadows_darken_the_table(make, renderer):
    ball = make.thing(0, "ball", position=(0, 0, 0.05))
    with_ball, without = (renderer.render(make.scene(*things)) for things in ((ball,), ()))
    under = (with_ball.ids[::2, ::2] == NOTHING) & (with_ball.rgb.astype(int).sum(-1) < without.rgb.sum(-1) - 30)
    assert under.sum() > 20


@pytest.mark.parametrize("size", [Size(20, 224), Size(224, 4000)])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(TabletopError, match=f"{size.width}x{size.height} must be between 56 and 1080"):
        SceneRenderer(size)


def test_the_simulation_of_a_renderer_ends_with_it(make):
    bullet = load_pybullet()
    before = [bullet.isConnected(number) for number in range(20)]
    made = SceneRenderer(make.size)
    made.render(make.scene(make.thing(0)))
    assert [bullet.isConnected(number) for number in range(20)] != before
    del made
    assert [bullet.isConnected(number) for number in range(20)] == before


def test_a_wide_image_shows_all_planned_objects(make):
    wide = SceneRenderer(Size(84, 168))
    scene = plan_scene(seeded_random(1, "image"), wide.size)
    picture = wide.render(scene)
    assert picture.rgb.shape == (84, 168, 3) and len(picture.visibility) == len(scene.things)
