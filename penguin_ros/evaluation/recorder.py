"""`penguin-vl evaluate record`: a page on this machine that replays a bag while a person types questions about it.

The page shows the images on the bag's clock; questions get the time at which the typing began, boxes are drawn with the
mouse, and every question is checked and appended to the file at once. Only this machine can reach it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from penguin_models.errors import EvaluationError, MediaError, PenguinError
from penguin_ros.evaluation.bags.plan import check_time
from penguin_ros.evaluation.bags.recording import ImageRef, Recording, StampedImage
from penguin_ros.evaluation.question_file import Question, format_question, parse_question, read_lines, read_questions
from penguin_ros.evaluation.thumbnails import thumbnail

_MOST_BYTES = 1_000_000


class Recorder:
    """A recording that is being asked about, and the file of its questions."""

    def __init__(self, recording: Recording, file: Path):
        """Reads the questions that are there already.

        Raises:
            EvaluationError: the file has malformed lines, or cannot be written.
        """
        self.recording, self._file = recording, file
        self.questions = read_questions(file) if file.exists() and file.stat().st_size else []
        self._refs = {c: [ref for ref in recording.images if ref.camera == c] for c in recording.cameras}
        self._lock = threading.Lock()
        self._images: Iterator[StampedImage] = iter(())
        self._next: ImageRef | None = None
        try:
            with file.open("a+b") as stream:
                if stream.tell() and not file.read_bytes().endswith(b"\n"):
                    stream.write(b"\n")  # a file that was written by hand may end within its last line
        except OSError as err:
            raise EvaluationError(f"questions {file} cannot be written: {err.strerror}") from err

    def info(self) -> dict[str, Any]:
        """What the page must know."""
        times = {
            camera: [round((ref.stamp_ns - refs[0].stamp_ns) * 1e-9, 3) for ref in refs]
            for camera, refs in self._refs.items()
        }
        mine = [json.loads(format_question(q)) for q in self.questions if q.bag in (None, self.recording.name)]
        return {"bag": self.recording.name, "file": str(self._file), "times": times, "questions": mine}

    def frame(self, camera: str, index: int) -> bytes:
        """A JPEG of an image. Images that follow each other are read in one go.

        Raises:
            EvaluationError: there is no such image.
            MediaError: it is damaged.
        """
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
        """Checks a question and appends it to the file; without an id it gets one.

        Raises:
            EvaluationError: it is malformed, outside the bag's time, or its id is taken.
        """
        with self._lock:
            ids = {question.id for question in self.questions}
            fresh = next(name for n in range(len(ids) + 1) if (name := f"{self.recording.name}-{n + 1}") not in ids)
            question = parse_question(json.dumps({"id": fresh, "bag": self.recording.name, **values}))
            if question.id in ids:
                raise EvaluationError(f"there is a question {question.id} already")
            check_time(self.recording, question)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(format_question(question) + "\n")
            self.questions.append(question)
        return question

    def remove(self, name: str) -> None:
        """Takes a question out of the file again; the other lines stay as they are.

        Raises:
            EvaluationError: there is no such question about this bag.
        """
        with self._lock:
            mine = [q.id for q in self.questions if q.bag in (None, self.recording.name)]
            if name not in mine:
                raise EvaluationError(f"there is no question {name} about {self.recording.name}")
            lines = [line for line in read_lines(self._file) if line.strip()]
            kept = "".join(line + "\n" for line in lines if parse_question(line).id != name)
            part = self._file.with_name(f"{self._file.name}.part")
            part.write_text(kept, encoding="utf-8")
            part.replace(self._file)
            self.questions = [question for question in self.questions if question.id != name]


class RecorderServer(ThreadingHTTPServer):
    """Serves the page and its data on this machine alone."""

    daemon_threads = True

    def __init__(self, recorder: Recorder, port: int = 0):
        """Opens a port; 0 takes any.

        Raises:
            EvaluationError: the port is taken.
        """
        self.recorder = recorder
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as err:
            raise EvaluationError(f"port {port} cannot be opened: {err.strerror}; choose another with --port") from err

    @property
    def address(self) -> str:
        """Where to look."""
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: RecorderServer

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if url.path == "/":
            page = resources.files("penguin_ros.evaluation") / "recorder.html"
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.read_bytes())
        elif url.path == "/info":
            self._json(HTTPStatus.OK, self.server.recorder.info())
        elif url.path == "/frame":
            self._frame({name: values[0] for name, values in parse_qs(url.query).items()})
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"there is no {url.path}"})

    def do_POST(self) -> None:
        # A page of another site cannot send JSON here without asking first, which is never answered.
        act = {"/question": self._add, "/remove": self._remove}.get(self.path)
        if act is None or self.headers.get_content_type() != "application/json":
            self._json(HTTPStatus.NOT_FOUND, {"error": "questions go to /question or /remove as JSON"})
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MOST_BYTES:
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"more than {_MOST_BYTES} bytes"})
            return
        try:
            values = json.loads(self.rfile.read(length))
            if not isinstance(values, dict):
                raise EvaluationError("a question is a JSON object")
            reply = act(values)
        except json.JSONDecodeError as err:
            self._json(HTTPStatus.BAD_REQUEST, {"error": f"no JSON: {err}"})
        except (PenguinError, OSError) as err:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(err)})
        else:
            self._json(HTTPStatus.OK, reply)

    def _add(self, values: dict[str, Any]) -> Any:
        return json.loads(format_question(self.server.recorder.add(values)))

    def _remove(self, values: dict[str, Any]) -> Any:
        self.server.recorder.remove(str(values.get("id")))
        return {}

    def log_message(self, *_: Any) -> None:
        """Says nothing: the terminal belongs to the person."""

    def _frame(self, wanted: dict[str, str]) -> None:
        try:
            index = int(wanted.get("index", ""))
            jpeg = self.server.recorder.frame(wanted.get("camera", ""), index)
        except (EvaluationError, ValueError) as err:
            self._json(HTTPStatus.NOT_FOUND, {"error": str(err)})
        except MediaError as err:
            self._json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(err)})
        else:
            self._send(HTTPStatus.OK, "image/jpeg", jpeg)

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
