"""Writes samples as an annotation file with its images, clips and masks; a run that was stopped goes on.

    DIR/annotations.jsonl   one conversation a line: id, image or video (lists of paths), conversations, expected
    DIR/scenes.jsonl        what is true of each: objects, relations, counts, events, seeds
    DIR/settings.json       what the samples are like; a run goes on only with the same
    DIR/images  DIR/clips  DIR/masks
    DIR/parts               finished pieces of the two files, a block of samples each

Nothing is ever half written: files get their names when they are complete, a block its part when all its files are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import cv2

from penguin_models.errors import TabletopError
from penguin_models.types import UInt8Array
from penguin_tabletop.clip_files import check_mp4_size, save_frames, save_image, save_mp4
from penguin_tabletop.dataset import TabletopDataset, TabletopSettings
from penguin_tabletop.samples import CLASSES, Sample

BLOCK = 64
"""Samples a part."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WriterSettings:
    """How samples are written.

    Attributes:
        samples: what they are like.
        images: format of images and of frames.
        clips: as folders of frames, or as MP4.
        masks: also write the class of every pixel, as PNG.
    """

    samples: TabletopSettings
    images: Literal["jpg", "png"] = "jpg"
    clips: Literal["frames", "mp4"] = "frames"
    masks: bool = False

    def __post_init__(self) -> None:
        if self.clips == "mp4":
            check_mp4_size(self.samples.size)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "samples": self.samples.to_dict(),
            "images": self.images,
            "clips": self.clips,
            "masks": self.masks,
            "classes": list(CLASSES) if self.masks else [],
        }


def write(
    out: Path, settings: WriterSettings, count: int, jobs: int = 1, on_progress: Progress = lambda done, total: None
) -> None:
    """Writes samples 0 to `count`, or those of them that are still missing.

    Args:
        out: folder; made if it is not there.
        settings: what to write.
        count: samples.
        jobs: processes.
        on_progress: is told how many samples are there, of how many.

    Raises:
        TabletopError: a number that makes no sense, or the folder holds samples of other settings.
    """
    if count < 1 or jobs < 1:
        raise TabletopError(f"scenes {count} and jobs {jobs} must be at least 1")
    _prepare(out, settings)
    blocks = [(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    missing = [block for block in blocks if not _part(out, *block).is_file()]
    done = count - sum(end - start for start, end in missing)
    on_progress(done, count)
    for start, end in _write_blocks(out, settings, missing, jobs):
        done += end - start
        on_progress(done, count)
    _join(out, blocks)


def _write_blocks(
    out: Path, settings: WriterSettings, blocks: list[tuple[int, int]], jobs: int
) -> Iterator[tuple[int, int]]:
    """Writes blocks, in this process or in several; yields each as it is done."""
    if jobs == 1 or len(blocks) < 2:
        dataset = TabletopDataset(settings.samples)
        for block in blocks:
            write_block(out, settings, dataset, *block)
            yield block
        dataset.close()
        return
    with ProcessPoolExecutor(min(jobs, len(blocks)), get_context("spawn"), _start_worker) as pool:
        waiting = {pool.submit(_write_in_worker, out, settings, *block): block for block in blocks}
        try:
            for future in as_completed(waiting):
                future.result()
                yield waiting[future]
        finally:
            pool.shutdown(cancel_futures=True)


def write_block(out: Path, settings: WriterSettings, dataset: TabletopDataset, start: int, end: int) -> None:
    """Writes the samples of a block, and then its part."""
    annotations, scenes = [], []
    for number in range(start, end):
        sample = dataset[number]
        media = _save(out, settings, sample)
        annotations.append(json.dumps({"id": sample.id} | media | sample.annotation()))
        scenes.append(json.dumps(sample.truth() | media))
    _save_text(_part(out, start, end), json.dumps({"annotations": annotations, "scenes": scenes}))


def _start_worker() -> None:
    """Each process has one core."""
    cv2.setNumThreads(1)


@lru_cache(maxsize=1)
def _dataset(settings: TabletopSettings) -> TabletopDataset:
    """The dataset of a worker process: its renderer lives as long as the process."""
    return TabletopDataset(settings)


def _write_in_worker(out: Path, settings: WriterSettings, start: int, end: int) -> None:
    write_block(out, settings, _dataset(settings.samples), start, end)


def _prepare(out: Path, settings: WriterSettings) -> None:
    """Makes the folders, clears what a stopped run left half written; refuses a folder that holds something else."""
    file, wanted = out / "settings.json", json.dumps(settings.to_dict(), indent=1)
    if file.is_file() and file.read_text() != wanted:
        raise TabletopError(f"{out} holds samples of other settings (see settings.json there); choose another folder")
    if not file.is_file() and out.is_dir() and any(out.iterdir()):
        raise TabletopError(f"{out} is not empty and holds no settings.json; choose a new folder")
    for name in ("images", "clips", "masks", "parts"):
        (out / name).mkdir(parents=True, exist_ok=True)
        for leftover in (out / name).glob(".*.part"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    _save_text(file, wanted)


def _save(out: Path, settings: WriterSettings, sample: Sample) -> dict[str, list[str]]:
    """Writes the media of a sample; returns their paths, relative to the folder."""
    ending = f".{settings.images}"
    media: dict[str, list[str]] = {}
    if sample.family == "clip":
        name = f"clips/{sample.id}"
        if settings.clips == "mp4":
            name = f"{name}.mp4"
            save_mp4(out / name, sample.frames, settings.samples.fps)
        else:
            save_frames(out / name, sample.frames, sample.stamps_s, ending)
        media["video"] = [name]
    elif sample.frames:
        media["image"] = _save_each(out, "images", sample.id, sample.frames, ending)
    if settings.masks and sample.classes:
        media["masks"] = _save_each(out, "masks", sample.id, sample.classes, ".png")
    return media


def _save_each(out: Path, folder: str, name: str, images: tuple[UInt8Array, ...], ending: str) -> list[str]:
    numbers = [""] if len(images) == 1 else [f"-{number:03d}" for number in range(len(images))]
    paths = [f"{folder}/{name}{number}{ending}" for number in numbers]
    for path, image in zip(paths, images, strict=True):
        save_image(out / path, image)
    return paths


def _join(out: Path, blocks: list[tuple[int, int]]) -> None:
    """Puts the parts together, and takes away those of an earlier run that was shorter."""
    wanted = [_part(out, *block) for block in blocks]
    with _Joined(out / "annotations.jsonl") as annotations, _Joined(out / "scenes.jsonl") as scenes:
        for part in wanted:
            lines = json.loads(part.read_text())
            annotations.add(lines["annotations"])
            scenes.add(lines["scenes"])
    last = blocks[-1][1]
    for part in (out / "parts").glob("*.json"):
        if int(part.stem.split("-")[1]) <= last and part not in wanted:
            part.unlink()


class _Joined:
    """A file of lines that gets its name when it is complete."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(f".{path.name}.part")
        self._file = self._partial.open("w")

    def __enter__(self) -> _Joined:
        return self

    def add(self, lines: list[str]) -> None:
        self._file.writelines(f"{line}\n" for line in lines)

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)


def _part(out: Path, start: int, end: int) -> Path:
    return out / "parts" / f"{start:08d}-{end:08d}.json"


def _save_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)
