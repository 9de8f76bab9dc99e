"""What is kept of an evaluation while it runs: answers, and what happened to the memories. Plain values, as JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from penguin_engine.scene.answer import Answer
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Frame, Size
from penguin_ros.evaluation.bags.node_parameters import node_settings
from penguin_ros.evaluation.metrics.scoring import Prediction
from penguin_ros.evaluation.question_file import ExpectedObject, Question
from penguin_ros.settings import NodeSettings

METHODS = {
    "memory": "the node's memory, every frame seen",
    "realtime": "the node's memory, frames dropped as this machine would drop them",
    "last-4": "only the last four frames",
    "offline": "the released offline procedure",
    "file": "questions about files",
}
"""Ways of answering that can be compared in one run, and what they are."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelSpec(_Record):
    """Which model runs, and where.

    Attributes:
        path: checkpoint folder, or owner/name on the model hub.
        runtime: what runs it.
        dtype: type of the weights; as stored if None.
        device: for example "cpu" or "cuda:0"; "auto" takes cuda where there is one.
        threads: of the CPU in each process; 0 for the library's choice.
    """

    path: str
    runtime: str = "torch"
    dtype: str | None = None
    device: str = "cpu"
    threads: int = 0


class RunSettings(_Record):
    """What answers depend on, besides the model.

    Attributes:
        methods: ways of answering.
        parameters: of the node, see parameters.py; those not given have the node's defaults. The budget of visual
            tokens is in total, shared evenly by a bag's cameras, and also that of the baselines.
        offline_fps: frames a second of the offline baseline.
        offline_max_frames: most frames of the offline baseline.
        realtime_factor: in method "realtime", work takes so many times as long as it was measured here.
    """

    methods: list[Literal["memory", "realtime", "last-4", "offline"]] = Field(default=["memory"], min_length=1)
    parameters: dict[str, bool | int | float | str] = {}
    offline_fps: float = Field(default=1.0, gt=0)
    offline_max_frames: int = Field(default=180, ge=1)
    realtime_factor: float = Field(default=1.0, gt=0)

    def node(self, cameras: Sequence[str] = ("camera",)) -> NodeSettings:
        """The node's settings for these cameras.

        Raises:
            PenguinError: a value is out of range, or the budget is too small for so many cameras.
        """
        return node_settings(self.parameters, cameras)

    def words(self) -> str:
        """For people."""
        node = self.node()
        rate = f"{node['sample_rate_hz']:g}" if node["sample_rate_hz"] else "all"
        named = ("token_budget", "sample_rate_hz", "keyframe.policy")
        others = [f"{name} {value}" for name, value in self.parameters.items() if name not in named]
        budget, policy = node["token_budget"], node["keyframe.policy"]
        return ", ".join([f"{budget} visual tokens", f"{rate} frames a second", f"{policy} key frames", *others])


class FileSettings(_Record):
    """What answers about files depend on, besides the model.

    Attributes:
        methods: the only way of answering.
        fps: sampled frames per second of video.
        max_frames: most frames of a video.
        max_tokens: budget of visual tokens; the checkpoint's if None.
        size_rule: "strict" (never above native size or budget) or "reference" (as released).
        max_new_tokens: longest answer.
    """

    methods: list[Literal["file"]] = ["file"]
    fps: float = Field(default=1.0, gt=0)
    max_frames: int = Field(default=180, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    size_rule: Literal["strict", "reference"] = "strict"
    max_new_tokens: int = Field(default=32, ge=1)

    def words(self) -> str:
        """For people."""
        budget = f"{self.max_tokens} visual tokens" if self.max_tokens else "the checkpoint's budget"
        return f"{budget}, {self.size_rule} sizes, {self.fps:g} frames a second, at most {self.max_frames}"


class ObjectRecord(_Record):
    """An object that an answer points at; its box in thousandths of the image's width and height."""

    label: str
    box: tuple[int, int, int, int]


class FrameRecord(_Record):
    """The newest frame that an answer knew; boxes refer to it.

    Attributes:
        camera: its topic.
        stamp_ns: of capture.
        time_s: on the clock of the questions.
        width: in pixels.
        height: in pixels.
        file: its picture in the folder `frames` beside the results, below the name of its bag.
    """

    camera: str
    stamp_ns: int
    time_s: float
    width: int
    height: int
    file: str


class AnswerRecord(_Record):
    """One question, answered in one way.

    Attributes:
        question: its id.
        method: how it was answered.
        key: hash of what was asked, so that a question that has changed is asked again.
        time_s: when it was asked, on the clock of the questions.
        raw: as the model wrote it.
        text: without box syntax.
        objects: what it points at.
        spans: times that it gives as the model was trained to write them, in seconds on the clock of the questions.
        start_s: first frame that it looked at, on the same clock; times in its words count from there.
        malformed: boxes and times that could not be read.
        ended_by: "end", "stop" or "length".
        error: why there is no answer; such a question counts as wrong.
        frame: the newest frame that it knew.
        truth: boxes expected in that frame, by topic of the bag.
        frames: frames that the model looked at.
        key_frames: of them, key frames.
        visual_tokens: what they cost.
        prompt_tokens: all tokens before the answer.
        generated_tokens: tokens of the answer.
        seconds: of the steps of the work.
        waited_s: until the work began; 0 but in method "realtime".
        joules: energy of the answer, where the machine measures it.
    """

    question: str
    method: str
    key: str
    time_s: float
    raw: str = ""
    text: str = ""
    objects: list[ObjectRecord] = []
    spans: list[tuple[float, float]] = []
    start_s: float = 0.0
    malformed: int = 0
    ended_by: str = ""
    error: str | None = None
    frame: FrameRecord | None = None
    truth: dict[str, list[ExpectedObject]] = {}
    frames: int = 0
    key_frames: int = 0
    visual_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: dict[str, float] = {}
    waited_s: float = 0.0
    joules: float | None = None

    @property
    def first_token_s(self) -> float:
        """From the question to the first token."""
        return self.total_s - self.seconds.get("decode", 0.0)

    @property
    def total_s(self) -> float:
        """From the question to the last token."""
        return self.waited_s + sum(self.seconds.values())

    def prediction(self) -> Prediction:
        """What scoring needs of it."""
        size = None if self.frame is None else Size(self.frame.height, self.frame.width)
        objects = tuple(GroundedObject(item.label, Box(*item.box)) for item in self.objects)
        return Prediction(self.text, objects, tuple(self.spans), size)


class Timeline(_Record):
    """What happened to one camera's memory, a value for each frame that was taken.

    Attributes:
        camera: its topic.
        method: "memory" or "realtime".
        token_budget: of this camera.
        time_s: on the clock of the questions.
        kind: 0 key frame, 1 context frame, -1 late and dropped.
        tokens: visual tokens held afterwards.
        frames: frames held afterwards.
        shrunk: frames that shrank to make room.
        left: frames that left to make room.
        seconds: work that the frame caused.
        images: images in the bag up to the end of the replay.
        dropped: frames replaced by newer ones before there was time.
        bad: images that could not be decoded.
        last_error: why the last of them could not.
        unstamped: images without a stamp of their own.
    """

    camera: str
    method: str
    token_budget: int
    time_s: list[float] = []
    kind: list[int] = []
    tokens: list[int] = []
    frames: list[int] = []
    shrunk: list[int] = []
    left: list[int] = []
    seconds: list[float] = []
    images: int = 0
    dropped: int = 0
    bad: int = 0
    last_error: str = ""
    unstamped: int = 0


def question_key(question: Question) -> str:
    """Hash of what an answer depends on; not of what is expected of it."""
    asked = question.model_dump(mode="json", exclude={"expected", "kind", "evidence_s"})
    topics = [item.topic for item in question.expected if item.type == "objects" and item.topic]
    return digest([asked, topics])


def digest(value: Any) -> str:
    """Short hash of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def answer_fields(answer: Answer, start_ns: int) -> dict[str, Any]:
    """Fields of a record that come from an answer.

    Args:
        answer: times in it count from its first frame.
        start_ns: where the clock of the questions begins.
    """
    start_s = (answer.start_ns - start_ns) * 1e-9
    objects = [(o.label, (o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in answer.grounding.objects]
    return {
        "raw": answer.raw,
        "text": answer.grounding.text,
        "objects": [ObjectRecord(label=label, box=box) for label, box in objects],
        "spans": [(span.start_s + start_s, span.end_s + start_s) for span in answer.grounding.time_ranges],
        "start_s": start_s,
        "malformed": answer.grounding.malformed,
        "ended_by": answer.ended_by,
        "frames": answer.frames,
        "key_frames": answer.key_frames,
        "visual_tokens": answer.visual_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": answer.generated_tokens,
        "seconds": dict(answer.seconds),
    }


def frame_record(bag: str, frame: Frame, start_ns: int) -> FrameRecord:
    """A frame of a bag on the clock of the questions; its file is named by bag, camera and stamp."""
    slug = re.sub(r"\W+", "-", frame.camera).strip("-")
    return FrameRecord(
        camera=frame.camera,
        stamp_ns=frame.stamp_ns,
        time_s=(frame.stamp_ns - start_ns) * 1e-9,
        width=frame.size.width,
        height=frame.size.height,
        file=f"{bag}/{slug}-{frame.stamp_ns}.jpg",
    )
