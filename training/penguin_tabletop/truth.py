"""What can be said of a picture for certain: visible objects with their boxes, how they lie to each other, how many.

The limits are stated here and hold everywhere: an object counts as visible where the image shows at least MIN_SHARE of
it and its box is at least MIN_SIDE of the image's shorter side. What shows less than NO_TRACE of itself is not there at
all. What lies between the two makes a picture unclear: nothing is asked of it that such an object could decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_tabletop.camera import Camera
from penguin_tabletop.picture import Picture, Seen
from penguin_tabletop.printing import legible
from penguin_tabletop.scene import Scene, Vector
from penguin_tabletop.view import Rect, overlap, rect_of

MIN_SHARE = 0.45
MIN_SIDE = 0.035
NO_TRACE = 0.02
_READABLE = 0.9
"""A printed word counts where this much of its object is visible, and printing.legible says so."""
_APART_M = 0.05
_ACROSS = 60
"""Left and right need this distance between the middles of the boxes, in thousandths of the width."""
_CLEARLY = 1.6
"""One direction must outweigh the other this much to be called left, right, in front or behind."""

RELATIONS = ("left of", "right of", "in front of", "behind", "on")
OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}


@dataclass(frozen=True)
class VisibleObject:
    """An object that the picture shows.

    Attributes:
        id: of the thing, the same in all frames of a clip.
        label: what it is called; twins share one.
        kind, colour, size: as the scene has them; colour None where the kind has only one look.
        word: printed on it, "" if there is none or it cannot be read.
        box: around its visible pixels.
        share: of it that is visible.
        right_m, ahead_m: where it stands as seen from the camera, on the ground.
        position: of its foot in the world, in metres.
        on: id of what carries it, None for the table.
    """

    id: int
    label: str
    kind: str
    colour: str | None
    size: str
    word: str
    box: Box
    share: float
    right_m: float
    ahead_m: float
    position: Vector
    on: int | None

    @property
    def grounded(self) -> GroundedObject:
        """Label and box."""
        return GroundedObject(self.label, self.box)

    @property
    def told(self) -> GroundedObject:
        """The same with the box in tens, as texts give it: last digits that no eye can tell would only be noise."""
        return GroundedObject(self.label, in_tens(self.box))


@dataclass(frozen=True)
class Relation:
    """`subject` is left of, right of, in front of, behind or on `object` (ids)."""

    subject: int
    name: str
    object: int


@dataclass(frozen=True)
class SceneTruth:
    """What a picture shows.

    Attributes:
        objects: visible ones, from left to right.
        relations: that hold clearly.
        unclear: labels of objects that show too little of themselves to count, and too much to be absent.
        table: what the table is called ("wooden", "white", ...).
        camera: that took the picture.
    """

    objects: tuple[VisibleObject, ...]
    relations: tuple[Relation, ...]
    unclear: tuple[str, ...]
    table: str
    camera: Camera

    def counts(self) -> dict[str, int]:
        """How many objects have each label."""
        return count(item.label for item in self.objects)

    def relation(self, subject: int, other: int) -> str | None:
        """How one object lies to another, if that is clear."""
        return next((r.name for r in self.relations if (r.subject, r.object) == (subject, other)), None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "objects": [_rounded(asdict(item)) | {"box": box_list(item.box)} for item in self.objects],
            "relations": [asdict(relation) for relation in self.relations],
            "counts": self.counts(),
            "unclear": list(self.unclear),
            "table": self.table,
            "camera": _rounded(asdict(self.camera)),
        }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Lengths and angles to a tenth of a millimetre or milliradian."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    return rounded | {name: [round(v, 4) for v in value] for name, value in values.items() if isinstance(value, tuple)}


def in_tens(box: Box) -> Box:
    """The box with each side at the nearest ten."""
    return Box(*(10 * round(side / 10) for side in (box.x1, box.y1, box.x2, box.y2)))


def box_list(box: Box) -> list[int]:
    """A box as [x1, y1, x2, y2] in thousandths."""
    return [box.x1, box.y1, box.x2, box.y2]


def count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, in the order of first occurrence."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def truth_of(scene: Scene, picture: Picture) -> SceneTruth:
    """The truth of a picture of a scene, from its masks."""
    return _truth(scene, picture.seen, picture.size)


def planned_truth(scene: Scene, size: Size) -> SceneTruth:
    """The truth of a scene that was never rendered, from outlines: for texts without a picture."""
    seen = {}
    for thing in scene.things:
        rect = rect_of(thing, scene.camera, size)
        box = Box.from_pixels(*rect, size)
        in_image = overlap(rect, Rect(0, 0, size.width, size.height)) / rect.area if rect.area else 0.0
        seen[thing.id] = Seen(box, in_image)
    return _truth(scene, seen, size)


def _truth(scene: Scene, seen: Mapping[int, Seen], size: Size) -> SceneTruth:
    objects, unclear = [], []
    for thing in scene.things:
        found = seen.get(thing.id)
        if found is None or found.box is None or found.share < NO_TRACE:
            continue
        if found.share >= MIN_SHARE and _large(found.box, size):
            place = (*scene.camera.on_ground(np.array(thing.position)), thing.position, thing.on)
            readable = thing.word and found.share >= _READABLE and legible(thing, scene.camera, size)
            word = thing.word if readable else ""
            names = (thing.label, thing.kind, thing.colour, thing.size, word)
            objects.append(VisibleObject(thing.id, *names, found.box, found.share, *place))
        else:
            unclear.append(thing.label)
    objects.sort(key=lambda item: (item.box.x1 + item.box.x2, item.id))
    table = scene.surroundings.table.name
    return SceneTruth(tuple(objects), _relations(objects), tuple(unclear), table, scene.camera)


def _large(box: Box, size: Size) -> bool:
    left, top, right, bottom = box.to_pixels(size)
    return min(right - left, bottom - top) >= MIN_SIDE * min(size)


def _relations(objects: Sequence[VisibleObject]) -> tuple[Relation, ...]:
    found = []
    for subject in objects:
        for other in objects:
            name = None if subject.id == other.id else _relation(subject, other)
            if name is not None:
                found.append(Relation(subject.id, name, other.id))
    return tuple(found)


def _relation(subject: VisibleObject, other: VisibleObject) -> str | None:
    if subject.on == other.id:
        return "on"
    if other.on == subject.id:
        return None
    right, ahead = subject.right_m - other.right_m, subject.ahead_m - other.ahead_m
    across = (subject.box.x1 + subject.box.x2 - other.box.x1 - other.box.x2) / 2
    if abs(right) >= max(_APART_M, _CLEARLY * abs(ahead)) and abs(across) >= _ACROSS and (right > 0) == (across > 0):
        return "right of" if right > 0 else "left of"
    if abs(ahead) >= max(_APART_M, _CLEARLY * abs(right)):
        return "behind" if ahead > 0 else "in front of"
    return None
