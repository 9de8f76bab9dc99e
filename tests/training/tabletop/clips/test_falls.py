"""Falling objects come to rest or leave the table, reproducibly."""

from dataclasses import replace

import numpy as np
import pytest

from penguin_tabletop.clips.falls import LOST_M, fall_of, plan_fall
from penguin_tabletop.scene.scene import rotation_matrix

STILL = np.zeros(3)


def drop(make, thing, others=(), velocity=STILL, spin=STILL):
    return fall_of(thing, velocity, spin, make.scene(*others), 2.0)


@pytest.mark.parametrize("kind", ["cube", "ball", "duck", "bottle", "card"])
def test_dropped_objects_land_on_the_table(make, kind):
    fall = drop(make, make.thing(0, kind, position=(0.1, 0.1, 0.1)))
    assert fall is not None and fall.positions[-1, 2] > LOST_M
    assert fall.times_s[0] == 2.0 and np.all(np.diff(fall.times_s) > 0)
    assert np.all(np.diff(fall.positions[:8, 2]) < 0)
    end, turn = fall.at(99.0)
    lowest = (make.thing(0, kind, position=end, rotation=turn).hull)[:, 2].min()
    assert abs(lowest) < 0.006


def test_a_supported_object_stays_on_its_support(make):
    cube = make.thing(0)
    fall = drop(make, make.thing(1, "cylinder", position=(0, 0, 0.0705)), [cube])
    assert fall is not None and fall.positions[-1] == pytest.approx([0, 0, 0.07], abs=0.003)


def test_an_object_dropped_beyond_the_edge_is_gone(make):
    fall = drop(make, make.thing(0, position=(0.7, 0, 0)))
    assert fall is not None and fall.positions[-1, 2] < LOST_M


def test_a_fall_depends_on_its_arguments_alone(make):
    bottle = make.thing(0, "bottle", position=(0, 0, 0.05))
    first = drop(make, bottle, spin=np.array([0.0, 6.0, 0.0]))
    drop(make, make.thing(1, "teddy", position=(0, 0, 0.2)), [make.thing(2)])
    again = drop(make, bottle, spin=np.array([0.0, 6.0, 0.0]))
    assert first is not None and again is not None
    assert np.array_equal(first.positions, again.positions)


def test_a_fall_that_takes_too_long_is_refused(make):
    assert drop(make, make.thing(0, position=(0, 0, 100))) is None


def planned(make, *things, camera=None):
    """Returns the first fall that can be planned for a scene."""
    scene = make.scene(*things, camera=camera or make.camera(distance=0.8))
    steps = (plan_fall(np.random.default_rng(seed), scene, make.size, 1.0) for seed in range(10))
    return next(step for step in steps if step is not None)


def test_tall_objects_are_tipped_over(make):
    step = planned(make, make.thing(0, "bottle"))
    assert step.event.kind == "falls" and step.event.where == "over"
    end = step.after.thing(0)
    assert rotation_matrix(end.rotation)[2, 2] < 0.5
    upright = [rotation_matrix(step.at(t).thing(0).rotation)[2, 2] for t in np.linspace(1.0, step.event.end_s, 30)]
    assert upright[0] == pytest.approx(1) and upright[4] > 0.9 and upright[-1] < 0.5
    assert step.event.end_s - step.event.start_s > 1


def test_a_supported_object_is_pushed_off_its_support(make):
    step = planned(make, make.thing(0), make.thing(1, "ball", "blue", position=(0, 0, 0.0705), on=0, scale=0.8))
    assert step.event.where == "off the red cube" and step.event.thing == 1
    assert step.after.thing(1).on is None and step.after.thing(1).position[2] < 0.03
    assert step.at(1.2).thing(1).position[2] == pytest.approx(0.0705)


def test_an_object_near_the_edge_is_pushed_off_the_table(make):
    things = make.thing(0, position=(0.5, 0, 0)), make.thing(1, "tray", "blue", position=(0.2, 0.1, 0))
    step = planned(make, *things, camera=replace(make.camera(distance=0.8), target=(0.4, 0.0, 0.0)))
    assert step.event.where == "off the table" and step.event.thing == 0
    assert [thing.id for thing in step.after.things] == [1]
    assert step.at(step.event.end_s - 0.01).thing(0).position[2] < -0.5


def test_flat_objects_and_trays_cannot_fall(make):
    scene = make.scene(make.thing(0, "ring"), make.thing(1, "tray", "blue", position=(0.2, 0.2, 0)))
    assert plan_fall(np.random.default_rng(0), scene, make.size, 0.0) is None
