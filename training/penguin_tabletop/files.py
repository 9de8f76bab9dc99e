"""Writes samples to files; an interrupted run continues where it stopped.

    DIR/annotations.jsonl   one conversation a line: id, image or video (lists of paths), conversations, expected
    DIR/scenes.jsonl        the ground truth of each: objects, relations, counts, events, seeds
    DIR/settings.json       settings of the samples; a run continues only with the same ones
    DIR/images  DIR/clips  DIR/masks

A file gets its name once it is complete; a sample gets its lines once all its files are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from PIL import Image

from penguin_models.errors import TabletopError
from penguin_models.types import UInt8Array
from penguin_tabletop.dataset import TabletopDataset, TabletopSettings
from penguin_tabletop.samples import CLASSES, Sample

_LINE_FILES = ("annotations.jsonl", "scenes.jsonl")
_SAMPLES_PER_TASK = 4
_JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WriterSettings:
    """How samples are written."""

    samples: TabletopSettings
    images: Literal["jpg", "png"] = "jpg"  # format of images and frames
    clips: Literal["frames", "mp4"] = "frames"  # folders of frames, or MP4 files
    masks: bool = False  # also write the class of every pixel as PNG

    def __post_init__(self) -> None:
        height, width = self.samples.size
        if self.clips == "mp4" and (width % 2 or height % 2):
            raise TabletopError(f"MP4 needs an even width and height, not {width}x{height}; or write frames")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self) | {"samples": self.samples.to_dict(), "classes": CLASSES if self.masks else []}


def write(
    out: Path, settings: WriterSettings, count: int, jobs: int = 1, on_progress: Progress = lambda done, total: None
) -> None:
    """Writes samples 0 to `count`, except those already there.

    Args:
        out: Folder; created if it does not exist.
        settings: What to write.
        count: Number of samples.
        jobs: Number of processes.
        on_progress: Called with the number of samples written and the total.

    Raises:
        TabletopError: A number is out of range, or the folder holds samples of other settings.
    """
    if count < 1 or jobs < 1:
        raise TabletopError(f"scenes {count} and jobs {jobs} must be at least 1")
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
    """Creates the folders and removes half-written files; refuses a folder that holds something else."""
    file, wanted = out / "settings.json", json.dumps(settings.to_dict(), indent=1)
    if file.is_file() and file.read_text() != wanted:
        raise TabletopError(f"{out} holds samples of other settings (see settings.json there); choose another folder")
    if not file.is_file() and out.is_dir() and any(out.iterdir()):
        raise TabletopError(f"{out} is not empty and holds no settings.json; choose a new folder")
    for name in ("images", "clips", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
        for leftover in (out / name).glob(".*.part"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    with _complete(file) as part:
        part.write_text(wanted)


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


def _write_samples(out: Path, settings: WriterSettings, numbers: range, jobs: int) -> Iterator[tuple[str, str]]:
    """Writes the media of samples, in this process or in several; yields their lines in order."""
    if jobs == 1:
        dataset = TabletopDataset(settings.samples)
        for number in numbers:
            yield _write_sample(out, settings, dataset, number)
        dataset.close()
        return
    # Each process gets one core.
    with ProcessPoolExecutor(jobs, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        try:
            yield from pool.map(partial(_write_in_worker, out, settings), numbers, chunksize=_SAMPLES_PER_TASK)
        finally:
            pool.shutdown(cancel_futures=True)


def _write_in_worker(out: Path, settings: WriterSettings, number: int) -> tuple[str, str]:
    return _write_sample(out, settings, _worker_dataset(settings.samples), number)


@lru_cache(maxsize=1)
def _worker_dataset(settings: TabletopSettings) -> TabletopDataset:
    """Returns the data set of a worker process, whose renderer lives as long as the process."""
    return TabletopDataset(settings)


def _write_sample(out: Path, settings: WriterSettings, dataset: TabletopDataset, number: int) -> tuple[str, str]:
    """Writes the media of a sample; returns its lines of the annotation file and of the scene file."""
    sample = dataset[number]
    media = _write_media(out, settings, sample)
    return json.dumps({"id": sample.id} | media | sample.annotation()), json.dumps(sample.truth() | media)


def _write_media(out: Path, settings: WriterSettings, sample: Sample) -> dict[str, list[str]]:
    """Writes the pictures, clips and masks of a sample; returns their paths relative to the folder."""
    media: dict[str, list[str]] = {}
    if sample.family == "clip" and settings.clips == "mp4":
        media["video"] = [f"clips/{sample.id}.mp4"]
        _write_mp4(out / media["video"][0], sample.frames, settings.samples.fps)
    elif sample.family == "clip":
        media["video"] = [f"clips/{sample.id}"]
        _write_frames(out / media["video"][0], sample.frames, sample.stamps_s, settings.images)
    elif sample.frames:
        media["image"] = _write_images(out, f"images/{sample.id}", sample.frames, settings.images)
    if settings.masks and sample.classes:
        media["masks"] = _write_images(out, f"masks/{sample.id}", sample.classes, "png")
    return media


def _write_images(out: Path, stem: str, images: Sequence[UInt8Array], ending: str) -> list[str]:
    numbers = [""] if len(images) == 1 else [f"-{number:03d}" for number in range(len(images))]
    paths = [f"{stem}{number}.{ending}" for number in numbers]
    for path, image in zip(paths, images, strict=True):
        _write_image(out / path, image)
    return paths


def _write_image(path: Path, rgb: UInt8Array) -> None:
    with _complete(path) as part:
        Image.fromarray(rgb).save(part, **(_JPEG if path.suffix == ".jpg" else {"format": "PNG"}))


def _write_frames(folder: Path, frames: Sequence[UInt8Array], stamps_s: Sequence[float], ending: str) -> None:
    """Writes a clip as a folder of images, each named for its time in milliseconds."""
    part = _partial(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for frame, stamp_s in zip(frames, stamps_s, strict=True):
        _write_image(part / f"{round(stamp_s * 1000):08d}.{ending}", frame)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _write_mp4(path: Path, frames: Sequence[UInt8Array], fps: float) -> None:
    with _complete(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "threads": "1"}
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """Yields a temporary path whose file gets its name once the block has succeeded."""
    yield _partial(path)
    _partial(path).replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
