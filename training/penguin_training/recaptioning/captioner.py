"""Captioners: answer prompts about images. One of our runtimes, or any server of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask_conversations
from penguin_models.chat import RESERVED, video_time
from penguin_models.errors import PromptError, RemoteServerError
from penguin_models.media import ClipFrame
from penguin_models.processor import Processor

_RETRIES = 5


class Captioner(Protocol):
    """Answers prompts; may be called from several threads if it says so.

    Attributes:
        in_flight: Number of samples that it is asked about at once.
    """

    in_flight: int

    def answers(self, frames: Sequence[ClipFrame], prompts: Sequence[str]) -> list[str]:
        """Returns the answers to independent prompts about the same frames, none for a prompt of text alone.

        A single frame is a picture; several are told with their times.

        Raises:
            PromptError, ContextLengthError, BudgetError: It refuses this prompt.
            PenguinError: It cannot answer anything.
        """
        ...


class ModelCaptioner:
    """A model on one of our runtimes, one sample at a time; frames are encoded once for all prompts."""

    in_flight = 1

    def __init__(self, runtime: Runtime, processor: Processor, max_new_tokens: int):
        self._runtime, self._processor = runtime, processor
        self._sampling = Sampling(max_new_tokens)

    def answers(self, frames: Sequence[ClipFrame], prompts: Sequence[str]) -> list[str]:
        """See `Captioner.answers`."""
        shown = [{"type": "image"} | ({"time": frame.time_s} if len(frames) > 1 else {}) for frame in frames]
        conversations = [
            [{"role": "user", "content": [*shown, {"type": "text", "text": _plain(prompt)}]}] for prompt in prompts
        ]
        images = [frame.rgb for frame in frames]
        found = ask_conversations(self._runtime, self._processor, conversations, images, sampling=self._sampling)
        return [answer.raw.strip() for answer in found]


class ServerCaptioner:
    """A model of a server of the OpenAI API; the official client retries when the server is busy or fails."""

    def __init__(self, base_url: str, model: str, api_key: str | None, max_new_tokens: int, in_flight: int):
        import openai

        self._refused = (openai.BadRequestError, openai.UnprocessableEntityError)
        self.in_flight, self._model, self._max_tokens = in_flight, model, max_new_tokens
        self._error: type[Exception] = openai.OpenAIError
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=_RETRIES)

    def answers(self, frames: Sequence[ClipFrame], prompts: Sequence[str]) -> list[str]:
        """See `Captioner.answers`."""
        from penguin_engine.scene.remote.messages import data_uri

        shown: list[dict[str, Any]] = []
        for frame in frames:
            if len(frames) > 1:
                shown.append({"type": "text", "text": f"{video_time(frame.time_s)} "})
            shown.append({"type": "image_url", "image_url": {"url": data_uri(frame.rgb)}})
        return [self._answer([*shown, {"type": "text", "text": prompt}]) for prompt in prompts]

    def _answer(self, content: list[dict[str, Any]]) -> str:
        create: Any = self._client.chat.completions.create  # its overloads do not take plain dictionaries
        try:
            done = create(
                model=self._model,
                messages=[{"role": "user", "content": content}],
                max_tokens=self._max_tokens,
                temperature=0,
            )
        except self._error as err:
            reason = " ".join(str(err).split())[:300]
            kind = PromptError if isinstance(err, self._refused) else RemoteServerError
            raise kind(f"the captioner at {self._client.base_url} does not answer: {reason}") from err
        return str(done.choices[0].message.content or "").strip() if done.choices else ""


def _plain(prompt: str) -> str:
    """Takes apart tokens that have a meaning of their own to our models, which another model's answer may hold."""
    for token in RESERVED:
        prompt = prompt.replace(token, token.strip("<>|"))
    return prompt
