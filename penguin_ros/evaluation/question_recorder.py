"""`penguin-vl evaluate record`: replays a bag in a browser while a person types questions about it.

The page (recorder_server.py) shows the images on the bag's clock. A question gets the time at which typing began, boxes
are drawn with the mouse, and every question is checked and saved at once. Only this machine can reach the page.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags.plan import check_time
from penguin_ros.evaluation.question_file import Question, format_question, parse_question, read_lines, read_questions
from penguin_ros.evaluation.records import thumbnail
from penguin_ros.recording import ImageRef, RecordedImage, Recording


class Recorder:
    """A recording and the file of questions about it."""

    def __init__(self, recording: Recording, file: Path):
        """Reads the questions that are already in the file, and creates it if necessary."""
        self.recording, self._file = recording, file
        self.questions = read_questions(file) if file.exists() and file.stat().st_size else []
        self._refs = {c: [ref for ref in recording.images if ref.camera == c] for c in recording.cameras}
        self._lock = threading.Lock()
        self._images: Iterator[RecordedImage] = iter(())
        self._next: ImageRef | None = None
        self._write(self._lines())

    def info(self) -> dict[str, Any]:
        """Returns the times of all images and the questions about this bag."""
        times = {
            camera: [round((ref.stamp_ns - refs[0].stamp_ns) * 1e-9, 3) for ref in refs]
            for camera, refs in self._refs.items()
        }
        questions = [json.loads(format_question(question)) for question in self._about_this_bag()]
        return {"bag": self.recording.name, "file": str(self._file), "times": times, "questions": questions}

    def frame(self, camera: str, index: int) -> bytes:
        """Returns an image as JPEG; raises MediaError if it is damaged. Consecutive images are read in one pass."""
        refs = self._refs.get(camera, [])
        if not 0 <= index < len(refs):
            raise EvaluationError(f"there is no image {index} of {camera}")
        with self._lock:
            if self._next != refs[index]:
                self._images = self.recording.read(refs[index:])
            image = next(self._images)
            self._next = refs[index + 1] if index + 1 < len(refs) else None
        return thumbnail(image.load().rgb)

    def add(self, values: dict[str, Any]) -> Question:
        """Adds a question to the file, with a new id if it has none; raises EvaluationError if it is not valid."""
        with self._lock:
            ids = {question.id for question in self.questions}
            fresh = next(name for n in range(len(ids) + 1) if (name := f"{self.recording.name}-{n + 1}") not in ids)
            question = parse_question(json.dumps({"id": fresh, "bag": self.recording.name, **values}))
            if question.id in ids:
                raise EvaluationError(f"the id {question.id} is already used; choose another")
            check_time(self.recording, question)
            self._write([*self._lines(), format_question(question).encode()])
            self.questions.append(question)
        return question

    def remove(self, name: str) -> None:
        """Removes a question about this bag from the file; other lines are unchanged."""
        with self._lock:
            if name not in [question.id for question in self._about_this_bag()]:
                raise EvaluationError(f"there is no question {name} about {self.recording.name}")
            self._write([line for line in self._lines() if parse_question(line).id != name])
            self.questions = [question for question in self.questions if question.id != name]

    def _about_this_bag(self) -> list[Question]:
        return [question for question in self.questions if question.bag in (None, self.recording.name)]

    def _lines(self) -> list[bytes]:
        return [line for line in read_lines(self._file) if line.strip()] if self._file.exists() else []

    def _write(self, lines: Sequence[bytes]) -> None:
        with atomic_write(self._file, "wb") as file:
            file.writelines(line + b"\n" for line in lines)
