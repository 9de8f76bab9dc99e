"""What a picture certainly shows: visible objects with their boxes, their relations, their number.

The limits below hold everywhere: an object counts as visible if the image shows at least MIN_SHARE of it and its box
is at least MIN_SIDE of the image's shorter side. If less than NO_TRACE of it shows, it counts as absent. Anything in
between makes the picture unclear, and then no question is asked that depends on the object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_tabletop.render.picture import RenderedPicture, SceneRenderer, Visibility
from penguin_tabletop.render.printing import is_legible
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.scene import Scene, Vector, area_in_image, rect_of

MIN_SHARE = 0.45
MIN_SIDE = 0.035
NO_TRACE = 0.02
_READABLE_SHARE = 0.9  # a printed word counts if this share of its object is visible and the word is legible
_APART_M = 0.05
_APART_X = 60  # left and right require this distance between the middles of the boxes, in thousandths of the width
_DIRECTION_RATIO = 1.6  # how many times one direction must outweigh the other to be called left, right, front or back

RELATIONS = ("left of", "right of", "in front of", "behind", "on")
OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}


@dataclass(frozen=True)
class VisibleObject:
    """An object that the picture shows."""

    id: int  # the same in all frames of a clip
    label: str  # twins share one
    kind: str
    colour: str | None  # None if the kind has only one look
    size: str
    word: str  # printed word, "" if there is none or it is not legible
    box: Box  # around its visible pixels
    share: float  # visible share
    right_m: float  # place on the ground as seen from the camera
    ahead_m: float
    position: Vector  # of its foot in the world, in metres
    on: int | None  # id of the object that carries it, None for the table

    @property
    def grounded(self) -> GroundedObject:
        """Label and box."""
        return GroundedObject(self.label, self.box)

    @property
    def rounded(self) -> GroundedObject:
        """Label and box rounded to tens, as texts state it: nobody could see the last digits."""
        return GroundedObject(self.label, rounded_box(self.box))

    @property
    def middle_x(self) -> float:
        """Middle of the box in thousandths of the width."""
        return (self.box.x1 + self.box.x2) / 2


@dataclass(frozen=True)
class Relation:
    """`subject` is left of, right of, in front of, behind or on `object` (ids)."""

    subject: int
    name: str
    object: int


@dataclass(frozen=True)
class SceneTruth:
    """What a picture shows."""

    objects: tuple[VisibleObject, ...]  # from left to right
    relations: tuple[Relation, ...]  # those that hold clearly
    unclear: tuple[str, ...]  # labels of objects that are neither clearly visible nor clearly absent
    table: str  # name of the table ("wooden", "white", ...)
    camera: Camera

    @property
    def is_clear(self) -> bool:
        """Whether the picture shows objects, and all of them clearly: only then are questions asked about it."""
        return bool(self.objects) and not self.unclear

    @property
    def unique(self) -> list[VisibleObject]:
        """Objects whose label no other object has."""
        counts = self.counts()
        return [item for item in self.objects if counts[item.label] == 1]

    def counts(self) -> dict[str, int]:
        """Returns the number of objects with each label, in the order of first occurrence."""
        return dict(Counter(item.label for item in self.objects))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "objects": [_round_values(asdict(item)) | {"box": astuple(item.box)} for item in self.objects],
            "relations": [asdict(relation) for relation in self.relations],
            "counts": self.counts(),
            "unclear": list(self.unclear),
            "table": self.table,
            "camera": _round_values(asdict(self.camera)),
        }


class View(NamedTuple):
    """A rendered moment: its time, the scene, the picture with its masks, and what it shows."""

    stamp_s: float
    scene: Scene
    picture: RenderedPicture
    truth: SceneTruth


def rounded_box(box: Box) -> Box:
    """Returns the box with each side rounded to tens."""
    return Box(*(10 * round(side / 10) for side in astuple(box)))


def view_of(scene: Scene, renderer: SceneRenderer, stamp_s: float = 0.0) -> View:
    """Renders a scene; the truth comes from its masks."""
    picture = renderer.render(scene)
    return View(stamp_s, scene, picture, _truth(scene, picture.visibility, picture.size))


def planned_truth(scene: Scene, size: Size) -> SceneTruth:
    """Returns the truth of a scene that is not rendered, from the hulls of its objects: for texts without a picture."""
    visibility = {}
    for thing in scene.things:
        rect = rect_of(thing, scene.camera, size)
        in_image = area_in_image(thing, scene.camera, size) / rect.area if rect.area else 0.0
        visibility[thing.id] = Visibility(Box.from_pixels(*rect, size), in_image)
    return _truth(scene, visibility, size)


def _truth(scene: Scene, visibility: Mapping[int, Visibility], size: Size) -> SceneTruth:
    objects, unclear = [], []
    for thing in scene.things:
        found = visibility.get(thing.id)
        if found is None or found.share < NO_TRACE:
            continue
        left, top, right, bottom = found.box.to_pixels(size)
        if found.share < MIN_SHARE or min(right - left, bottom - top) < MIN_SIDE * min(size):
            unclear.append(thing.label)
            continue
        readable = thing.word and found.share >= _READABLE_SHARE and is_legible(thing, scene.camera, size)
        word = thing.word if readable else ""
        right_m, ahead_m = scene.camera.on_ground(np.array(thing.position))
        names = (thing.label, thing.kind, thing.colour, thing.size, word)
        place = (right_m, ahead_m, thing.position, thing.on)
        objects.append(VisibleObject(thing.id, *names, found.box, found.share, *place))
    objects.sort(key=lambda item: (item.middle_x, item.id))
    named = ((subject.id, _relation(subject, other), other.id) for subject, other in permutations(objects, 2))
    relations = tuple(Relation(subject, name, other) for subject, name, other in named if name is not None)
    return SceneTruth(tuple(objects), relations, tuple(unclear), scene.surroundings.table.name, scene.camera)


def _relation(subject: VisibleObject, other: VisibleObject) -> str | None:
    if subject.on == other.id:
        return "on"
    if other.on == subject.id:
        return None
    right, ahead = subject.right_m - other.right_m, subject.ahead_m - other.ahead_m
    across = subject.middle_x - other.middle_x
    is_beside = abs(right) >= max(_APART_M, _DIRECTION_RATIO * abs(ahead)) and abs(across) >= _APART_X
    if is_beside and (right > 0) == (across > 0):
        return "right of" if right > 0 else "left of"
    if abs(ahead) >= max(_APART_M, _DIRECTION_RATIO * abs(right)):
        return "behind" if ahead > 0 else "in front of"
    return None


def _round_values(values: dict[str, Any]) -> dict[str, Any]:
    """Rounds lengths and angles to a tenth of a millimetre or milliradian."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    return rounded | {name: [round(v, 4) for v in value] for name, value in values.items() if isinstance(value, tuple)}
