"""The settings of a stage's data: which files or scenes, and how they are read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from penguin_training.settings.types import STRICT, Above, Name, Number, Positive, Share, Whole


@dataclass(frozen=True, config=STRICT)
class TabletopScenes:
    """Scenes of the simulated table-top that are rendered while they are read, from seeds of the training split.

    Attributes:
        scenes: of a pass.
        seed: a family of scenes of its own.
        mixture: weights of the families; those that are not named get none. The table-top's own if not given.
        turns: most questions about the same pictures.
    """

    scenes: Positive
    seed: Whole = 0
    mixture: dict[Literal["image", "pair", "clip", "chart", "text"], Number] | None = None
    turns: Positive = 4


@dataclass(frozen=True, config=STRICT)
class DataFile:
    """One annotation file, or scenes in place of it.

    Attributes:
        path: JSON or JSONL, relative to the data's root; with `streamed` also a hub data set or a URL.
        tabletop: instead of a path, with `streamed`: samples without files.
        repeat: how often an epoch shows each sample; a fraction shows a part of them, another part each epoch.
        only: take only samples in which these fields have one of these values, for example `{family: [image, pair]}`.
        conversations: false leaves them out: the pictures are learnt from by reconstruction alone.
    """

    path: Name | None = None
    tabletop: TabletopScenes | None = None
    repeat: Above = 1.0
    only: dict[Name, list[str]] = Field(default_factory=dict)
    conversations: bool = True

    def __post_init__(self) -> None:
        if (self.path is None) == (self.tabletop is None):
            raise ValueError("exactly one of path and tabletop must be given")
        if self.tabletop and (self.only or not self.conversations):
            raise ValueError("tabletop has no use for only and conversations: choose families in its mixture")

    @property
    def name(self) -> str:
        """For messages."""
        return self.path or "tabletop"


@dataclass(frozen=True, config=STRICT)
class DataSettings:
    """What is read, and how.

    Attributes:
        files: annotation files.
        root: folder that paths in the settings and in annotations are relative to; if not given, annotation files
            are relative to the working directory and what they name to their own folder (what URLs and hub data sets
            name to the working directory).
        streamed: read the files as a stream (`datasets`), without a length index, in the order that they have.
        block: samples of a stream that are packed together.
        fps: frames per second that are taken of a video.
        max_frames: where a video has more, so many are taken evenly.
        key_frames: policy that labels the frames of a video.
        sizes: rule that allots visual tokens, as at inference.
        train_on: "answers", or "all" for every token of text (a language model that starts from nothing).
        answer_balance: a token of an answer of n tokens weighs n ** -answer_balance in the cross-entropy. At 0 all
            tokens weigh alike (released code), and long answers drown short ones; at 1 all answers weigh alike. A text
            that is learnt as a whole is one answer. Only with train_on "answers".
        workers: processes that decode and patch; 0 does it in the training process.
        max_bad_share: the run stops when more than this share of the samples read cannot be used.
    """

    files: Annotated[list[DataFile], Field(min_length=1)]
    root: Name | None = None
    streamed: bool = False
    block: Positive = 1024
    fps: Above = 1.0
    max_frames: Positive = 180
    key_frames: Literal["novelty", "reference"] = "novelty"
    sizes: Literal["strict", "reference"] = "strict"
    train_on: Literal["answers", "all"] = "answers"
    answer_balance: Share = 0.0
    workers: Whole = 2
    max_bad_share: Share = 0.01

    def __post_init__(self) -> None:
        if not self.streamed and any(file.tabletop for file in self.files):
            raise ValueError("tabletop renders while it is read, which no length index can measure: set streamed")
        if self.answer_balance and self.train_on == "all":
            raise ValueError("answer_balance weighs answers, and with train_on all there are none: leave it 0")
