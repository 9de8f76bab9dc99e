"""Samples by number, made on demand: pictures, a conversation about them, and their ground truth.

The data set is endless: sample n depends only on the settings and n, so that any process can make it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.types import Size, UInt8Array
from penguin_tabletop.clips.events import Event
from penguin_tabletop.clips.timeline import TabletopClip, check_timing
from penguin_tabletop.conversations.clip_tasks import ClipTruth, clip_turns, what_changed
from penguin_tabletop.conversations.condition_tasks import condition_turns
from penguin_tabletop.conversations.language import as_typed
from penguin_tabletop.conversations.picture_tasks import picture_turns
from penguin_tabletop.conversations.text_tasks import repeat, text_turns
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.render.charts import draw_chart
from penguin_tabletop.render.picture import NOTHING, SUPERSAMPLE, RenderedPicture, SceneRenderer, check_size
from penguin_tabletop.scene.catalogue import COLOURS, KINDS
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.scene.random_parts import empty_scene
from penguin_tabletop.scene.scene import Scene
from penguin_tabletop.seeds import Random, Split, choose_weighted, seeded_random
from penguin_tabletop.truth import SceneTruth, View, view_of

Family = Literal["image", "pair", "clip", "chart", "text"]

CLASSES = ("nothing", *(f"{colour} {kind}" for kind in KINDS for colour in (*COLOURS, "any")))
"""Names of the class ids in masks: every kind in every colour; "any" for kinds that have no colour."""
_TRIES = 20
_PAIR_S = 7.0
_EMPTY_SHARE = 0.06
_Content = tuple[list[View], list[Turn], tuple[Event, ...]]
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
            "events": [asdict(event) for event in self.events],
        }


@dataclass(frozen=True)
class Mixture:
    """Weights of the families of samples."""

    image: float = 0.62
    pair: float = 0.08
    clip: float = 0.2
    chart: float = 0.05
    text: float = 0.05

    def __post_init__(self) -> None:
        weights = list(asdict(self).values())
        if min(weights) < 0 or sum(weights) <= 0:
            raise TabletopError(f"weights {weights} of a mixture must not be negative, and one must be above 0")

    def choose(self, random: Random) -> Family:
        """Returns a random family."""
        weights: dict[Family, float] = {family: getattr(self, family) for family in get_args(Family)}
        return choose_weighted(random, weights)[0]


@dataclass(frozen=True)
class TabletopSettings:
    """Settings of a data set."""

    split: Split = Split.TRAIN  # where the seeds come from
    base: int = 0  # number of a separate family of scenes; see `Split.seed`
    size: Size = field(default_factory=lambda: Size(168, 168))  # of the pictures in pixels
    turns: int = 4  # largest number of questions about the same pictures
    fps: float = 2.0  # of clips
    seconds: float | None = None  # length of clips; random if None
    mixture: Mixture = field(default_factory=Mixture)
    drills: float = 0.0  # share of texts that are only to be repeated
    conditions: int = 0  # largest number of conditions to judge in an image or clip, besides its turns

    def __post_init__(self) -> None:
        self.split.seed(0, self.base)
        check_size(self.size)
        check_timing(self.fps, self.seconds)


class TabletopDataset:
    """An endless data set; its renderer starts with the first picture, in the process that needs it."""

    def __init__(self, settings: TabletopSettings):
        self.settings = settings
        self._renderer: SceneRenderer | None = None

    def __getitem__(self, number: int) -> Sample:
        """Makes a sample."""
        settings = self.settings
        seed = settings.split.seed(number, settings.base)
        name = f"{settings.split.name.lower()}-{settings.base}-{number:08d}"
        family = settings.mixture.choose(seeded_random(seed, "family"))
        if family == "text":
            return _text_sample(name, seed, settings)
        if family == "chart":
            return Sample(name, seed, family, (), (draw_chart(seeded_random(seed, "chart"), settings.size),))
        if self._renderer is None:
            self._renderer = SceneRenderer(settings.size)
        makers = {"image": _make_image, "pair": _make_pair, "clip": _make_clip}
        asking = seeded_random(seed, "questions")
        views, turns, events = makers[family](seed, self._renderer, settings, asking)
        return Sample(
            name,
            seed,
            family,
            turns=(
                *(replace(turn, question=as_typed(asking, turn.question)) for turn in turns),
                *(_conditions(views, seed, settings.conditions) if family != "pair" else ()),
            ),
            frames=tuple(view.picture.rgb for view in views),
            stamps_s=tuple(view.stamp_s for view in views) if family == "clip" else (),
            truths=tuple(view.truth for view in views),
            events=events,
            classes=tuple(_class_ids(view.scene, view.picture) for view in views),
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_renderer": None}


def _text_sample(name: str, seed: int, settings: TabletopSettings) -> Sample:
    """Makes a conversation without pictures, or now and then a text to repeat."""
    turns, drilling = text_turns(seeded_random(seed, "text"), settings.turns), seeded_random(seed, "drill")
    if drilling.random() < settings.drills:
        turns = [repeat(turns[0].question, drilling)]
    return Sample(name, seed, "text", tuple(turns))


def _conditions(views: list[View], seed: int, most: int) -> list[Turn]:
    """Returns conditions to judge in the last view; the other questions do not depend on them."""
    gone = [item.label for view in views[:-1] for item in view.truth.objects]
    return condition_turns(views[-1].truth, seeded_random(seed, "conditions"), most, gone)


def _make_image(seed: int, renderer: SceneRenderer, settings: TabletopSettings, asking: Random) -> _Content:
    """Makes a picture and questions about it; with conditions, now and then of an empty table."""
    random = seeded_random(seed, "image")
    if settings.conditions and seeded_random(seed, "empty").random() < _EMPTY_SHARE:
        return [view_of(empty_scene(random), renderer)], [], ()
    for _ in range(_TRIES):
        view = view_of(plan_scene(random, settings.size), renderer)
        if view.truth.is_clear:
            return [view], picture_turns(view.truth, asking, settings.turns), ()
    return [view], [], ()


def _make_pair(seed: int, renderer: SceneRenderer, settings: TabletopSettings, asking: Random) -> _Content:
    """Makes two pictures, before and after some events (or none), and a question about what has changed."""
    clip = TabletopClip(seed, settings.size, seconds=_PAIR_S)
    views = [view_of(clip.scene(time_s), renderer) for time_s in (0.0, clip.seconds)]
    truth = ClipTruth(clip.events, views[0].truth, views[1].truth)
    turns = [what_changed(truth, asking)] if truth.first.is_clear and truth.last.is_clear else []
    return views, turns, clip.events


def _make_clip(seed: int, renderer: SceneRenderer, settings: TabletopSettings, asking: Random) -> _Content:
    """Makes a clip, questions about its events, and picture questions, which refer to its last frame."""
    clip = TabletopClip(seed, settings.size, settings.fps, settings.seconds)
    views = list(clip.frames(renderer))
    truth = ClipTruth(clip.events, views[0].truth, views[-1].truth)
    turns = clip_turns(truth, asking, settings.turns)
    if truth.last.is_clear:
        turns += picture_turns(truth.last, asking, max(1, settings.turns // 2))
    return views, [turns[index] for index in asking.permutation(len(turns))], clip.events


def _class_ids(scene: Scene, picture: RenderedPicture) -> UInt8Array:
    """Returns the class of every pixel, uint8 [H, W]: indices into CLASSES."""
    ids = picture.ids[::SUPERSAMPLE, ::SUPERSAMPLE]
    table = np.zeros(max((thing.id for thing in scene.things), default=0) + 2, np.uint8)
    for thing in scene.things:
        table[thing.id - NOTHING] = CLASSES.index(f"{thing.colour or 'any'} {thing.kind}")
    classes: UInt8Array = table[ids - NOTHING]
    return classes
