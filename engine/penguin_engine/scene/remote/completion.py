"""Completion: what has arrived of a server's answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.box_confidence import box_scores
from penguin_models.grounding import GroundedObject, parse


@dataclass
class Completion:
    """An answer that grows piece by piece."""

    on_first: Callable[[], None] = lambda: None  # called when the first token has arrived
    text: str = ""
    tokens: int = 0  # number of tokens so far: the pieces, until the server has counted
    ended_by: str = ""  # "end", "length" or "cancelled"; empty while it continues
    began: bool = False  # whether a token has arrived
    prompt_tokens: int = 0
    image_tokens: int = 0  # those of the images; 0 if the server does not say
    top: dict[str, float] = field(default_factory=dict)  # log probabilities of the likeliest first tokens
    ends: list[int] = field(default_factory=list)  # length of the text after each token, if it has probabilities
    probabilities: list[float] = field(default_factory=list)  # of each token
    scores: Sequence[float] = ()  # of the boxes, if the server sends them itself

    def add(self, piece: Any) -> str:
        """Takes in a piece as the client of the OpenAI API has it, and returns its text.

        Raises:
            AttributeError, TypeError, ValueError: It is not of the OpenAI API.
        """
        text = ""
        if piece.usage is not None:
            self._count(piece.usage)
        for choice in piece.choices[:1]:
            text = choice.delta.content or ""
            if choice.logprobs is not None and choice.logprobs.content:
                self._add_probabilities(choice.logprobs.content)
            if (text or choice.finish_reason) and not self.began:
                self.began = True
                self.on_first()
            if text:
                self.text += text
                self.tokens += 1
            self._add_scores(getattr(choice.delta, "grounding", None))
            if choice.finish_reason:
                self.ended_by = "length" if choice.finish_reason == "length" else "end"
        return text

    def write_to(self, answer: Answer, is_json: bool) -> None:
        """Fills in what an answer says, which may be JSON, and how many tokens it has."""
        answer.raw, answer.ended_by, answer.grounding = self.text, self.ended_by, parse(self.text)
        if is_json:
            answer.grounding = replace(answer.grounding, text=self.text)  # which programs parse
        answer.scores = self._scores_of(answer.grounding.objects)
        answer.generated_tokens, answer.prompt_tokens = self.tokens, self.prompt_tokens
        answer.visual_tokens = self.image_tokens or answer.visual_tokens

    def _count(self, usage: Any) -> None:
        self.prompt_tokens, self.tokens = usage.prompt_tokens, usage.completion_tokens
        details = usage.prompt_tokens_details
        self.image_tokens = getattr(details, "image_tokens", None) or 0

    def _add_probabilities(self, tokens: Sequence[Any]) -> None:
        if not self.ends:
            self.top = {item.token: item.logprob for item in tokens[0].top_logprobs or ()}
        for item in tokens:
            self.ends.append((self.ends[-1] if self.ends else 0) + len(item.token))
            self.probabilities.append(math.exp(item.logprob))

    def _add_scores(self, grounding: Any) -> None:
        if isinstance(grounding, dict) and isinstance(objects := grounding.get("objects"), list):
            found = [item.get("score") if isinstance(item, dict) else None for item in objects]
            self.scores = [float(score) if isinstance(score, int | float) else math.nan for score in found]

    def _scores_of(self, objects: Sequence[GroundedObject]) -> tuple[float, ...]:
        if len(self.scores) == len(objects):
            return tuple(self.scores)
        return box_scores(self.text, objects, self.ends, self.probabilities)
