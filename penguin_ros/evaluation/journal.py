"""Answers on disk as they come, so that an interrupted run loses none: one file of JSON lines per bag.

The first line identifies the run (model and settings) and the recording; answers of another run are refused. Answers
can still be read after their recording has become unreadable.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from pydantic import ValidationError

from penguin_models.atomic_write import atomic_write, writing
from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.records import (
    AnswerKey,
    AnswerRecord,
    FrameRecord,
    JsonRecord,
    RunSettings,
    Timeline,
    digest,
)
from penguin_ros.evaluation.results import ModelInfo
from penguin_ros.recording import Recording

_FORMAT = 3
L = TypeVar("L", bound=JsonRecord)


class _Header(JsonRecord):
    format: int = _FORMAT
    run: str
    recording: str | None


class _Line(JsonRecord):
    answer: AnswerRecord | None = None
    timeline: Timeline | None = None


@dataclass
class Progress:
    """What is on disk about a bag."""

    answers: dict[AnswerKey, AnswerRecord] = field(default_factory=dict)
    timelines: dict[tuple[str, str], Timeline] = field(default_factory=dict)  # by camera and method


def run_key(info: ModelInfo, settings: RunSettings) -> str:
    """Returns a hash of everything that all answers of a run depend on; methods may be added later."""
    spec, values = info.spec, settings.model_dump(mode="json", exclude={"methods"})
    return digest([info.hash, spec.runtime, spec.dtype, info.device, values])


def recording_key(recording: Recording) -> str:
    """Returns a hash of a recording's cameras, stamps and images; a re-recorded bag may have the same stamps."""
    images = [(ref.camera, ref.stamp_ns) for ref in recording.images]
    return digest([recording.cameras, images, recording.checksum])


class Journal:
    """The journal of one bag."""

    def __init__(self, folder: Path, bag: str, run: str, recording: str | None):
        """Creates the journal; nothing is written before the first answer.

        The keys are those of `run_key` and `recording_key`. If the bag has become unreadable, `recording` is None and
        the journal can only be read.
        """
        self._path = folder / "progress" / f"{bag}.jsonl"
        self._pictures = folder / "frames"
        self._bag = bag
        self._header = _Header(run=run, recording=recording)
        self._file: IO[str] | None = None

    def read(self) -> Progress:
        """Returns what earlier runs wrote; raises EvaluationError if it is damaged, or of another run or recording."""
        progress = Progress()
        for number, text in enumerate(self._lines(), start=1):
            if number == 1:
                self._check(self._parse(_Header, number, text))
                continue
            line = self._parse(_Line, number, text)
            if line.answer is not None:
                progress.answers[line.answer.question, line.answer.method, line.answer.key] = line.answer
            if line.timeline is not None:
                progress.timelines[line.timeline.camera, line.timeline.method] = line.timeline
        return progress

    def discard(self) -> None:
        """Deletes the journal and the bag's pictures."""
        with writing(self._path):
            self._path.unlink(missing_ok=True)
            if (self._pictures / self._bag).is_dir():
                shutil.rmtree(self._pictures / self._bag)

    def write(self, item: AnswerRecord | Timeline) -> None:
        """Appends an answer, with its picture, or a timeline."""
        line = _Line(answer=item) if isinstance(item, AnswerRecord) else _Line(timeline=item)
        if line.answer is not None and line.answer.frame is not None:
            self._write_picture(line.answer.frame)
        with writing(self._path):
            if self._file is None:
                self._file = self._open()
            self._file.write(line.model_dump_json(exclude_none=True) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file; raises WriteError if its last line does not fit on the disk."""
        if self._file is not None:
            file, self._file = self._file, None
            with writing(self._path):
                file.close()

    def _write_picture(self, frame: FrameRecord) -> None:
        target = self._pictures / frame.file
        if not target.exists():
            with atomic_write(target, "wb") as file:
                file.write(frame.jpeg)

    def _open(self) -> IO[str]:
        """Opens the file for appending, without an incomplete last line."""
        lines = self._lines() or [self._header.model_dump_json().encode()]
        with atomic_write(self._path, "wb") as file:
            file.writelines(line + b"\n" for line in lines)
        return self._path.open("a", encoding="utf-8")

    def _lines(self) -> list[bytes]:
        """Returns the complete lines."""
        return self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []

    def _parse(self, kind: type[L], number: int, text: bytes) -> L:
        try:
            return kind.model_validate_json(text)
        except ValidationError as err:
            raise EvaluationError(f"{self._path}, line {number} is damaged; discard it with --overwrite") from err

    def _check(self, header: _Header) -> None:
        if header.format != _FORMAT:
            other = "of another version of this program"
        elif header.run != self._header.run:
            other = "of another model or other settings"
        elif self._header.recording not in (None, header.recording):
            other = "about another recording"
        else:
            return
        remedy = "choose another --out, or discard them with --overwrite"
        raise EvaluationError(f"{self._path} holds answers {other}; {remedy}")
