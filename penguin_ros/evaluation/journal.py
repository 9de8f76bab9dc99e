"""Answers on disk as they come, so that an interrupted run loses none of them: a file of JSON lines for each bag.

The first line says which model and settings, and which recording, the answers belong to; answers of others are never
mixed in. Where a recording can no longer be read, its answers can.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags.recording import Recording
from penguin_ros.evaluation.records import AnswerRecord, FileSettings, RunSettings, Timeline, digest
from penguin_ros.evaluation.results import ModelInfo

_FORMAT = 2


@dataclass
class Progress:
    """What is known of a bag so far.

    Attributes:
        answers: by question, method and key.
        timelines: by camera and method.
    """

    answers: dict[tuple[str, str, str], AnswerRecord] = field(default_factory=dict)
    timelines: dict[tuple[str, str], Timeline] = field(default_factory=dict)


def run_key(info: ModelInfo, settings: RunSettings | FileSettings) -> str:
    """Hash of what all answers of a run depend on. Methods may be added later."""
    model, device = info.spec, info.device
    return digest(
        [info.hash, model.runtime, model.dtype, device, settings.model_dump(mode="json", exclude={"methods"})]
    )


def recording_key(recording: Recording) -> str:
    """Hash of a recording's cameras, stamps and images: a bag made anew may have the stamps of the old one."""
    images = [(ref.camera, ref.stamp_ns) for ref in recording.images]
    return digest([recording.cameras, images, recording.checksum])


def check_folder(folder: Path) -> None:
    """Raises EvaluationError where a folder of results is a file, before any work is done for it."""
    if folder.exists() and not folder.is_dir():
        raise EvaluationError(f"results go into a folder, and {folder} is a file; choose another --out")


class Journal:
    """The file of one bag; also the `Sink` of its replay."""

    def __init__(
        self, folder: Path, bag: str, run: str, recording: str | None, on_answer: Callable[[], None] = lambda: None
    ):
        """Names the file; nothing is written before the first answer.

        Args:
            folder: of the results.
            bag: its name.
            run: key of the run.
            recording: key of the recording; None where it cannot be read any more, and its answers only are.
            on_answer: called after each answer.
        """
        self._path = folder / "progress" / f"{bag}.jsonl"
        self._pictures = folder / "frames"
        self._bag, self._on_answer = bag, on_answer
        self._header = {"format": _FORMAT, "run": run, "recording": recording}
        self._file: IO[str] | None = None

    def read(self) -> Progress:
        """What was written before; a line that was cut off is left out.

        Raises:
            EvaluationError: it belongs to another run or to another recording, or is damaged.
        """
        progress = Progress()
        lines = self._lines()
        if not lines:
            return progress
        self._check(_parse(self._path, 1, lines[0]))
        for number, line in enumerate(lines[1:], start=2):
            self._add(progress, number, _parse(self._path, number, line))
        return progress

    def _check(self, header: dict[str, object]) -> None:
        for name, other in (
            ("format", "of another version of this program"),
            ("run", "of another model or of other settings"),
            ("recording", "of another recording"),
        ):
            if header.get(name) != self._header[name] and self._header[name] is not None:
                raise EvaluationError(
                    f"{self._path} holds answers {other}; choose another --out, or discard them with --overwrite"
                )

    def discard(self) -> None:
        """Forgets what was written before, with the bag's pictures."""
        with _writing(self._path):
            self._path.unlink(missing_ok=True)
            if (self._pictures / self._bag).is_dir():
                shutil.rmtree(self._pictures / self._bag)

    def answer(self, record: AnswerRecord) -> None:
        """Writes an answer."""
        self._write({"answer": record.model_dump(mode="json")})
        self._on_answer()

    def timeline(self, timeline: Timeline) -> None:
        """Writes a time line."""
        self._write({"timeline": timeline.model_dump(mode="json")})

    def picture(self, name: str, jpeg: Callable[[], bytes]) -> None:
        """Writes a picture that is not there yet, below the bag's name; it is complete before it has its own."""
        target = self._pictures / name
        if target.exists():
            return
        data = jpeg()
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            part.write_bytes(data)
            part.replace(target)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, value: dict[str, object]) -> None:
        with _writing(self._path):
            if self._file is None:
                self._file = self._begin()
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def _begin(self) -> IO[str]:
        """Opens the file, without a line that was cut off."""
        assert self._header["recording"] is not None, "nothing is answered about a bag that cannot be read"
        lines = self._lines() or [json.dumps(self._header)]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        part.replace(self._path)
        return self._path.open("a", encoding="utf-8")

    def _lines(self) -> list[str]:
        """Complete lines."""
        if not self._path.exists():
            return []
        try:
            return self._path.read_text(encoding="utf-8").split("\n")[:-1]
        except UnicodeDecodeError as err:
            raise EvaluationError(f"{self._path} is damaged ({err}); discard it with --overwrite") from err

    def _add(self, progress: Progress, number: int, value: dict[str, object]) -> None:
        try:
            if "answer" in value:
                record = AnswerRecord.model_validate(value["answer"])
                progress.answers[record.question, record.method, record.key] = record
            else:
                timeline = Timeline.model_validate(value["timeline"])
                progress.timelines[timeline.camera, timeline.method] = timeline
        except (ValidationError, KeyError) as err:
            raise EvaluationError(f"{self._path}, line {number} is damaged; discard it with --overwrite") from err


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise EvaluationError(f"results {file} cannot be written: {err.strerror}; choose another --out") from err


def _parse(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
        if not isinstance(value, dict):
            raise ValueError("no object")
    except ValueError as err:
        raise EvaluationError(f"{path}, line {number} is damaged; discard it with --overwrite") from err
    return value
