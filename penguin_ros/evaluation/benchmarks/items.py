"""One question of a benchmark, and the file that it is about; helpers that all readers share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from penguin_models.errors import EvaluationError, MediaError
from penguin_models.media import ClipFrame, VideoFile, load_image
from penguin_models.types import UInt8Array
from penguin_ros.evaluation.question_file import Expected, ExpectedChoice, ExpectedText

_ALL = 10**9
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".MP4")


@dataclass(frozen=True)
class Mark:
    """A text of a diagram that a letter replaces, at a rectangle (x1, y1, x2, y2) in pixels."""

    box: tuple[int, int, int, int]
    letter: str


@dataclass(frozen=True)
class ImageMedia:
    """An image file, perhaps with letters written over it."""

    path: Path
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class VideoMedia:
    """A video file, or the part of it between two times in seconds."""

    path: Path
    start_s: float = 0.0
    end_s: float = math.inf


@dataclass(frozen=True)
class FramesMedia:
    """A folder of frames taken at a rate, or the part between two times in seconds."""

    path: Path
    rate_hz: float
    start_s: float = 0.0
    end_s: float = math.inf


Media: TypeAlias = ImageMedia | VideoMedia | FramesMedia


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique in its benchmark.
        question: as the model gets it, with the suffix of the harness.
        expected: what is right.
        media: what it is about.
        group: category in the report.
    """

    id: str
    question: str
    expected: Expected
    media: Media
    group: str = ""


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises:
        EvaluationError: it is missing or broken.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise EvaluationError(f"{file} cannot be read: {err.strerror}") from err
    except ValueError as err:
        raise EvaluationError(f"{file} is no JSON: {err}") from err


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of several files that is in a folder or below it.

    Raises:
        EvaluationError: none is; they are listed.
    """
    for name in names:
        found = [folder / name] if (folder / name).is_file() else sorted(folder.rglob(name))
        if found:
            return found[0]
    raise EvaluationError(f"{folder} has none of {', '.join(names)}; give the folder of the benchmark's own files")


def find_media(folder: Path, name: str, below: Sequence[str], endings: Sequence[str] = ("",)) -> Path:
    """Where a media file is: below one of several folders, with one of several endings.

    Returns:
        The first place where something is; the first place to look where nothing is, so that it can be named.
    """
    places = [folder / parent / f"{name}{ending}" for parent in below for ending in endings]
    return next((place for place in places if place.exists()), places[0])


def field(item: Any, name: str, where: str) -> Any:
    """A field of an object of a benchmark's file.

    Raises:
        EvaluationError: it is not there.
    """
    if not isinstance(item, dict) or name not in item:
        raise EvaluationError(f"{where} has no field {name!r}: is this the benchmark's own format?")
    return item[name]


def entries(value: Any, where: str) -> Iterator[dict[str, Any]]:
    """The objects of a list in a benchmark's file.

    Raises:
        EvaluationError: it is no list of objects.
    """
    if not isinstance(value, list):
        raise EvaluationError(f"{where} holds {value!r:.40}, not a list: is this the benchmark's own format?")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise EvaluationError(f"{where}, entry {index} is {item!r:.40}, not an object")
        yield item


def members(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Names and values of an object in a benchmark's file.

    Raises:
        EvaluationError: it is none.
    """
    if not isinstance(value, dict):
        raise EvaluationError(f"{where} holds {value!r:.40}, not an object: is this the benchmark's own format?")
    yield from value.items()


def lettered(options: Sequence[str], style: str = "{letter}. {option}") -> str:
    """Options one beneath the other, with letters."""
    return "\n".join(style.format(letter=letter(i), option=option) for i, option in enumerate(options))


def letter(index: int) -> str:
    """ "A" for 0."""
    return chr(ord("A") + index)


def choice(options: Sequence[str], answer: int, where: str) -> ExpectedChoice:
    """A multiple-choice answer by its index.

    Raises:
        EvaluationError: there is no such option.
    """
    if not 0 <= answer < len(options) or len(options) < 2:
        raise EvaluationError(f"{where}: answer {answer} is none of {len(options)} options")
    return ExpectedChoice(options=[str(option) or " " for option in options], answer=letter(answer))


def words(answers: object, metric: str, where: str) -> ExpectedText:
    """An answer in words, one of several; an empty one is a blank.

    Raises:
        EvaluationError: they are no list, or there is none.
    """
    if not isinstance(answers, list):
        raise EvaluationError(f"{where}: answers are {answers!r}, they must be a list")
    if not answers:
        raise EvaluationError(f"{where} has no answer")
    return ExpectedText(accept=[str(answer) or " " for answer in answers], metric=metric)


def load_picture(media: ImageMedia) -> UInt8Array:
    """Pixels of an image, with its letters: uint8 [H, W, 3].

    Raises:
        MediaError: the file cannot be read.
    """
    rgb = load_image(media.path)
    if not media.marks:
        return rgb
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    for mark in media.marks:
        x1, y1, x2, y2 = mark.box
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), fill="white")
        font = ImageFont.load_default(size=max(10, abs(y2 - y1)))
        draw.text(((x1 + x2) / 2, (y1 + y2) / 2), mark.letter, fill="black", font=font, anchor="mm")
    return np.asarray(image)


class MediaClip:
    """A video, or frames in a folder, as a `Clip`: sampled at a rate, and evenly where there would be too many."""

    def __init__(self, media: VideoMedia | FramesMedia, fps: float, max_frames: int):
        """Counts the frames where only a part is wanted.

        Raises:
            MediaError: the video cannot be read, or has no frame in this part.
        """
        self._media, self._fps = media, fps
        self.last: UInt8Array | None = None
        self.last_s = 0.0
        whole = isinstance(media, VideoMedia) and media.start_s == 0 and media.end_s == math.inf
        self._video = VideoFile(media.path, fps, max_frames) if whole else None
        self._kept: set[int] | None = None
        if not whole:
            count = sum(1 for _ in self._part())
            if count == 0:
                raise MediaError(f"{media.path} has no frames from {media.start_s} to {media.end_s} s")
            self._kept = {*np.linspace(0, count - 1, min(count, max_frames), dtype=int).tolist()}

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yields the frames; times count from the beginning of the part."""
        for index, frame in enumerate(self._video or self._part()):
            if self._kept is None or index in self._kept:
                self.last, self.last_s = frame.rgb, frame.time_s
                yield frame

    def _part(self) -> Iterator[ClipFrame]:
        media = self._media
        for time_s, rgb in self._frames():
            if time_s > media.end_s:
                return
            if time_s >= media.start_s:
                yield ClipFrame(time_s - media.start_s, rgb)

    def _frames(self) -> Iterator[ClipFrame]:
        media = self._media
        if isinstance(media, VideoMedia):
            yield from VideoFile(media.path, self._fps, _ALL)
            return
        files = sorted(file for file in media.path.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        slot = -1
        for index, file in enumerate(files):
            time_s = index / media.rate_hz
            if math.floor(time_s * self._fps) > slot:  # the first frame of each span
                slot = math.floor(time_s * self._fps)
                yield ClipFrame(time_s, load_image(file))
