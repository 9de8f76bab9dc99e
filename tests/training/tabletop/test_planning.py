"""Planned scenes: everything in view and apart, names that tell things apart, colours that stand out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.types import Size
from penguin_tabletop.catalogue import KINDS, SIZES, TABLES
from penguin_tabletop.choosing import any_thing, labelled
from penguin_tabletop.planning import all_clear, place, plan_clip_scene, plan_scene
from penguin_tabletop.view import in_view

seeds = st.integers(0, 1 << 32)
sizes = st.sampled_from([Size(224, 224), Size(168, 280), Size(280, 168)])


@given(seeds, sizes)
def test_everything_is_in_view_on_the_table_and_apart(seed, size):
    scene = plan_scene(np.random.default_rng(seed), size)
    assert 1 <= len(scene.things) <= 9 and all_clear(scene, size)
    standing = [thing for thing in scene.things if thing.on is None]
    for i, thing in enumerate(standing):
        x, y, z = thing.position
        assert z == 0
        assert abs(x) + thing.radius < scene.surroundings.half_width
        assert abs(y) + thing.radius < scene.surroundings.half_depth
        for other in standing[:i]:
            apart = np.hypot(x - other.position[0], y - other.position[1])
            assert apart > thing.radius + other.radius
    for thing in scene.things:
        if thing.on is not None:
            support = scene.thing(thing.on)
            assert KINDS[support.kind].supports and thing.position[2] > support.position[2]
            assert thing.colour != support.colour
        assert thing.colour not in scene.surroundings.table.clashes


@given(seeds)
def test_labels_tell_things_apart_as_far_as_they_can(seed):
    things = plan_scene(np.random.default_rng(seed), Size(224, 224)).things
    for thing in things:
        same = [other for other in things if (other.kind, other.colour) == (thing.kind, thing.colour)]
        by_size = len({other.size for other in same}) > 1
        assert (thing.label.split()[0] in SIZES) == by_size
        twins = [other for other in things if other.label == thing.label]
        assert all(
            (other.kind, other.colour, other.size) == (thing.kind, thing.colour, thing.size)
            for other in twins
            if by_size
        )


@given(seeds)
def test_clips_begin_with_names_that_all_differ(seed):
    things = plan_clip_scene(np.random.default_rng(seed), Size(224, 224)).things
    assert len({thing.label for thing in things}) == len(things) <= 6


def test_scenes_vary():
    scenes = [plan_scene(np.random.default_rng(seed), Size(224, 224)) for seed in range(150)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {scene.surroundings.table.name for scene in scenes} == {table.name for table in TABLES}
    assert any(thing.on is not None for thing in things)
    assert {len(scene.things) for scene in scenes} >= {1, 2, 3, 4, 5, 6}
    assert any(len({thing.label for thing in scene.things}) < len(scene.things) for scene in scenes)


def test_no_room_no_place(make):
    random = np.random.default_rng(0)
    size = Size(224, 224)
    tray = any_thing(random, make.scene().surroundings.table, 99, kind="tray")
    scene = make.scene(camera=make.camera(distance=0.8))
    placed = 0
    while (thing := place(random, scene, size, labelled([tray])[0])) is not None and placed < 30:
        placed += 1
        thing = make.thing(placed, "tray", "green", thing.position, turn=thing.turn, scale=thing.scale)
        assert in_view(thing, scene.camera, size)
        scene = make.scene(*scene.things, thing, camera=scene.camera)
    assert 1 <= placed < 8


@pytest.mark.parametrize("kind", ["duck", "card", "teddy"])
def test_names_that_are_taken_are_not_given(kind, make):
    random, table, taken = np.random.default_rng(0), make.scene().surroundings.table, []
    for number in range(4):
        taken.append(any_thing(random, table, number, taken, kind).label)
    assert len(set(taken)) == 4
