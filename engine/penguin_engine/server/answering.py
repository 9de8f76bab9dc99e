"""Who answers a conversation: a model in this process, or something else behind the same method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.offline import ask_conversations
from penguin_engine.server.logprobs import TokenLog
from penguin_engine.server.media_parts import Conversation, read_media
from penguin_models.errors import PromptError
from penguin_models.media import FPS, MAX_FRAMES
from penguin_models.processor import Processor


@dataclass(frozen=True)
class Reply:
    """An answer, and what it counts."""

    text: str  # as the model wrote it, with box syntax
    ended_by: str  # "end", "stop", "length" or "cancelled"
    prompt_tokens: int  # number of all tokens in the prompt
    visual_tokens: int  # number of those that are visual
    generated_tokens: int
    first_token_s: float  # seconds from the start of the work to the first token
    objects: Sequence[dict[str, Any]]  # label, box_px and score
    time_ranges: Sequence[dict[str, float]]  # start_s and end_s


class Answerer(Protocol):
    """Answers conversations one at a time, in the thread that calls it."""

    def answer(
        self, conversation: Conversation, sampling: Sampling, hooks: AnswerHooks, log: TokenLog | None = None
    ) -> Reply:
        """Answers the last turn of a conversation.

        Args:
            conversation: The turns.
            sampling: How the answer is generated.
            hooks: Callbacks for streamed text and cancellation.
            log: Gets the log probabilities of each token before its text is streamed; None if nobody wants them.

        Raises:
            PenguinError: The conversation cannot be answered, and why.
        """
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class ModelAnswerer:
    """A model in this process, on any runtime."""

    def __init__(self, runtime: Runtime, processor: Processor, max_pixels: int):
        """Takes over a loaded model, which it closes.

        Args:
            runtime: Runs the model.
            processor: Processor of the same checkpoint.
            max_pixels: Most pixels of the images of a request together, and of a frame of a video.
        """
        self._runtime, self._processor, self._max_pixels = runtime, processor, max_pixels

    def answer(
        self, conversation: Conversation, sampling: Sampling, hooks: AnswerHooks, log: TokenLog | None = None
    ) -> Reply:
        """Answers the last turn of a conversation."""
        if log is not None:
            hooks = replace(hooks, on_choice=partial(log.record, self._processor))
        media = read_media(conversation.files, FPS, MAX_FRAMES, self._max_pixels)
        [answer] = ask_conversations(
            self._runtime, self._processor, [conversation.messages], media, sampling=sampling, hooks=hooks
        )
        plain = answer.to_dict()
        return Reply(
            answer.raw,
            answer.ended_by,
            answer.prompt_tokens,
            answer.visual_tokens,
            answer.generated_tokens,
            answer.first_token_s,
            plain["objects"],
            plain["time_ranges"],
        )

    def close(self) -> None:
        """Frees the model."""
        self._runtime.close()


class RoutingAnswerer:
    """Sends conversations without an image to a robot, and all others to a model."""

    def __init__(self, robot: Answerer, model: Answerer | None):
        self._robot, self._model = robot, model

    def answer(
        self, conversation: Conversation, sampling: Sampling, hooks: AnswerHooks, log: TokenLog | None = None
    ) -> Reply:
        """Answers the last turn of a conversation."""
        if not conversation.files:
            return self._robot.answer(conversation, sampling, hooks, log)
        if self._model is None:
            raise PromptError(
                "this server answers from what a robot sees and has no model for images; leave them out, or start it "
                "with --model"
            )
        return self._model.answer(conversation, sampling, hooks, log)

    def close(self) -> None:
        """Frees both."""
        self._robot.close()
        if self._model is not None:
            self._model.close()
