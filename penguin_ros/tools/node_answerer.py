"""Answers a server's conversations from what a running node sees."""

from __future__ import annotations

import json
from typing import Any

from penguin_vl.action import AskStream
from penguin_vl.msg import Answer

from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.json_answers import schema_of
from penguin_engine.server.answering import Reply
from penguin_engine.server.logprobs import TokenLog
from penguin_engine.server.media_parts import Conversation
from penguin_models.errors import (
    BusyError,
    CancelledError,
    NoFramesError,
    NotActiveError,
    PenguinError,
    PromptError,
    RemoteServerError,
    UnknownCameraError,
)
from penguin_models.grounding import parse
from penguin_ros.tools.node_client import NodeClient, answer_dict

_ERRORS: dict[int, type[PenguinError]] = {
    Answer.ERROR_BAD_REQUEST: PromptError,
    Answer.ERROR_UNKNOWN_CAMERA: UnknownCameraError,
    Answer.ERROR_NO_FRAMES: NoFramesError,
    Answer.ERROR_NOT_LOADED: NotActiveError,
    Answer.ERROR_BUSY: BusyError,
    Answer.ERROR_CANCELLED: CancelledError,
    Answer.ERROR_SERVER: RemoteServerError,
}
_ACCEPT_S = 10.0
_CANCELLING_S = 5.0


class NodeAnswerer:
    """An `Answerer` that asks a node over its action."""

    def __init__(self, node_name: str):
        """Initialises ROS and creates the client; the node may start later.

        Raises:
            NoAnswerError: `node_name` is not a valid name of a node.
        """
        self._name = node_name
        self._client = NodeClient("penguin_serve", node_name)
        self._client.start()

    def answer(
        self, conversation: Conversation, sampling: Sampling, hooks: AnswerHooks, log: TokenLog | None = None
    ) -> Reply:
        """Answers a conversation of one user message.

        Raises:
            PromptError: It has other turns, or settings that only a model in the server's process has.
            NotActiveError: There is no such node, or it is not active.
            PenguinError: The node answered with an error.
        """
        client, pieces = self._client, []
        goal = AskStream.Goal(question=_question(conversation), max_new_tokens=sampling.max_new_tokens)
        if sampling.temperature or sampling.stop:
            raise PromptError("a node has its own settings: leave out temperature and stop, or send an image")
        if log is not None:
            raise PromptError("a node does not report log probabilities: leave out logprobs, or send an image")
        if sampling.grammar is not None:
            goal.response_schema = json.dumps(schema_of(sampling.grammar))

        def on_text(piece: str) -> None:
            pieces.append(piece)
            hooks.on_text(piece, len(pieces))

        def check() -> None:
            if not client.stream.server_is_ready():
                raise NotActiveError(f"there is no node {self._name}; is it running? see: ros2 node list")
            if hooks.cancelled():
                raise CancelledError("cancelled during the answer")

        check()
        handle = client.send_goal(goal, on_text, check, _ACCEPT_S)
        finished = client.begin(handle.get_result_async)
        try:
            answer = client.wait(finished, check).result.answer
        except CancelledError:
            client.wait(client.begin(handle.cancel_goal_async), timeout_s=_CANCELLING_S)
            raise
        if answer.error_code != Answer.ERROR_NONE:
            raise _ERRORS.get(answer.error_code, PenguinError)(f"node {self._name}: {answer.error_msg}")
        return _reply(answer, "".join(pieces), sampling)

    def close(self) -> None:
        """Shuts ROS down."""
        self._client.close()


def _question(conversation: Conversation) -> str:
    if len(conversation.messages) > 1:
        raise PromptError(
            "a question about what the robot sees is one message of the user: leave out earlier turns and system "
            "prompts, or send an image"
        )
    content: Any = conversation.messages[0]["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _reply(answer: Answer, streamed: str, sampling: Sampling) -> Reply:
    plain = answer_dict(answer)
    # A client may lose feedback.
    whole = sampling.grammar is None and parse(streamed).text.strip() == answer.text.strip()
    return Reply(
        streamed if whole else answer.text,
        "length" if answer.generated_tokens >= sampling.max_new_tokens else "end",
        answer.prompt_tokens,
        answer.visual_tokens,
        answer.generated_tokens,
        answer.first_token_s,
        plain["objects"],
        plain["time_ranges"],
    )
