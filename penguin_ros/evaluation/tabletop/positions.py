"""Errors of positions on the simulated table-top: where objects are by their boxes and depth, and where they truly are.

The truth is the mean of the object's visible surface. A position that is not found counts as infinitely far away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from penguin_models.errors import MediaError
from penguin_models.grounding import Box, GroundedObject, parse
from penguin_models.types import Float32Array, Size
from penguin_ros.camera_model import CameraModel
from penguin_ros.evaluation.metrics.boxes import iou
from penguin_ros.evaluation.metrics.statistics import median_interval
from penguin_ros.evaluation.tabletop.scores import Score
from penguin_ros.localisation import FloatArray, locate
from penguin_tabletop.dataset import Sample
from penguin_tabletop.render.depth import measured_depth, visible_centres
from penguin_tabletop.truth import View

TITLES = {
    "true_boxes_position_error_cm": "position error with true boxes, median [cm]",
    "position_error_cm": "position error, median [cm]",
}


class PositionErrors:
    """Collects the errors of scenes, in centimetres."""

    def __init__(self) -> None:
        self._errors: dict[str, list[list[float]]] = {name: [] for name in TITLES}  # of each scene

    def add_scene(self, sample: Sample, answers: Sequence[str]) -> None:
        """Measures a scene: with the true boxes of its objects, and with the boxes in the answers to its questions.

        Args:
            sample: The scene.
            answers: The answer to each of its questions, with box syntax.
        """
        if sample.last is None or not sample.turns:
            return
        objects = sample.last.truth.objects
        depth, centres = located(sample.last), visible_centres(sample.last)
        true_boxes, model_boxes = (self._errors[name] for name in TITLES)
        true_boxes.append([depth.error_cm(item.box, centres[item.id]) for item in objects])
        model_boxes.append([])
        for turn, raw in zip(sample.turns, answers, strict=True):
            if turn.expected.kind == "boxes":
                named = [
                    (item.grounded, centres[item.id]) for item in objects if item.grounded in turn.expected.objects
                ]
                found = parse(raw).objects
                model_boxes[-1] += [depth.error_cm(found[i].box, centre) for i, centre in pair(found, named)]

    def scores(self) -> dict[str, Score]:
        """Returns the median of each kind of error, with its interval over scenes."""
        scores = {}
        for name, scenes in self._errors.items():
            errors = [error for scene in scenes for error in scene]
            if errors:
                low, high = median_interval(scenes)
                scores[name] = Score(TITLES[name], float(np.median(errors)), low, high, len(errors))
        return scores


class LocatedView:
    """The depth image of a view, and the model of its camera."""

    def __init__(self, depth: Float32Array, camera: CameraModel):
        self._depth, self._camera = depth, camera

    def error_cm(self, box: Box, centre: FloatArray) -> float:
        """Returns the distance between the position of the object in a box and its true centre, [3] in metres."""
        try:
            found = locate(box.to_pixels(self._camera.size), self._depth, self._camera)
        except MediaError:
            return math.inf
        return 100 * float(np.linalg.norm(found.position - centre))


def located(view: View) -> LocatedView:
    """Returns what a depth camera measures of a view."""
    depth, size = measured_depth(view), view.picture.size
    return LocatedView(np.where(depth > 0, depth, np.nan), camera_model(view.scene.camera.focal_px(size), size))


def camera_model(focal_px: float, size: Size) -> CameraModel:
    """Returns the model of the simulated camera, which has no distortion."""
    matrix = np.array([[focal_px, 0, size.width / 2], [0, focal_px, size.height / 2], [0, 0, 1]])
    return CameraModel(matrix, size, np.zeros(0))


def pair(
    predicted: Sequence[GroundedObject], named: Iterable[tuple[GroundedObject, FloatArray]]
) -> list[tuple[int, FloatArray]]:
    """Returns the index of the prediction of each true object whose label was predicted, and the object's centre.

    Of several predictions with the label, the one whose box overlaps most is paired; each is paired once.
    """
    left, pairs = list(range(len(predicted))), []
    for item, centre in named:
        same = [index for index in left if predicted[index].label == item.label]
        if same:
            best = max(same, key=lambda index: iou(_sides(predicted[index].box), _sides(item.box)))
            left.remove(best)
            pairs.append((best, centre))
    return pairs


def _sides(box: Box) -> tuple[float, float, float, float]:
    return box.x1, box.y1, box.x2, box.y2
