"""Files that were uploaded to `/v1/files`, kept in a temporary folder until they are deleted or become too old."""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from penguin_engine.server.chat_request import BadRequestError
from penguin_models.quoting import shortened

_ID = re.compile(r"file-[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class Upload:
    """An uploaded file."""

    id: str
    filename: str  # as the client calls it
    size: int  # in bytes
    created_s: float  # seconds since 1970
    is_video: bool
    path: Path

    def to_dict(self) -> dict[str, object]:
        """Returns the file as the OpenAI API describes it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created_s),
            "filename": self.filename,
            "purpose": "vision",
        }


class Uploads:
    """Uploaded files by id; the oldest leave when there is no room. May be used by several threads."""

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float):
        self._folder, self._max_bytes, self._max_age_s = folder, max_bytes, max_age_s
        self._files: OrderedDict[str, Upload] = OrderedDict()
        self._lock = RLock()

    def add(self, filename: str, media_type: str, content: bytes) -> Upload:
        """Keeps a file.

        Raises:
            BadRequestError: It is empty, larger than all files may be, or neither an image nor a video.
        """
        kind = media_type.partition("/")[0]
        if kind not in ("image", "video"):
            raise BadRequestError(
                f"{shortened(filename)} is of type {shortened(media_type)}; images and videos are understood", "file"
            )
        if not 0 < len(content) <= self._max_bytes:
            raise BadRequestError(
                f"{shortened(filename)} has {len(content)} bytes, it must have from 1 to {self._max_bytes}", "file"
            )
        number = f"file-{secrets.token_hex(16)}"
        path = self._folder / number
        with self._lock:
            self._expire(len(content))
            path.write_bytes(content)
            upload = Upload(number, filename[:200], len(content), time.time(), kind == "video", path)
            self._files[number] = upload
        return upload

    def get(self, number: str) -> Upload:
        """Returns a file; raises BadRequestError if there is none with this id."""
        with self._lock:
            self._expire(0)
            upload = self._files.get(number) if _ID.fullmatch(number) else None
        if upload is None:
            raise BadRequestError(
                f"there is no file {shortened(number)}: it was never uploaded, was deleted, or is older than "
                f"{self._max_age_s:.0f} s; upload it again",
                "file_id",
                "file_not_found",
            )
        return upload

    def delete(self, number: str) -> None:
        """Deletes a file; raises BadRequestError if there is none with this id."""
        with self._lock:
            upload = self.get(number)
            del self._files[number]
            upload.path.unlink(missing_ok=True)

    def link(self, number: str, target: Path) -> bool:
        """Puts a file at another path too, where it stays if the upload leaves; returns whether it is a video.

        Raises:
            BadRequestError: There is no file with this id.
        """
        with self._lock:
            upload = self.get(number)
            target.hardlink_to(upload.path)
        return upload.is_video

    def all(self) -> list[Upload]:
        """Returns all files, the oldest first."""
        with self._lock:
            self._expire(0)
            return list(self._files.values())

    def _expire(self, wanted: int) -> None:
        """Deletes files that are too old, and the oldest ones until there is room for `wanted` bytes."""
        oldest_s = time.time() - self._max_age_s
        used = sum(upload.size for upload in self._files.values())
        for upload in list(self._files.values()):
            if upload.created_s >= oldest_s and used + wanted <= self._max_bytes:
                break
            used -= upload.size
            del self._files[upload.id]
            upload.path.unlink(missing_ok=True)
