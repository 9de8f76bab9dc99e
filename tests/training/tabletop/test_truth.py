"""The truth of a picture agrees with its pixels."""

import json
from dataclasses import replace

import numpy as np
import pytest

from penguin_models.types import Size
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.seeds import seeded_random
from penguin_tabletop.truth import MIN_SHARE, OPPOSITE, planned_truth, view_of


def truth(renderer, scene):
    return view_of(scene, renderer).truth


def relation(truth, subject, other):
    return next((r.name for r in truth.relations if (r.subject, r.object) == (subject, other)), None)


def test_boxes_bound_the_visible_pixels(renderer):
    for seed in range(5):
        scene = plan_scene(seeded_random(seed, "image"), renderer.size)
        view = view_of(scene, renderer)
        for item in view.truth.objects:
            rows, columns = np.nonzero(view.picture.ids == item.id)
            left, top, right, bottom = item.box.to_pixels(Size(*view.picture.ids.shape))
            assert (left, top) == pytest.approx((columns.min(), rows.min()), abs=0.5)
            assert (right, bottom) == pytest.approx((columns.max() + 1, rows.max() + 1), abs=0.5)


def test_hidden_tiny_and_cut_off_objects_are_absent_or_unclear(make, renderer):
    low = make.camera(pitch=20)
    box, duck = make.thing(0, "box", position=(0, -0.1, 0)), make.thing(1, "duck", "yellow", position=(0, 0.06, 0))
    hidden = truth(renderer, make.scene(box, duck, camera=low))
    assert [item.label for item in hidden.objects] == ["red box"] and not hidden.unclear
    peeping = make.thing(1, "duck", "yellow", position=(0.05, 0.06, 0))
    half = truth(renderer, make.scene(box, peeping, camera=low))
    assert [item.label for item in half.objects] == ["red box"] and half.unclear == ("yellow duck",)
    tiny = truth(renderer, make.scene(make.thing(0, scale=0.2)))
    assert not tiny.objects and tiny.unclear == ("red cube",)
    for x, expected in ((0.2, (1, 0)), (0.3, (0, 1)), (0.5, (0, 0))):
        edge = truth(renderer, make.scene(make.thing(0, position=(x, 0, 0))))
        assert (len(edge.objects), len(edge.unclear)) == expected
        assert all(item.share >= MIN_SHARE for item in edge.objects)


def test_relations_are_those_that_hold_clearly(make, renderer):
    cube, ball = make.thing(0), make.thing(1, "ball", "blue", position=(0.15, 0.02, 0))
    cone = make.thing(2, "cone", "green", position=(0.02, -0.15, 0))
    on_cube = make.thing(3, "duck", "yellow", position=(0, 0, 0.0705), on=0, scale=0.8)
    found = truth(renderer, make.scene(cube, ball, cone, on_cube))
    names = {(r.subject, r.name, r.object) for r in found.relations}
    assert {(0, "left of", 1), (1, "right of", 0), (2, "in front of", 0), (0, "behind", 2), (3, "on", 0)} <= names
    assert not [r for r in names if r[0] == 0 and r[2] == 3]
    assert relation(found, 0, 1) == "left of" and relation(found, 1, 2) is None  # neither clearly right nor behind


def test_relations_are_symmetric_and_depend_on_the_camera(make, renderer):
    things = [make.thing(0), make.thing(1, "ball", "blue", position=(0.15, 0, 0))]
    for yaw, name in ((0, "left of"), (180, "right of"), (90, "behind"), (-90, "in front of")):
        found = truth(renderer, make.scene(*things, camera=make.camera(yaw=yaw)))
        assert relation(found, 0, 1) == OPPOSITE[relation(found, 1, 0)] == name


def test_hidden_words_do_not_count(make, renderer):
    card = make.thing(0, "box", "white", word="TEA")
    assert truth(renderer, make.scene(card)).objects[0].word == "TEA"
    ball = make.thing(1, "ball", position=(0.02, -0.08, 0), scale=1.5)
    (item,) = (o for o in truth(renderer, make.scene(card, ball)).objects if o.kind == "box")
    assert item.word == ""


def test_counts_and_json_agree_with_the_objects(make, renderer):
    twins = [make.thing(0, position=(-0.1, 0, 0)), make.thing(1, position=(0.1, 0, 0)), make.thing(2, "ball", "blue")]
    found = truth(renderer, make.scene(*twins))
    assert found.counts() == {"red cube": 2, "blue ball": 1}
    stored = json.loads(json.dumps(found.to_dict()))
    assert [item["label"] for item in stored["objects"]] == ["red cube", "blue ball", "red cube"]
    assert stored["objects"][0]["box"] == [getattr(found.objects[0].box, side) for side in ("x1", "y1", "x2", "y2")]
    assert stored["camera"]["yaw"] == 0 and stored["objects"][0]["position"] == [-0.1, 0, 0]


def test_planned_truth_is_close_to_the_rendered_one(renderer):
    for seed in range(5):
        scene = plan_scene(seeded_random(seed, "image"), renderer.size)
        planned, rendered = planned_truth(scene, renderer.size), truth(renderer, scene)
        assert planned.counts() == rendered.counts()
        boxes = {item.id: item.box for item in rendered.objects}
        for item in planned.objects:
            sides = [abs(getattr(item.box, s) - getattr(boxes[item.id], s)) for s in ("x1", "y1", "x2", "y2")]
            assert np.median(sides) < 30


def test_a_picture_is_clear_if_all_its_objects_are(make):
    clear = planned_truth(make.scene(make.thing(0)), make.size)
    assert clear.is_clear
    assert not replace(clear, unclear=("blue ball",)).is_clear
    assert not replace(clear, objects=()).is_clear
