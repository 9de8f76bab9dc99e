"""Recordings of the simulated table-top as samples of a stage, shown as inference would show them.

Families of samples: "recall" shows what the runtime's memory holds at the end of a recording; "shown" shows a few
frames around what is asked about, from up to two hours, and the newest ones, as an answer from episodes does; "judge"
asks whether one picture helps to answer a question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from penguin_engine.scene.memory import FrameMemory
from penguin_models.images import resize
from penguin_models.judge import judge_conversation
from penguin_models.media import ClipFrame
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.token_allocation import grid_size
from penguin_models.types import Frame, FrameKind, Size
from penguin_tabletop.clips.events import Event
from penguin_tabletop.clips.timeline import TabletopRecording
from penguin_tabletop.conversations.condition_tasks import condition_turns
from penguin_tabletop.conversations.language import as_typed, every_label
from penguin_tabletop.conversations.recall_tasks import (
    Past,
    RecallQuestion,
    balanced,
    counted_from,
    now_turns,
    recall_questions,
    was_never_there,
)
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Random, Split, seeded_random
from penguin_tabletop.truth import SceneTruth, View, view_of
from penguin_training.data.annotations import Annotation, parse_annotation
from penguin_training.data.memory_clips import DrawnMemory

RecallFamily = Literal["recall", "shown", "judge"]
_BASE = 1 << 20
"""Added to the seed's number, so that recordings share no seed with other scenes."""
_LONGEST_S = 7200.0
_MOST_SHOWN, _MOST_NEWEST = 8, 4
"""Frames that an answer from episodes shows at most, before the newest ones and of these."""
_PERIOD_S = 0.5
_MARGIN_S = 0.5
"""Evidence counts as held if a frame lies this close to it."""
_NOW_TURNS = 6
_LABEL = re.compile(rf"\b({'|'.join(every_label())})\b")


class EventPolicy:
    """A keyframe policy that knows what happens, so that only the frames that are held need to be rendered.

    A frame is a keyframe while something moves and when it has come to rest, as for `NoveltyPolicy`.
    """

    def __init__(self, events: Sequence[Event]):
        self._events = events
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        self._last_s = -np.inf

    def observe(self, frame: Frame) -> FrameKind:
        """Returns the kind of a frame by its stamp."""
        now_s = frame.stamp_ns * 1e-9
        changed = any(event.start_s < now_s and event.end_s > self._last_s for event in self._events)
        is_first, self._last_s = self._last_s == -np.inf, now_s
        return FrameKind.KEY if is_first or changed else FrameKind.INTERMEDIATE


@dataclass(eq=False)
class RecallScenes:
    """Recordings by number; its renderers start in the process that needs them."""

    seed: int
    seconds: tuple[float, float]  # shortest and longest recording of the family "recall"
    turns: int
    draw: Callable[[str], DrawnMemory]  # the memory of a sample, by its id
    conditions: int = 0  # largest number of conditions to judge, besides the turns
    _renderers: dict[Size, SceneRenderer] = field(default_factory=dict, repr=False)

    def read(self, number: int, family: RecallFamily) -> Annotation:
        """Renders a sample."""
        seed = Split.TRAIN.seed(number, _BASE + self.seed)
        name, random = f"{family}-{self.seed}-{number:08d}", seeded_random(seed, family)
        drawn = self.draw(name)
        side = (drawn.side or 168) // drawn.config.factor * drawn.config.factor
        low, high = (self.seconds[0], _LONGEST_S) if family == "shown" else self.seconds
        seconds = float(np.ceil(low * (high / low) ** random.random()))
        recording = TabletopRecording(seed, Size(side, side), seconds, max(1.0, round(2 * drawn.rate_hz) / 2))
        scene = _Scene(recording, self._renderer(Size(side, side)), drawn, random, self.turns, self.conditions)
        return {"recall": scene.recall, "shown": scene.shown, "judge": scene.judge}[family](name)

    def _renderer(self, size: Size) -> SceneRenderer:
        if size not in self._renderers:
            self._renderers[size] = SceneRenderer(size)
        return self._renderers[size]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_renderers": {}}


@dataclass(eq=False)
class _Scene:
    """One recording, and what a sample shows of it."""

    recording: TabletopRecording
    renderer: SceneRenderer
    drawn: DrawnMemory
    random: Random
    turns: int
    conditions: int

    def __post_init__(self) -> None:
        self.past = Past(self.recording, self.renderer.size, self.recording.seconds)
        self.questions = recall_questions(self.past, self.random)

    def recall(self, name: str) -> Annotation:
        """Shows what the memory holds at the end."""
        memory = FrameMemory(self.drawn.config, EventPolicy(self.past.events))
        unseen = np.zeros((*self.renderer.size, 3), np.uint8)
        for stamp_s in self.recording.stamps_s:
            memory.add(Frame(unseen, round(stamp_s * 1e9)))
        views = [self._view(frame.stamp_ns * 1e-9) for frame in memory.frames]
        return self._about(name, views, [frame.size for frame in memory.frames])

    def shown(self, name: str) -> Annotation:
        """Shows frames around what some questions ask about and others, then the newest frames."""
        random, stamps = self.random, set[float]()
        for question in self.questions[: 1 + int(random.integers(2))]:
            start, end = (time_s / _PERIOD_S for time_s in question.evidence_s)
            near = np.arange(np.floor(start) - 1, np.ceil(end) + 3) * _PERIOD_S
            stamps |= set(random.choice(near, min(len(near), int(random.integers(3, 7))), replace=False).tolist())
        others = [float(np.ceil(event.end_s / _PERIOD_S)) * _PERIOD_S for event in self.past.events]
        stamps |= set(random.permutation(others)[: int(random.integers(5))].tolist())
        newest = self.recording.stamps_s[-int(random.integers(1, _MOST_NEWEST + 1)) :]
        earlier = [stamp_s for stamp_s in sorted(stamps) if 0 <= stamp_s < newest[0]]
        earlier = sorted(random.permutation(earlier)[:_MOST_SHOWN].tolist())
        views = [self._view(stamp_s) for stamp_s in (*earlier, *newest)]
        return self._about(name, views, self._sizes(len(earlier), len(newest)))

    def judge(self, name: str) -> Annotation:
        """Asks whether a picture helps to answer a question; it does if it shows the object in question."""
        wanted = bool(self.random.random() < 0.5)
        for question in self.questions:
            label = _LABEL.search(question.turn.question)
            for time_s in self._moments(question) if label else ():
                if label and (label[0] in _labels(self.past.view(time_s))) == wanted:
                    view = self._view(time_s)
                    return self._judged(name, question.turn, view, label[0] in _labels(view.truth))
        return self._judged(name, was_never_there(self.past, self.random), self._view(0.0), False)

    def _moments(self, question: RecallQuestion) -> list[float]:
        """Returns times near the evidence of a question and elsewhere, in random order."""
        start_s, end_s = max(0.0, question.evidence_s[0] - 2), min(question.evidence_s[1] + 2, self.recording.seconds)
        near = self.random.uniform(start_s, end_s, 3).tolist()
        others = self.random.permutation([event.end_s for event in self.past.events])[:4].tolist()
        return [float(time_s) for time_s in self.random.permutation([*near, *others])]

    def _view(self, time_s: float) -> View:
        return view_of(self.recording.scene(time_s), self.renderer, time_s)

    def _sizes(self, shown: int, newest: int) -> list[Size]:
        """Returns the sizes of frames in an answer from episodes: the newest take at most half of the budget."""
        memory = FrameMemory(self.drawn.config, NoveltyPolicy())
        budget, full = self.drawn.config.token_budget, grid_size(self.renderer.size, self.drawn.config.factor)
        recent = memory.shrunk(full, budget // 2 // newest)
        room = budget - newest * memory.tokens_of(recent)
        return [memory.shrunk(full, room // max(1, shown))] * shown + [recent] * newest

    def _about(self, name: str, views: Sequence[View], sizes: Sequence[Size]) -> Annotation:
        """Returns a sample that shows views at some sizes, with the questions that they answer."""
        stamps_s = [view.stamp_s for view in views]
        frames = tuple(
            ClipFrame(view.stamp_s - stamps_s[0], resize(view.picture.rgb, size))
            for view, size in zip(views, sizes, strict=True)
        )
        held = [question for question in self.questions if _is_held(question, stamps_s)]
        turns = [counted_from(question.turn, stamps_s[0]) for question in balanced(held, self.turns)]
        turns += now_turns(views[-1].truth, self.random, _NOW_TURNS)
        turns = [replace(turn, question=as_typed(self.random, turn.question)) for turn in turns]
        gone = [event.label for event in self.past.gone]
        turns += condition_turns(views[-1].truth, self.random, self.conditions, gone)
        turns = turns or [was_never_there(self.past, self.random)]
        messages: list[dict[str, Any]] = []
        for index in self.random.permutation(len(turns)):
            clip = [{"type": "video", "video": name}] if not messages else []
            text = {"type": "text", "text": turns[index].question}
            messages.append({"role": "user", "content": [*clip, text]})
            messages.append({"role": "assistant", "content": turns[index].answer})
        return _annotation(name, messages, frames)

    def _judged(self, name: str, turn: Turn, view: View, helps: bool) -> Annotation:
        """Returns a sample that asks whether a picture helps to answer a question."""
        memory = FrameMemory(self.drawn.config, NoveltyPolicy())
        *_, smallest = memory.ladder(grid_size(self.renderer.size, self.drawn.config.factor))
        frame = ClipFrame(0.0, resize(view.picture.rgb, smallest))
        (user,) = judge_conversation(as_typed(self.random, turn.question))
        text = user["content"][0]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [text, {"type": "video", "video": name}]},
            {"role": "assistant", "content": "yes" if helps else "no"},
        ]
        return _annotation(name, messages, (frame,), timed=False)


def _annotation(
    name: str, messages: list[dict[str, Any]], frames: tuple[ClipFrame, ...], timed: bool = True
) -> Annotation:
    raw = {"id": name, "independent_turns": timed, "messages": messages}
    annotation = parse_annotation(raw, Path(name), name)
    (reference,) = annotation.media
    return replace(annotation, media=(replace(reference, frames=frames, held=True, timed=timed),))


def _is_held(question: RecallQuestion, stamps_s: Sequence[float]) -> bool:
    start_s, end_s = question.evidence_s
    span = question.turn.expected.span
    if span is not None and span.start_s < stamps_s[0]:
        return False  # the answer would be a negative time
    return any(start_s - _MARGIN_S <= stamp_s <= end_s + _MARGIN_S for stamp_s in stamps_s)


def _labels(truth: SceneTruth) -> set[str]:
    return {item.label for item in truth.objects}
