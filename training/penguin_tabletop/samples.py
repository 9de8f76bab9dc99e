"""One example of the simulated table-top: pictures, a conversation about them, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from penguin_models.types import Size, UInt8Array
from penguin_tabletop import clip_tasks
from penguin_tabletop.catalogue import COLOURS, KINDS
from penguin_tabletop.charts import draw_chart
from penguin_tabletop.clip_tasks import ClipTruth
from penguin_tabletop.drills import repeat
from penguin_tabletop.events import Event
from penguin_tabletop.image_tasks import turns_about
from penguin_tabletop.language import typed
from penguin_tabletop.picture import NOTHING, SUPERSAMPLE, Photographer, Picture
from penguin_tabletop.planning import plan_scene
from penguin_tabletop.scene import Scene
from penguin_tabletop.seeds import random_of
from penguin_tabletop.text_tasks import text_turns
from penguin_tabletop.timeline import TabletopClip
from penguin_tabletop.truth import SceneTruth, truth_of
from penguin_tabletop.turns import Turn

Family = Literal["image", "pair", "clip", "chart", "text"]
ClipTask = Callable[[ClipTruth, np.random.Generator], Turn | None]

CLASSES = ("nothing", *(f"{colour} {kind}" for kind in KINDS for colour in (*COLOURS, "any")))
"""Names of the class ids in masks: every kind in every colour; "any" for kinds that have no colour."""
_TRIES = 20
_PAIR_S = 7.0

_CLIP_TASKS: dict[ClipTask, float] = {
    clip_tasks.caption_dense: 2.0,
    clip_tasks.when: 3.0,
    clip_tasks.caption_whole: 1.5,
    clip_tasks.what_during: 1.5,
    clip_tasks.what_first: 1.0,
    clip_tasks.happens: 1.0,
    clip_tasks.how_many_times: 0.8,
}
_CLEAR_CLIP_TASKS: dict[ClipTask, float] = {
    clip_tasks.caption_paragraph: 1.5,
    clip_tasks.count_at_end: 0.8,
    clip_tasks.where_at_end: 1.2,
    clip_tasks.what_changed: 2.0,
}
"""These also need a clear first and last picture."""
ALL_CLIP_TASKS = _CLIP_TASKS | _CLEAR_CLIP_TASKS
_PLACEHOLDERS: dict[Family, str] = {"image": "<image>\n", "pair": "<image>\n<image>\n", "clip": "<video>\n"}


@dataclass(frozen=True, eq=False)
class Sample:
    """An example.

    Attributes:
        id: unique over splits and bases.
        seed: of everything in it.
        family: image; pair (of before and after); clip; chart (a picture without conversation); text (no picture).
        turns: questions and answers, about the same pictures.
        frames: uint8 [H, W, 3] each.
        stamps_s: of the frames of a clip.
        truths: what each frame shows; none for charts and texts.
        events: of a clip or pair.
        classes: uint8 [H, W] for each frame: indices into CLASSES; none for charts and texts.
    """

    id: str
    seed: int
    family: Family
    turns: tuple[Turn, ...]
    frames: tuple[UInt8Array, ...] = ()
    stamps_s: tuple[float, ...] = ()
    truths: tuple[SceneTruth, ...] = ()
    events: tuple[Event, ...] = ()
    classes: tuple[UInt8Array, ...] = field(default=(), repr=False)

    @property
    def conversations(self) -> list[dict[str, str]]:
        """In the annotation format: "from" human or gpt, and "value"."""
        said = []
        for number, turn in enumerate(self.turns):
            opening = _PLACEHOLDERS.get(self.family, "") if number == 0 else ""
            said.append({"from": "human", "value": opening + turn.question})
            said.append({"from": "gpt", "value": turn.answer})
        return said

    def annotation(self) -> dict[str, Any]:
        """The line of the annotation file, without the paths of its media; questions about pictures stand apart."""
        apart = {"independent_turns": True} if self.turns and self.frames else {}
        return {
            "id": self.id,
            "family": self.family,
            **apart,
            "conversations": self.conversations,
            "tasks": [turn.task for turn in self.turns],
            "expected": [turn.expected.to_dict() for turn in self.turns],
        }

    def truth(self) -> dict[str, Any]:
        """All that is known of it, for JSON."""
        return {
            "id": self.id,
            "seed": self.seed,
            "family": self.family,
            "stamps_s": list(self.stamps_s),
            "frames": [truth.to_dict() for truth in self.truths],
            "events": [event.to_dict() for event in self.events],
        }


def image_sample(name: str, seed: int, photographer: Photographer, most: int) -> Sample:
    """A picture and questions about it."""
    random = random_of(seed, "image")
    for _ in range(_TRIES):
        scene = plan_scene(random, photographer.size)
        picture = photographer.take(scene)
        truth = truth_of(scene, picture)
        if clip_tasks.clear([truth]):
            break
    asking = random_of(seed, "questions")
    turns = list(_typed(asking, turns_about(truth, asking, most))) if clip_tasks.clear([truth]) else []
    classes = class_ids(scene, picture)
    return Sample(name, seed, "image", tuple(turns), (picture.rgb,), truths=(truth,), classes=(classes,))


def pair_sample(name: str, seed: int, photographer: Photographer) -> Sample:
    """Two pictures, before and after some events (or none), and what has changed."""
    clip = TabletopClip(seed, photographer.size, seconds=_PAIR_S)
    scenes = [clip.scene(0.0), clip.scene(clip.seconds)]
    pictures = [photographer.take(scene) for scene in scenes]
    truths = [truth_of(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    asking, turns = random_of(seed, "questions"), []
    if clip_tasks.clear(truths):
        turns = [clip_tasks.what_changed(ClipTruth(clip.events, *truths), asking)]
    return Sample(
        name,
        seed,
        "pair",
        _typed(asking, turns),
        tuple(picture.rgb for picture in pictures),
        truths=tuple(truths),
        events=clip.events,
        classes=tuple(class_ids(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)),
    )


def clip_sample(
    name: str, seed: int, photographer: Photographer, most: int, fps: float, seconds: float | None
) -> Sample:
    """A clip and questions about what happens in it and what its last picture shows: plain questions are about now."""
    clip = TabletopClip(seed, photographer.size, fps, seconds)
    views = list(clip.frames(photographer))
    truth = ClipTruth(clip.events, views[0].truth, views[-1].truth)
    asking = random_of(seed, "questions")
    turns = _choose(ALL_CLIP_TASKS if clip_tasks.clear([truth.first, truth.last]) else _CLIP_TASKS, truth, asking, most)
    if clip_tasks.clear([truth.last]):
        turns += turns_about(truth.last, asking, max(1, most // 2))
    return Sample(
        name,
        seed,
        "clip",
        _typed(asking, [turns[index] for index in asking.permutation(len(turns))]),
        tuple(view.picture.rgb for view in views),
        tuple(view.stamp_s for view in views),
        tuple(view.truth for view in views),
        clip.events,
        tuple(class_ids(clip.scene(view.stamp_s), view.picture) for view in views),
    )


def chart_sample(name: str, seed: int, size: Size) -> Sample:
    """A chart or a page without conversation."""
    return Sample(name, seed, "chart", (), (draw_chart(random_of(seed, "chart"), size),))


def text_sample(name: str, seed: int, most: int, drills: float = 0.0) -> Sample:
    """A conversation without pictures; with this probability a drill instead."""
    turns, drilling = text_turns(random_of(seed, "text"), most), random_of(seed, "drill")
    if drilling.random() < drills:
        turns = [repeat(turns[0].question, drilling)]
    return Sample(name, seed, "text", tuple(turns))


def class_ids(scene: Scene, picture: Picture) -> UInt8Array:
    """Class of every pixel, uint8 [H, W]: indices into CLASSES."""
    ids = picture.ids[::SUPERSAMPLE, ::SUPERSAMPLE]
    table = np.zeros(max((thing.id for thing in scene.things), default=0) + 2, np.uint8)
    for thing in scene.things:
        table[thing.id + 1] = CLASSES.index(f"{thing.colour or 'any'} {thing.kind}")
    assert NOTHING == -1
    classes: UInt8Array = table[ids + 1]
    return classes


def _typed(random: np.random.Generator, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    return tuple(replace(turn, question=typed(random, turn.question)) for turn in turns)


def _choose(tasks: dict[ClipTask, float], truth: ClipTruth, random: np.random.Generator, most: int) -> list[Turn]:
    weights, names = np.array(list(tasks.values())), list(tasks)
    wanted = int(random.integers(1, most + 1))
    turns: list[Turn] = []
    for index in random.choice(len(tasks), len(tasks), replace=False, p=weights / weights.sum()):
        turn = names[index](truth, random) if len(turns) < wanted else None
        turns += [turn] if turn is not None else []
    return turns
