"""Planned scenes: everything is in view and apart, labels tell objects apart, colours stand out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.types import Size
from penguin_tabletop.scene.catalogue import KINDS, SIZES, TABLES
from penguin_tabletop.scene.planning import all_visible, place, plan_clip_scene, plan_scene
from penguin_tabletop.scene.random_parts import random_thing, with_size_labels
from penguin_tabletop.scene.scene import in_view

seeds = st.integers(0, 1 << 32)
sizes = st.sampled_from([Size(224, 224), Size(168, 280), Size(280, 168)])


@given(seeds, sizes)
def test_everything_is_in_view_on_the_table_and_apart(seed, size):
    scene = plan_scene(np.random.default_rng(seed), size)
    assert 1 <= len(scene.things) <= 9 and all_visible(scene, size)
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
def test_labels_contain_the_size_only_if_it_tells_objects_apart(seed):
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
def test_clips_begin_with_distinct_labels(seed):
    things = plan_clip_scene(np.random.default_rng(seed), Size(224, 224)).things
    assert len({thing.label for thing in things}) == len(things) <= 6


def test_scenes_contain_every_kind_table_and_number_of_objects():
    scenes = [plan_scene(np.random.default_rng(seed), Size(224, 224)) for seed in range(150)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {scene.surroundings.table.name for scene in scenes} == {table.name for table in TABLES}
    assert any(thing.on is not None for thing in things)
    assert {len(scene.things) for scene in scenes} >= {1, 2, 3, 4, 5, 6}
    assert any(len({thing.label for thing in scene.things}) < len(scene.things) for scene in scenes)


def test_a_full_table_has_no_place(make):
    random = np.random.default_rng(0)
    size = Size(224, 224)
    tray = random_thing(random, make.scene().surroundings.table, 99, kind="tray")
    scene = make.scene(camera=make.camera(distance=0.8))
    placed = 0
    while (thing := place(random, scene, size, with_size_labels([tray])[0])) is not None and placed < 30:
        placed += 1
        thing = make.thing(placed, "tray", "green", thing.position, rotation=thing.rotation, scale=thing.scale)
        assert in_view(thing, scene.camera, size)
        scene = make.scene(*scene.things, thing, camera=scene.camera)
    assert 1 <= placed < 8


@pytest.mark.parametrize("kind", ["duck", "card", "teddy"])
def test_taken_labels_are_not_used_again(kind, make):
    random, table, taken = np.random.default_rng(0), make.scene().surroundings.table, []
    for number in range(4):
        taken.append(random_thing(random, table, number, taken, kind).label)
    assert len(set(taken)) == 4
