"""The settings of a stage's data: which samples are read, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from penguin_tabletop.clips.timeline import MAX_RECORDING_S, MIN_RECORDING_S
from penguin_training.settings.field_types import (
    CONFIG,
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

_RANGE = Field(min_length=2, max_length=2)
SceneFamily = Literal["image", "pair", "clip", "chart", "text", "recall", "shown", "judge"]
RECORDINGS: tuple[SceneFamily, ...] = ("recall", "shown", "judge")


@dataclass(frozen=True, config=CONFIG)
class TabletopScenes:
    """Scenes of the simulated table-top, rendered while they are read, from seeds of the training split."""

    scenes: PositiveInt  # Number of scenes in an epoch
    seed: NonNegativeInt = 0  # Selects another set of scenes
    # Weight of each family; families that are left out get 0. None for the table-top's default mixture. "recall",
    # "shown" and "judge" are recordings, see recall_scenes.py, and need `memory`.
    mixture: dict[SceneFamily, NonNegativeFloat] | None = None
    turns: PositiveInt = 4  # Maximum number of questions about the same images
    # Maximum number of conditions about what is in view now, to be judged with yes or no, besides the turns
    conditions: NonNegativeInt = 0
    # Shortest and longest recording of the family "recall", in seconds; drawn with equal probability per octave
    seconds: Annotated[list[PositiveFloat], _RANGE] = Field(default_factory=lambda: [10.0, 90.0])

    def __post_init__(self) -> None:
        shortest, longest = self.seconds
        if not MIN_RECORDING_S <= shortest <= longest <= MAX_RECORDING_S:
            raise ValueError(
                f"seconds {self.seconds} must be [shortest, longest] from {MIN_RECORDING_S:g} to {MAX_RECORDING_S:g}"
            )

    @property
    def has_recordings(self) -> bool:
        """Whether there are recordings among them."""
        return any((self.mixture or {}).get(family) for family in RECORDINGS)


@dataclass(frozen=True, config=CONFIG)
class DataFile:
    """One annotation file, or scenes in its place."""

    # JSON or JSONL file, relative to the data's root; with `streamed` also a hub data set or a URL
    path: Name | None = None
    tabletop: TabletopScenes | None = None  # Rendered samples instead of a path; needs `streamed`
    # How often an epoch shows each sample; a fraction shows a different part of them each epoch
    repeat: PositiveFloat = 1.0
    # Uses only samples whose fields have one of these values, for example `{family: [image, pair]}`
    only: dict[Name, list[str]] = Field(default_factory=dict)
    conversations: bool = True  # False ignores the conversations and learns from the images by reconstruction alone

    def __post_init__(self) -> None:
        if (self.path is None) == (self.tabletop is None):
            raise ValueError("give exactly one of path and tabletop")
        if self.tabletop and (self.only or not self.conversations):
            raise ValueError("tabletop does not support only and conversations; choose families with its mixture")

    @property
    def name(self) -> str:
        """Name of the file in messages."""
        return self.path or "tabletop"


@dataclass(frozen=True, config=CONFIG)
class MemorySettings:
    """Shows clips as a robot's memory holds them when a question comes, instead of whole.

    Frames go through the memory of the runtime, one after the other, and what it holds after the last one is shown. The
    values of each sample are drawn at random from these ranges, [lowest, highest], and lists; they depend on the
    sample's id and `engine.seed` only.
    """

    token_budget: Annotated[list[PositiveInt], _RANGE]  # Visual tokens that the memory holds at most
    rate_hz: Annotated[list[PositiveFloat], _RANGE]  # Frames per second that reach it, at most those of the clip
    # Policies that label keyframes
    policies: Annotated[list[Literal["novelty", "reference"]], Field(min_length=1)]
    # How frames arrive, see the node's parameter `memory.arrival`
    arrivals: Annotated[list[Literal["full_size", "by_kind"]], Field(min_length=1)]
    # Shorter side of the camera's images in pixels, to which the frames are resized first; None leaves them as they are
    side: Annotated[list[PositiveInt], _RANGE] | None = None

    def __post_init__(self) -> None:
        for name in ("token_budget", "rate_hz", "side"):
            span = getattr(self, name)
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name} {span} must be [lowest, highest]")


@dataclass(frozen=True, config=CONFIG)
class DataSettings:
    """What is read, and how."""

    files: Annotated[list[DataFile], Field(min_length=1)]  # Annotation files
    # Folder that paths in the settings and in annotations are relative to. If None, annotation files are relative to
    # the working directory and the paths in them to their own folder (paths in URLs and hub data sets to the working
    # directory).
    root: Name | None = None
    streamed: bool = False  # Reads the files as a stream (`datasets`), in their own order and without a length index
    block: PositiveInt = 1024  # Number of streamed samples that are packed together
    fps: PositiveFloat = 1.0  # Frames per second sampled from a video
    max_frames: PositiveInt = 180  # Maximum number of frames of a video; longer ones are sampled uniformly
    max_image_pixels: PositiveInt = 50_000_000  # An image or frame with more pixels cannot be used
    keyframe_policy: Literal["novelty", "reference"] = "novelty"  # Policy that labels keyframes
    memory: MemorySettings | None = None  # Shows clips as a robot's memory holds them; None for whole clips
    sizes: Literal["strict", "reference"] = "strict"  # Rule that allocates visual tokens, as at inference
    # "answers", or "all" for every text token (for a language model trained from scratch)
    train_on: Literal["answers", "all"] = "answers"
    # Each token of an n-token answer has the weight n ** -answer_balance in the cross-entropy. At 0 all tokens have the
    # same weight (released code), and long answers dominate; at 1 all answers have the same weight. A `text` sample
    # counts as one answer. Needs train_on "answers".
    answer_balance: Fraction = 0.0
    workers: NonNegativeInt = 2  # Number of processes that decode and patch; 0 does it in the training process
    max_bad_share: Fraction = 0.01  # The run stops when more than this fraction of the samples cannot be used

    def __post_init__(self) -> None:
        if not self.streamed and any(file.tabletop for file in self.files):
            raise ValueError("tabletop scenes are rendered while they are read and cannot be indexed; set streamed")
        if self.streamed and (repeated := [file for file in self.files if file.repeat != 1]):
            raise ValueError(
                f"a stream cannot repeat {repeated[0].name} {repeated[0].repeat:g} times; set its repeat to 1"
            )
        if self.memory is None and any(file.tabletop and file.tabletop.has_recordings for file in self.files):
            raise ValueError(f"the families {', '.join(RECORDINGS)} need memory, from which their sizes are drawn")
        if self.answer_balance and self.train_on == "all":
            raise ValueError("answer_balance needs train_on answers; set it to 0")
