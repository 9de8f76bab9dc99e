"""Answers a server's conversations from what a running node sees."""

from __future__ import annotations

import json

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
from penguin_ros.tools.node_turns import NodeTurns

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
        self._turns = NodeTurns()
        self._client = NodeClient("penguin_serve", node_name)
        self._client.start()

    def answer(
        self, conversation: Conversation, sampling: Sampling, hooks: AnswerHooks, log: TokenLog | None = None
    ) -> Reply:
        """Answers a question, after the earlier turns of its conversation if the node gave the latest answer in it.

        Raises:
            PromptError: The node does not know the earlier turns, or cannot apply the settings.
            NotActiveError: There is no such node, or it is not active.
            PenguinError: The node answered with an error.
        """
        if sampling.temperature or sampling.top_p != 1.0 or sampling.stop:
            raise PromptError("a node has its own settings: leave out temperature, top_p and stop, or send an image")
        if log is not None:
            raise PromptError("a node does not report log probabilities: leave out logprobs, or send an image")
        with self._turns.continued(conversation.messages) as (question, name, answers):
            goal = AskStream.Goal(question=question, max_new_tokens=sampling.max_new_tokens, conversation_id=name)
            reply, streamed = self._ask(goal, sampling, hooks)
            answers += [streamed, reply.text]
        return reply

    def _ask(self, goal: AskStream.Goal, sampling: Sampling, hooks: AnswerHooks) -> tuple[Reply, str]:
        """Returns the answer, and its text as it was streamed."""
        client, pieces = self._client, list[str]()
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
        if sampling.grammar is None:
            said = parse("".join(pieces)).text.strip()
            if len(said) < len(answer.text) and answer.text.startswith(said):  # the last feedback may not arrive
                on_text(answer.text[len(said) :])
        streamed = "".join(pieces)
        return _reply(answer, streamed, sampling), streamed

    def close(self) -> None:
        """Shuts ROS down."""
        self._client.close()


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
