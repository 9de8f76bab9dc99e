"""Reads annotation files, asks a captioner about each picture or clip, and writes new annotations (JSONL).

The output grows by whole samples: an interrupted run goes on with the samples that are not in it. Captions that
contradict their boxes, and samples that cannot be read, are listed with the reasons in a second file.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from penguin_models.atomic_write import writing
from penguin_models.errors import BudgetError, ContextLengthError, DataError, MediaError, PromptError
from penguin_models.media import FPS, VideoFile, load_image
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.frame_folder import FrameFolder
from penguin_training.recaptioning.captioner import Captioner
from penguin_training.recaptioning.clip import recaption_clip
from penguin_training.recaptioning.picture import Recaptioned, recaption_picture

_ALL_FRAMES = 10**9
_BEGINNING = b'{"of": "'
"""How each line of an output begins."""
_OF_THE_SAMPLE = (MediaError, DataError, PromptError, BudgetError, ContextLengthError)
"""Errors after which the next sample may well succeed."""


@dataclass
class Counts:
    """What became of the samples."""

    earlier: int = 0  # done in an earlier run
    written: int = 0  # samples whose annotations were written
    annotations: int = 0
    left_out: int = 0  # contradictory, or they cannot be read


def left_out_path(out: Path) -> Path:
    """Returns the file that lists samples that were left out."""
    return out.with_name(f"{out.stem}.left-out.jsonl")


def recaption(
    files: Sequence[Path],
    out: Path,
    captioner: Captioner,
    fps: float = FPS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Writes annotations for all samples with one image or one clip each.

    Args:
        files: JSON or JSONL files; only the media of their samples are read. Ids must differ.
        out: JSONL file; completed if it exists. Its paths are absolute.
        captioner: Who is asked.
        fps: Frames per second of clips.
        progress: Called with the number of samples done and their total.

    Raises:
        DataError: A file cannot be read, two samples have the same id, or `out` holds something else.
        PenguinError: The captioner cannot answer; what was written stays, and the same call goes on from there.
        WriteError: `out` cannot be written.
    """
    opened = [AnnotationFile(file, conversations=False) for file in files]
    rows = [(file, row) for file in opened for row in range(len(file))]
    _check_ids(rows)
    done = _finished(out) | _finished(left_out_path(out))
    counts = Counts()
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as kept, left_out_path(out).open("a") as left_out:
            waiting = [(file, row) for file, row in rows if file.name(row) not in done]
            counts.earlier = len(rows) - len(waiting)
            for number, (name, media, made) in enumerate(_made(waiting, captioner, fps), start=counts.earlier + 1):
                if made.reasons:
                    counts.left_out += 1
                    _write(left_out, [{"of": name, "parts": 1, "reasons": made.reasons}])
                else:
                    counts.written += 1
                    counts.annotations += len(made.samples)
                    _write(kept, [_annotation(name, media, sample, len(made.samples)) for sample in made.samples])
                progress(number, len(rows))
    return counts


def _check_ids(rows: Sequence[tuple[AnnotationFile, int]]) -> None:
    """Raises DataError if two samples have the same id, by which a run knows what is done."""
    seen: dict[str, tuple[AnnotationFile, int]] = {}
    for file, row in rows:
        name = file.name(row)
        if name in seen:
            places = f"{_place(*seen[name])} and {_place(file, row)}"
            raise DataError(f"two samples have the id {name!r}: {places}; ids must differ, change one")
        seen[name] = file, row


def _place(file: AnnotationFile, row: int) -> str:
    """Returns the line of a sample, or its number in a list; blank lines are no samples."""
    if file.path.suffix == ".json":
        return f"{file.path}, sample {row + 1}"
    with file.path.open("rb") as lines:
        numbers = (number for number, line in enumerate(lines, 1) if line.strip())
        return f"{file.path}, line {next(islice(numbers, row, None))}"


def _made(
    rows: Sequence[tuple[AnnotationFile, int]], captioner: Captioner, fps: float
) -> Iterator[tuple[str, dict[str, str], Recaptioned]]:
    """Yields the name of each sample, its media field, and what was made of it, with `in_flight` samples at once."""

    def make(file: AnnotationFile, row: int) -> tuple[str, dict[str, str], Recaptioned]:
        try:
            media, made = _recaptioned(file, row, captioner, fps)
        except _OF_THE_SAMPLE as err:
            media, made = {}, Recaptioned(reasons=(str(err),))
        return file.name(row), media, made

    running: deque[Future[tuple[str, dict[str, str], Recaptioned]]] = deque()
    with ThreadPoolExecutor(captioner.in_flight) as pool:
        try:
            for file, row in rows:
                if len(running) == 2 * captioner.in_flight:
                    yield running.popleft().result()
                running.append(pool.submit(make, file, row))
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _recaptioned(
    file: AnnotationFile, row: int, captioner: Captioner, fps: float
) -> tuple[dict[str, str], Recaptioned]:
    media = file[row].media
    if len(media) != 1 or media[0].frames:
        raise DataError(f"the sample shows {len(media)} images and clips; one, in a file, is recaptioned")
    [reference] = media
    path = reference.path.absolute()
    if not reference.is_clip:
        return {"image": str(path)}, recaption_picture(load_image(path), captioner)
    clip = FrameFolder(path, fps, _ALL_FRAMES) if path.is_dir() else VideoFile(path, fps, _ALL_FRAMES)
    return {"video": str(path)}, recaption_clip(clip, captioner)


def _annotation(name: str, media: dict[str, str], sample: dict[str, Any], parts: int) -> dict[str, Any]:
    content = {key: value for key, value in sample.items() if key != "name"}
    return {"of": name, "parts": parts, "id": f"{name}/{sample['name']}", **media, **content}


def _write(file: Any, lines: Sequence[dict[str, Any]]) -> None:
    file.write("".join(json.dumps(line) + "\n" for line in lines))
    file.flush()


def _finished(path: Path) -> set[str]:
    """Returns the samples in an earlier output, from whose end a sample that is incomplete is cut off."""
    done: set[str] = set()
    if not path.is_file():
        return done
    parts = position = complete = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") and line.startswith(_BEGINNING[: len(line)]):
                break  # a killed run was writing it
            position += len(line)
            try:
                made = json.loads(line)
                name, expected = str(made["of"]), int(made["parts"])
            except (ValueError, KeyError, TypeError) as err:
                raise DataError(f"{path} is not the output of an earlier run; choose another file") from err
            parts += 1
            if parts == expected:
                done.add(name)
                parts, complete = 0, position
    with writing(path):
        os.truncate(path, complete)
    return done
