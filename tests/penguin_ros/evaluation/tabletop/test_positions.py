"""Errors of positions on the table-top, from the true boxes up to a bag of a depth camera."""

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs the extra sim")

from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_ros.bag_storage.bag import open_bag
from penguin_ros.camera_model import CameraModel
from penguin_ros.depth_images import message_to_depth
from penguin_ros.evaluation.metrics.statistics import median_interval
from penguin_ros.evaluation.tabletop.depth_bag import DEPTH, INFO, POSITIONS, write_depth_bag
from penguin_ros.evaluation.tabletop.positions import PositionErrors, pair
from penguin_ros.localisation import locate
from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.seeds import Split


@pytest.fixture(scope="module")
def samples():
    mixture = Mixture(image=1, pair=0, clip=0, chart=0, text=0)
    dataset = TabletopDataset(TabletopSettings(Split.TEST, size=Size(168, 168), turns=8, mixture=mixture))
    return [dataset[number] for number in range(6)]


def test_true_boxes_are_within_two_centimetres_and_a_missing_position_counts(samples):
    errors = PositionErrors()
    for sample in samples:
        errors.add_scene(sample, [turn.answer for turn in sample.turns])
    scores = errors.scores()
    true_boxes, asked = scores["true_boxes_position_error_cm"], scores["position_error_cm"]
    assert 0 < true_boxes.low < true_boxes.value < true_boxes.high and true_boxes.value < 1 and true_boxes.answers > 10
    assert 0 < asked.value < 2 and asked.answers >= 5  # answers state boxes in tens
    nowhere = PositionErrors()
    for sample in samples:
        moved = "".join(f"[{item.label}](0,0,0,0), " for item in sample.last.truth.objects)
        nowhere.add_scene(sample, [moved for turn in sample.turns])
    assert nowhere.scores()["position_error_cm"].value == np.inf


def test_the_bag_of_a_depth_camera_holds_what_leads_to_the_true_positions(samples, tmp_path):
    with open_bag(write_depth_bag(tmp_path / "depth", [samples[0].last])) as bag:
        found = {message.connection.topic: message.deserialize() for message in bag.messages(bag.connections)}
    truth = found[POSITIONS]
    camera = CameraModel.of(found[INFO], Size(168, 168))
    depth = message_to_depth(found[DEPTH])
    assert depth.shape == (56, 56) and truth.objects
    for item in truth.objects:
        place = locate((item.x_min_px, item.y_min_px, item.x_max_px, item.y_max_px), depth, camera)
        assert np.linalg.norm(place.position - (item.position.x, item.position.y, item.position.z)) < 0.06


def test_predictions_are_paired_by_label_then_by_overlap():
    boxes = [Box(0, 0, 100, 100), Box(500, 500, 600, 600), Box(510, 500, 610, 600)]
    predicted = [GroundedObject(label, box) for label, box in zip(("cup", "cup", "dog"), boxes, strict=True)]
    named = [(GroundedObject("cup", boxes[2]), "right"), (GroundedObject("cup", boxes[2]), "left")]
    assert pair(predicted, [*named, (GroundedObject("cup", boxes[0]), "third")]) == [(1, "right"), (0, "left")]


def test_the_interval_of_a_median_is_over_groups():
    assert median_interval([[1.0, 2.0]]) == (None, None) == median_interval([[], [1.0]])
    low, high = median_interval([[1.0] * 50, [3.0], [2.0]])
    assert low == 1 and high == 3
