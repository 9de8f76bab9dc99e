"""A prompt as the OpenAI API takes it: frames as data URIs between the texts that a local model would read."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import cv2

from penguin_engine.scene.evidence import Shown
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.json_answers import schema_of
from penguin_engine.scene.requests import Request
from penguin_models.chat import video_time
from penguin_models.images import resize
from penguin_models.types import UInt8Array

_JPEG_QUALITY = 95


def frames_content(shown: Sequence[Shown], start_ns: int, named: bool) -> list[dict[str, Any]]:
    """Returns the content parts of frames.

    Args:
        shown: The frames in the order of the prompt, those of a camera together.
        start_ns: Stamp from which times count.
        named: Whether the name of each camera comes before its frames.
    """
    content: list[dict[str, Any]] = []
    for camera, items in groupby(shown, lambda item: item.candidate.camera):
        before = f"Camera {camera}:\n" if named else ""
        for item in items:
            # The form in which the model reads an image with a time, see chat.py.
            content.append(text_part(f"{before}{video_time((item.frame.stamp_ns - start_ns) * 1e-9)} "))
            image = data_uri(resize(item.frame.pixels, item.size))
            content.append({"type": "image_url", "image_url": {"url": image}})
            before = ""
    return content


def text_part(text: str) -> dict[str, Any]:
    """Returns a content part of text."""
    return {"type": "text", "text": text}


def data_uri(rgb: UInt8Array) -> str:
    """Returns an image, uint8 [H, W, 3], as a data URI."""
    done, jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "OpenCV cannot encode JPEG"
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def system_turn(text: str) -> list[dict[str, Any]]:
    """Returns a system prompt as a message; none if it is empty."""
    return [{"role": "system", "content": text}] if text else []


def user_turn(content: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a conversation of one turn of the user."""
    return [{"role": "user", "content": list(content)}]


def conversation(frames: Sequence[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
    """Returns the turns of a conversation, all about the frames before the first question."""
    questions = [*(turn.question for turn in request.turns), request.question]
    messages = user_turn([*frames, text_part(questions[0])])
    for turn, question in zip(request.turns, questions[1:], strict=True):
        messages += [{"role": "assistant", "content": turn.answer}, *user_turn([text_part(question)])]
    return messages


def sampling_options(sampling: Sampling) -> dict[str, Any]:
    """Returns the parameters of a request that say how its answer is generated."""
    options: dict[str, Any] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    if sampling.grammar is not None:
        schema = {"name": "answer", "schema": schema_of(sampling.grammar)}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return options
