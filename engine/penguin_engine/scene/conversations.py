"""Conversations: the earlier turns that stand before a question in the prompt.

All turns follow the last frame: when frames have come or gone, they are prefilled again after the new ones; otherwise
the KV cache still holds them, and only the question is prefilled (suffix.py). Turns are text, as the model wrote it:
boxes and times in them are those of the frames that it saw then.

What is bounded, and forgotten first: the oldest turns of a conversation that has too many or too long ones, the turns
of the conversation that was continued longest ago, and the oldest turns but the last where there is no time to prefill
them. How many turns were left out is reported. One thread.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import RESERVED_TOKENS, Request, Turn
from penguin_engine.scene.session import SceneSession
from penguin_models.chat import TURN_END, TURN_START
from penguin_models.processor import Processor

MAX_CONVERSATIONS = 64
"""Conversations whose turns are kept."""
MAX_TURNS = 32
"""Turns that are kept of a conversation; together they have at most as many tokens as a session keeps free."""
_MAX_COUNTED = 1024
"""Conversations that are known at all: of the older ones only the number of turns."""
_TURNS_SHARE = 0.5
"""Share of the time that is left which the prefill of turns may take, by prediction; frames need the rest."""


@dataclass
class _Conversation:
    turns: deque[Turn] = field(default_factory=lambda: deque(maxlen=MAX_TURNS))
    count: int = 0  # number of turns since the beginning, those that were forgotten included


class Conversations:
    """The conversations about one scene, by name."""

    def __init__(self, processor: Processor):
        """Starts without any; `processor` is that of the checkpoint that answers."""
        self._by_id: OrderedDict[str, _Conversation] = OrderedDict()  # the one continued last at the end
        self._link = processor.encode_text(f"{TURN_END}\n{TURN_START}user")  # between an answer and the next question

    def answer(self, request: Request, fits: Callable[[Request], bool], answer: Callable[[Request], Answer]) -> Answer:
        """Answers a question after the earlier turns of its conversation, if it belongs to one.

        The turn is added to the conversation; one that is cancelled or fails leaves the conversation as it was.

        Args:
            request: The question alone.
            fits: Returns whether a question with some turns before it fits; if it never does, it has no turns.
            answer: Answers a question with the turns before it.
        """
        if not request.conversation_id:
            return answer(request)
        conversation = self._by_id.get(request.conversation_id, _Conversation())
        turns = list(conversation.turns)
        choices = (after_turns(request, turns[first:]) for first in range(len(turns) + 1))
        continued = next(filter(fits, choices), request)
        result = answer(continued)
        result.turns_used = len(continued.turns)
        result.turns_forgotten = conversation.count - result.turns_used
        if result.ended_by != "cancelled":
            self._add(request, result, conversation)
        return result

    def clear(self) -> None:
        """Forgets all turns; their number is still reported."""
        for conversation in self._by_id.values():
            conversation.turns.clear()

    def _add(self, request: Request, answer: Answer, conversation: _Conversation) -> None:
        turns = conversation.turns
        turns.append(Turn(request.question, answer.raw, (*request.token_ids, *answer.token_ids, *self._link)))
        conversation.count += 1
        while sum(len(turn.token_ids) for turn in turns) > RESERVED_TOKENS:
            turns.popleft()
        self._by_id[request.conversation_id] = conversation
        self._by_id.move_to_end(request.conversation_id)
        kept = list(self._by_id.values())
        if len(kept) > MAX_CONVERSATIONS:
            kept[-1 - MAX_CONVERSATIONS].turns.clear()
        if len(kept) > _MAX_COUNTED:
            self._by_id.popitem(last=False)


def after_turns(request: Request, turns: list[Turn]) -> Request:
    """Returns a question with turns before it, which is without any."""
    earlier = [token for turn in turns for token in turn.token_ids]
    return replace(request, turns=tuple(turns), token_ids=(*earlier, *request.token_ids))


def fits_tokens(request: Request, limit: int = RESERVED_TOKENS) -> bool:
    """Returns whether turns, question and answer have at most some tokens."""
    return len(request.token_ids) + request.sampling.max_new_tokens <= limit


def fits_scene(sessions: Mapping[str, SceneSession], pace: Pace | None, due_s: float) -> Callable[[Request], bool]:
    """Returns what says whether a question with turns fits into the KV cache, and into the time that is left.

    Args:
        sessions: The cameras that the question is about.
        pace: The pace of the sessions; None if nothing has a deadline.
        due_s: When the first token is due, on the clock of the pace; the last turn is not left out for it.
    """

    def fits(request: Request) -> bool:
        if not fits_tokens(request):
            return False
        if pace is None or len(request.turns) <= 1:
            return True
        cached = 0
        if len(sessions) == 1 and not request.has_window and not request.horizon_s:
            cached = next(iter(sessions.values())).cached(request)
        return pace.append_s(len(request.token_ids) - cached) <= _TURNS_SHARE * (due_s - pace.clock())

    return fits
