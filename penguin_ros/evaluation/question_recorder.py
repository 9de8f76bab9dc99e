"""`penguin-vl evaluate record`: a local web page that replays a bag while a person types questions about it.

The page shows the images on the bag's clock. A question gets the time at which typing began, boxes are drawn with the
mouse, and every question is checked and saved at once. Only this machine can reach the page.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlparse

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags.plan import check_time
from penguin_ros.evaluation.question_file import Question, format_question, parse_question, read_lines, read_questions
from penguin_ros.evaluation.records import thumbnail
from penguin_ros.recording import ImageRef, RecordedImage, Recording

_MAX_BYTES = 1_000_000


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
            self._write([*self._lines(), format_question(question)])
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

    def _lines(self) -> list[str]:
        return [line for line in read_lines(self._file) if line.strip()] if self._file.exists() else []

    def _write(self, lines: Sequence[str]) -> None:
        with atomic_write(self._file) as file:
            file.writelines(line + "\n" for line in lines)


class RecorderServer(ThreadingHTTPServer):
    """Serves the page and its data on this machine only."""

    daemon_threads = True

    def __init__(self, recorder: Recorder, port: int = 0):
        """Opens a port; 0 chooses a free one."""
        self.recorder = recorder
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as err:
            raise EvaluationError(f"port {port} cannot be opened: {err.strerror}; choose another with --port") from err

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: RecorderServer

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if url.path == "/":
            page = resources.files("penguin_ros.evaluation") / "question_recorder.html"
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.read_bytes())
        elif url.path == "/info":
            self._send_json(HTTPStatus.OK, self.server.recorder.info())
        elif url.path == "/frame":
            query = dict(parse_qsl(url.query))
            try:
                jpeg = self.server.recorder.frame(query.get("camera", ""), int(query.get("index", "")))
                self._send(HTTPStatus.OK, "image/jpeg", jpeg)
            except ValueError as err:  # every PenguinError is one
                self._send_json(HTTPStatus.NOT_FOUND, {"error": str(err)})
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": f"there is no {url.path}"})

    def do_POST(self) -> None:
        # Browsers let other sites send JSON only after a preflight request, which is never answered here.
        length = int(self.headers.get("Content-Length") or 0)
        if self.path not in ("/question", "/remove") or self.headers.get_content_type() != "application/json":
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "send JSON to /question or /remove"})
        elif length > _MAX_BYTES:
            self._send_json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"the limit is {_MAX_BYTES} bytes"})
        else:
            try:
                self._send_json(HTTPStatus.OK, self._change(json.loads(self.rfile.read(length))))
            except ValueError as err:  # every PenguinError is one
                self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(err)})

    def _change(self, values: Any) -> Any:
        if not isinstance(values, dict):
            raise EvaluationError("a question is a JSON object")
        if self.path == "/question":
            return json.loads(format_question(self.server.recorder.add(values)))
        self.server.recorder.remove(str(values.get("id")))
        return {}

    def log_message(self, *_: Any) -> None:
        """Logs nothing: the terminal shows the address and the result only."""

    def _send_json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
