"""Images and videos of a request: data URIs and uploads -> files -> pixels. Addresses are never fetched."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penguin_engine.scene.offline import Media, PolicedClip
from penguin_engine.server.chat_request import BadRequestError, ChatMessage, FilePart, ImagePart, TextPart, VideoPart
from penguin_models.errors import MediaError
from penguin_models.media import VideoFile, load_image
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.quoting import shortened

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.ASCII)


@dataclass(frozen=True)
class MediaFile:
    """An image or a video in a file."""

    path: Path
    is_video: bool
    name: str  # as messages call it


@dataclass(frozen=True)
class Conversation:
    """Messages as chat.py takes them, and the files of their images and videos in order."""

    messages: Sequence[dict[str, Any]]
    files: Sequence[MediaFile]


def to_conversation(
    messages: Sequence[ChatMessage], folder: Path, link_upload: Callable[[str, Path], bool]
) -> Conversation:
    """Returns a conversation whose images and videos lie in files.

    Args:
        messages: The messages of a request.
        folder: The request's own folder, for the contents of data URIs.
        link_upload: Puts the upload with an id at a path, and returns whether it is a video; raises BadRequestError.

    Raises:
        BadRequestError: A part is neither a data URI nor an upload, or its base64 is malformed.
    """
    files: list[MediaFile] = []

    def part_of(part: Any, where: str) -> dict[str, Any]:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text}
        file = _file_of(part, folder / str(len(files)), where, link_upload)
        files.append(file)
        return {"type": "video" if file.is_video else "image"}

    result = []
    for number, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        content: Any = message.content
        if not isinstance(content, str):
            content = [part_of(part, f"messages[{number}].content[{i}]") for i, part in enumerate(content)]
        result.append({"role": role, "content": content})
    return Conversation(result, files)


def read_media(files: Sequence[MediaFile], fps: float, max_frames: int, max_pixels: int) -> list[Media]:
    """Decodes the images, and opens the videos.

    Raises:
        MediaError: A file is damaged, or all images together have more than `max_pixels` pixels.
    """
    media: list[Media] = []
    left = max_pixels
    for file in files:
        try:
            if file.is_video:
                media.append(PolicedClip(VideoFile(file.path, fps, max_frames, max_pixels), NoveltyPolicy()))
                continue
            image = load_image(file.path, max_pixels)
        except MediaError as err:
            raise MediaError(str(err).replace(str(file.path), file.name)) from err
        left -= image.shape[0] * image.shape[1]
        if left < 0:
            raise MediaError(
                f"the images of a request have more than {max_pixels} pixels together; send fewer or smaller ones"
            )
        media.append(image)
    return media


def _file_of(part: Any, path: Path, where: str, link_upload: Callable[[str, Path], bool]) -> MediaFile:
    if isinstance(part, FilePart):
        if part.file.file_id is not None:
            return MediaFile(path, link_upload(part.file.file_id, path), f"file {part.file.file_id}")
        assert part.file.file_data is not None
        where, uri, wanted = f"{where}.file.file_data", part.file.file_data, None
    elif isinstance(part, ImagePart):
        where, uri, wanted = f"{where}.image_url.url", part.image_url.url, "image"
    else:
        assert isinstance(part, VideoPart)
        where, uri, wanted = f"{where}.video_url.url", part.video_url.url, "video"
    media_type, content = _decoded(uri, where)
    kind = media_type.partition("/")[0]
    if wanted is None and kind not in ("image", "video"):
        raise BadRequestError(f"{where} is of type {media_type}; images and videos are understood", where)
    path.write_bytes(content)
    return MediaFile(path, (wanted or kind) == "video", where)


def _decoded(uri: str, where: str) -> tuple[str, bytes]:
    """Returns type and content of a data URI."""
    head = _DATA_URI.match(uri[:500])
    if head is None or not head[3]:
        raise BadRequestError(
            f"{where} is {shortened(uri[:60])}: send the content as data:image/png;base64,... or upload it to "
            "/v1/files; addresses are not fetched",
            where,
        )
    try:
        content = base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as err:
        raise BadRequestError(f"{where} is not valid base64: {err}", where) from err
    if not content:
        raise BadRequestError(f"{where} is empty", where)
    return head[1] or "application/octet-stream", content
