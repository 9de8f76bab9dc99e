"""Writes samples to files; an interrupted run continues where it stopped.

    DIR/annotations.jsonl   one conversation a line: id, image or video (lists of paths), conversations, expected
    DIR/scenes.jsonl        the ground truth of each: objects, relations, counts, events, seeds
    DIR/settings.json       settings of the samples; a run continues only with the same ones
    DIR/images  DIR/clips  DIR/masks

The lines of a sample are written after its pictures, and the files of lines get their names at the end. Pictures
without a line are those of an interrupted run, which writes them again when it continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import cv2
from PIL import Image

from penguin_models.atomic_write import atomic_write, writing
from penguin_models.errors import TabletopError
from penguin_models.types import UInt8Array
from penguin_tabletop.dataset import CLASSES, Sample, TabletopDataset, TabletopSettings

_LINE_FILES = ("annotations.jsonl", "scenes.jsonl")
_SAMPLES_PER_TASK = 4
Progress = Callable[[int, int], None]
_dataset = lru_cache(maxsize=1)(TabletopDataset)  # one renderer in each process


@dataclass(frozen=True)
class WriterSettings:
    """How samples are written."""

    samples: TabletopSettings
    images: Literal["jpg", "png"] = "jpg"  # format of images and frames
    masks: bool = False  # also write the class of every pixel as PNG

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        samples = asdict(self.samples) | {"split": self.samples.split.name.lower()}
        return asdict(self) | {"samples": samples, "classes": CLASSES if self.masks else []}


def write(
    out: Path, settings: WriterSettings, count: int, jobs: int = 1, on_progress: Progress = lambda done, total: None
) -> None:
    """Writes samples 0 to `count`, except those already there, in `jobs` processes.

    `on_progress` is called with the number of samples written and the total. Raises TabletopError if the folder holds
    something else, such as samples of other settings, and WriteError if the disk is full; a later run continues.
    """
    with writing(out):
        _write(out, settings, count, jobs, on_progress)


def _write(out: Path, settings: WriterSettings, count: int, jobs: int, on_progress: Progress) -> None:
    _prepare(out, settings)
    annotations, scenes = (_partial(out / name) for name in _LINE_FILES)
    done = _resume(out, count)
    on_progress(done, count)
    # Line buffering: a sample counts as done once both of its lines are complete.
    with annotations.open("a", buffering=1) as annotation_file, scenes.open("a", buffering=1) as scene_file:
        for annotation, scene in _write_samples(out, settings, range(done, count), jobs):
            annotation_file.write(f"{annotation}\n")
            scene_file.write(f"{scene}\n")
            done += 1
            on_progress(done, count)
    for name in _LINE_FILES:
        _partial(out / name).replace(out / name)


def _prepare(out: Path, settings: WriterSettings) -> None:
    """Writes the settings and creates the folders; refuses a folder that holds something else."""
    file, wanted = out / "settings.json", json.dumps(settings.to_dict(), indent=1)
    if not file.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise TabletopError(f"{out} is not empty and holds no settings.json; choose a new folder")
        with atomic_write(file) as settings_file:
            settings_file.write(wanted)
    elif file.read_text() != wanted:
        raise TabletopError(f"{out} holds samples of other settings (see settings.json there); choose another folder")
    for name in ("images", "clips", "masks"):
        (out / name).mkdir(exist_ok=True)


def _resume(out: Path, count: int) -> int:
    """Turns the lines of an earlier run, finished or not, into partial files; returns the number of samples done."""
    done = count
    for name in _LINE_FILES:
        if (out / name).is_file():
            (out / name).replace(_partial(out / name))
        with _partial(out / name).open("ab+") as file:
            file.seek(0)
            done = min(done, sum(line.endswith(b"\n") for line in file))
    for name in _LINE_FILES:
        with _partial(out / name).open("rb+") as file:
            file.truncate(sum(len(line) for line in islice(file, done)))
    return done


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_samples(out: Path, settings: WriterSettings, numbers: range, jobs: int) -> Iterator[tuple[str, str]]:
    """Writes the media of samples, in this process or in several; yields their lines in order."""
    write_sample = partial(_write_sample, out, settings)
    if jobs == 1:
        yield from map(write_sample, numbers)
        return
    # Each process gets one core.
    with ProcessPoolExecutor(jobs, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        try:
            yield from pool.map(write_sample, numbers, chunksize=_SAMPLES_PER_TASK)
        finally:
            pool.shutdown(cancel_futures=True)


def _write_sample(out: Path, settings: WriterSettings, number: int) -> tuple[str, str]:
    """Writes the pictures and masks of a sample; returns its lines of the annotation file and of the scene file."""
    sample = _dataset(settings.samples)[number]
    media: dict[str, list[str]] = {}
    if sample.family == "clip":
        media["video"] = [f"clips/{sample.id}"]
        names = [f"{round(stamp_s * 1000):08d}" for stamp_s in sample.stamps_s]
        _write_images(out, [f"clips/{sample.id}/{name}.{settings.images}" for name in names], sample.frames)
    elif sample.frames:
        media["image"] = _write_images(out, _paths("images", sample, settings.images), sample.frames)
    if settings.masks and sample.classes:
        media["masks"] = _write_images(out, _paths("masks", sample, "png"), sample.classes)
    return json.dumps({"id": sample.id} | media | sample.annotation()), json.dumps(sample.truth() | media)


def _paths(folder: str, sample: Sample, ending: str) -> list[str]:
    """Returns a path for each picture of a sample, relative to the output folder."""
    count = len(sample.frames)
    numbers = [""] if count == 1 else [f"-{number:03d}" for number in range(count)]
    return [f"{folder}/{sample.id}{number}.{ending}" for number in numbers]


def _write_images(out: Path, paths: list[str], images: Sequence[UInt8Array]) -> list[str]:
    (out / paths[0]).parent.mkdir(exist_ok=True)
    for path, pixels in zip(paths, images, strict=True):
        with writing(out / path):  # PNG ignores the settings of JPEG
            Image.fromarray(pixels).save(out / path, quality=92, subsampling=0)
    return paths
