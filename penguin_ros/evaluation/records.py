"""What an evaluation records as plain JSON values: its settings, every answer, and each memory over time."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeAlias

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from penguin_engine.scene.answer import Answer
from penguin_models.errors import PenguinError
from penguin_models.types import Frame, UInt8Array
from penguin_ros.evaluation.bags.node_parameters import node_settings
from penguin_ros.evaluation.question_file import ExpectedObject, Question
from penguin_ros.settings import NodeSettings

AnswerKey: TypeAlias = tuple[str, str, str]
"""Question, method and question key (see `question_key`)."""


class JsonRecord(BaseModel):
    """Base of everything stored in results: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ModelSpec(BaseModel, extra="forbid", frozen=True):
    """The model to load, and how."""

    path: str  # checkpoint folder, or owner/name on the model hub
    runtime: str = "torch"
    dtype: str | None = None  # type of the weights; None for what `open_runtime` chooses
    device: str = "cpu"  # for example "cpu" or "cuda:0"; "auto" uses CUDA if available
    threads: int = 0  # CPU threads per process; 0 for the library's default


class RunSettings(JsonRecord):
    """The settings, besides the model, that answers depend on. The token budget is the total over a bag's cameras."""

    methods: list[Literal["memory", "realtime", "last-4", "offline"]] = Field(default=["memory"], min_length=1)
    parameters: dict[str, bool | int | float | str] = {}  # of the node, where they differ from its defaults
    offline_fps: float = Field(default=1.0, gt=0)  # sampled frames per second of the offline baseline
    offline_max_frames: int = Field(default=180, ge=1)
    realtime_factor: float = Field(default=1.0, gt=0)  # method "realtime" multiplies durations of work by this

    def node(self, cameras: Sequence[str] = ("camera",)) -> NodeSettings:
        """Returns the node's settings for these cameras; raises PenguinError for a value that is out of range."""
        return node_settings(self.parameters, cameras)


class ObjectRecord(JsonRecord):
    """An object in an answer; its box is in thousandths of the image's width and height."""

    label: str
    box: tuple[int, int, int, int]


def _inside(file: str) -> str:
    path = PurePath(file)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".jpg":
        raise ValueError(f"{file[:200]!r} is not a .jpg file inside the folder of frames")
    return file


class FrameRecord(JsonRecord):
    """The newest frame available to an answer; boxes refer to it."""

    camera: str  # image topic
    stamp_ns: int  # capture stamp
    time_s: float  # capture time on the questions' clock
    width: int  # pixels
    height: int  # pixels
    # JPEG of the frame, relative to the folder `frames` next to the results
    file: Annotated[str, AfterValidator(_inside)]
    jpeg: bytes = Field(default=b"", exclude=True, repr=False)  # what the file will contain; empty once it is written


class AnswerRecord(JsonRecord):
    """One question answered by one method. Times are in seconds on the questions' clock."""

    question: str  # id
    method: str
    key: str  # hash of what was asked; a changed question is asked again
    time_s: float  # when it was asked
    raw: str = ""  # the model's output
    text: str = ""  # the output without box syntax
    objects: list[ObjectRecord] = []
    spans: list[tuple[float, float]] = []  # time ranges in the notation that the model is trained on
    start_s: float = 0.0  # time of the first frame in the prompt, from which times in free text count
    malformed: int = 0  # boxes and times that could not be parsed
    ended_by: str = ""  # "end", "stop" or "length"
    error: str | None = None  # why there is no answer; the question then counts as wrong
    frame: FrameRecord | None = None  # the newest frame available
    truth: dict[str, list[ExpectedObject]] = {}  # expected boxes in that frame, by bag topic
    frames: int = 0  # frames in the prompt
    keyframes: int = 0  # keyframes among them
    visual_tokens: int = 0
    prompt_tokens: int = 0  # including visual tokens
    generated_tokens: int = 0
    seconds: dict[str, float] = {}  # duration of each step
    waited_s: float = 0.0  # time before the work began; 0 except for method "realtime"
    joules: float | None = None  # energy of the answer; None if the machine cannot measure it

    @property
    def first_token_s(self) -> float:
        """Time from the question to the first token."""
        return self.total_s - self.seconds.get("decode", 0.0)

    @property
    def total_s(self) -> float:
        """Time from the question to the last token."""
        return self.waited_s + sum(self.seconds.values())


class Timeline(JsonRecord):
    """One camera's memory over time. Lists have one value per frame offered to the memory."""

    bag: str = ""  # name of the bag; empty until the results are complete
    camera: str  # image topic
    method: str  # "memory" or "realtime"
    token_budget: int  # of this camera
    time_s: list[float] = []  # capture time on the questions' clock
    kind: list[int] = []  # 0 keyframe, 1 intermediate frame, -1 late and dropped
    tokens: list[int] = []  # visual tokens in memory afterwards
    frames: list[int] = []  # frames in memory afterwards
    shrunk: list[int] = []  # frames that were shrunk to make room
    left: list[int] = []  # frames that were removed to make room
    seconds: list[float] = []  # work that the frame caused
    images: int = 0  # images in the bag up to the end of the replay
    dropped: int = 0  # frames that newer ones replaced before there was time to process them
    bad: int = 0  # images that could not be decoded
    last_error: str = ""  # the last decoding error
    unstamped: int = 0  # images without a stamp of their own


def question_key(question: Question) -> str:
    """Returns a hash of everything an answer depends on; the expected results are not part of it."""
    asked = question.model_dump(mode="json", exclude={"expected", "kind", "evidence_s"})
    return digest([asked, question.truth_topics])


def answer_key(question: Question, method: str) -> AnswerKey:
    """Returns the key of a method's answer to a question."""
    return question.id, method, question_key(question)


def digest(value: Any) -> str:
    """Returns a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def describe_error(error: PenguinError) -> str:
    """Returns the text of an error in a record."""
    return f"{type(error).__name__}: {error}"


def answer_fields(answer: Answer | PenguinError, start_ns: int) -> dict[str, Any]:
    """Returns the fields of an `AnswerRecord` that come from an answer; the questions' clock starts at `start_ns`."""
    if isinstance(answer, PenguinError):
        return {"error": describe_error(answer)}
    grounding, start_s = answer.grounding, (answer.start_ns - start_ns) * 1e-9
    return {
        "raw": answer.raw,
        "text": grounding.text,
        "objects": [
            ObjectRecord(label=o.label, box=(o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in grounding.objects
        ],
        "spans": [(span.start_s + start_s, span.end_s + start_s) for span in grounding.time_ranges],
        "start_s": start_s,
        "malformed": grounding.malformed,
        "ended_by": answer.ended_by,
        "frames": answer.frames,
        "keyframes": answer.keyframes,
        "visual_tokens": answer.visual_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": answer.generated_tokens,
        "seconds": dict(answer.seconds),
    }


def frame_record(bag: str, frame: Frame, start_ns: int) -> FrameRecord:
    """Returns the record of a frame; its file is named after bag, camera and stamp."""
    slug = re.sub(r"\W+", "-", frame.camera).strip("-")
    return FrameRecord(
        camera=frame.camera,
        stamp_ns=frame.stamp_ns,
        time_s=(frame.stamp_ns - start_ns) * 1e-9,
        width=frame.size.width,
        height=frame.size.height,
        file=f"{bag}/{slug}-{frame.stamp_ns}.jpg",
        jpeg=thumbnail(frame.rgb),
    )


def thumbnail(rgb: UInt8Array) -> bytes:
    """Returns an RGB image, uint8 [H, W, 3], as JPEG at most 640 pixels wide."""
    image = Image.fromarray(rgb)
    image.thumbnail((640, 2560))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=80)
    return file.getvalue()
