"""Samples: pictures, a conversation about them, and their ground truth, made from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from penguin_models.types import Size, UInt8Array
from penguin_tabletop.clips.events import Event
from penguin_tabletop.clips.timeline import TabletopClip
from penguin_tabletop.conversations.clip_tasks import ClipTruth, clip_turns, what_changed
from penguin_tabletop.conversations.language import as_typed
from penguin_tabletop.conversations.picture_tasks import picture_turns
from penguin_tabletop.conversations.text_tasks import repeat, text_turns
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.render.charts import draw_chart
from penguin_tabletop.render.picture import NOTHING, SUPERSAMPLE, RenderedPicture, SceneRenderer
from penguin_tabletop.scene.catalogue import COLOURS, KINDS
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.scene.scene import Scene
from penguin_tabletop.seeds import seeded_random
from penguin_tabletop.truth import SceneTruth, truth_of

Family = Literal["image", "pair", "clip", "chart", "text"]

CLASSES = ("nothing", *(f"{colour} {kind}" for kind in KINDS for colour in (*COLOURS, "any")))
"""Names of the class ids in masks: every kind in every colour; "any" for kinds that have no colour."""
_TRIES = 20
_PAIR_S = 7.0
_PLACEHOLDERS: dict[Family, str] = {"image": "<image>\n", "pair": "<image>\n<image>\n", "clip": "<video>\n"}


@dataclass(frozen=True, eq=False)
class Sample:
    """A training or evaluation example."""

    id: str  # unique over splits and bases
    seed: int
    family: Family  # image; pair (before and after); clip; chart (a picture without conversation); text (no picture)
    turns: tuple[Turn, ...]
    frames: tuple[UInt8Array, ...] = ()  # [H, W, 3] each
    stamps_s: tuple[float, ...] = ()  # of the frames of a clip
    truths: tuple[SceneTruth, ...] = ()  # what each frame shows; none for charts and texts
    events: tuple[Event, ...] = ()  # of a clip or pair
    classes: tuple[UInt8Array, ...] = field(default=(), repr=False)  # [H, W] each, indices into CLASSES

    @property
    def conversations(self) -> list[dict[str, str]]:
        """Messages in the annotation format: "from" human or gpt, and "value"."""
        messages = []
        for number, turn in enumerate(self.turns):
            opening = _PLACEHOLDERS.get(self.family, "") if number == 0 else ""
            messages.append({"from": "human", "value": opening + turn.question})
            messages.append({"from": "gpt", "value": turn.answer})
        return messages

    def annotation(self) -> dict[str, Any]:
        """Returns the line of the annotation file without media paths; questions about pictures are independent."""
        independent = {"independent_turns": True} if self.turns and self.frames else {}
        return {
            "id": self.id,
            "family": self.family,
            **independent,
            "conversations": self.conversations,
            "tasks": [turn.task for turn in self.turns],
            "expected": [turn.expected.to_dict() for turn in self.turns],
        }

    def truth(self) -> dict[str, Any]:
        """Returns the ground truth for JSON."""
        return {
            "id": self.id,
            "seed": self.seed,
            "family": self.family,
            "stamps_s": list(self.stamps_s),
            "frames": [truth.to_dict() for truth in self.truths],
            "events": [event.to_dict() for event in self.events],
        }


def image_sample(name: str, seed: int, renderer: SceneRenderer, most: int) -> Sample:
    """Makes a picture and questions about it."""
    random = seeded_random(seed, "image")
    for _ in range(_TRIES):
        scene = plan_scene(random, renderer.size)
        picture = renderer.render(scene)
        truth = truth_of(scene, picture)
        if truth.is_clear:
            break
    asking = seeded_random(seed, "questions")
    turns = _as_typed(asking, picture_turns(truth, asking, most)) if truth.is_clear else ()
    classes = _class_ids(scene, picture)
    return Sample(name, seed, "image", turns, (picture.rgb,), truths=(truth,), classes=(classes,))


def pair_sample(name: str, seed: int, renderer: SceneRenderer) -> Sample:
    """Makes two pictures, before and after some events (or none), and a question about what has changed."""
    clip = TabletopClip(seed, renderer.size, seconds=_PAIR_S)
    scenes = [clip.scene(0.0), clip.scene(clip.seconds)]
    pictures = [renderer.render(scene) for scene in scenes]
    first, last = (truth_of(scene, picture) for scene, picture in zip(scenes, pictures, strict=True))
    asking, turns = seeded_random(seed, "questions"), []
    if first.is_clear and last.is_clear:
        turns = [what_changed(ClipTruth(clip.events, first, last), asking)]
    frames = tuple(picture.rgb for picture in pictures)
    classes = tuple(_class_ids(scene, picture) for scene, picture in zip(scenes, pictures, strict=True))
    return Sample(name, seed, "pair", _as_typed(asking, turns), frames, (), (first, last), clip.events, classes)


def clip_sample(name: str, seed: int, renderer: SceneRenderer, most: int, fps: float, seconds: float | None) -> Sample:
    """Makes a clip, questions about its events, and picture questions, which refer to its last frame."""
    clip = TabletopClip(seed, renderer.size, fps, seconds)
    views = list(clip.frames(renderer))
    truth = ClipTruth(clip.events, views[0].truth, views[-1].truth)
    asking = seeded_random(seed, "questions")
    turns = clip_turns(truth, asking, most)
    if truth.last.is_clear:
        turns += picture_turns(truth.last, asking, max(1, most // 2))
    shuffled = _as_typed(asking, [turns[index] for index in asking.permutation(len(turns))])
    stamps_s, pictures, truths = zip(*views, strict=True)
    frames = tuple(picture.rgb for picture in pictures)
    classes = tuple(_class_ids(clip.scene(view.stamp_s), view.picture) for view in views)
    return Sample(name, seed, "clip", shuffled, frames, stamps_s, truths, clip.events, classes)


def chart_sample(name: str, seed: int, size: Size) -> Sample:
    """Makes a chart or a page without conversation."""
    return Sample(name, seed, "chart", (), (draw_chart(seeded_random(seed, "chart"), size),))


def text_sample(name: str, seed: int, most: int, drills: float = 0.0) -> Sample:
    """Makes a conversation without pictures; with probability `drills`, a text to repeat instead."""
    turns, drilling = text_turns(seeded_random(seed, "text"), most), seeded_random(seed, "drill")
    if drilling.random() < drills:
        turns = [repeat(turns[0].question, drilling)]
    return Sample(name, seed, "text", tuple(turns))


def _class_ids(scene: Scene, picture: RenderedPicture) -> UInt8Array:
    """Returns the class of every pixel, uint8 [H, W]: indices into CLASSES."""
    ids = picture.ids[::SUPERSAMPLE, ::SUPERSAMPLE]
    table = np.zeros(max((thing.id for thing in scene.things), default=0) + 2, np.uint8)
    for thing in scene.things:
        table[thing.id - NOTHING] = CLASSES.index(f"{thing.colour or 'any'} {thing.kind}")
    classes: UInt8Array = table[ids - NOTHING]
    return classes


def _as_typed(random: np.random.Generator, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    return tuple(replace(turn, question=as_typed(random, turn.question)) for turn in turns)
