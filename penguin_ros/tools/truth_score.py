"""Scores captions and answers about a recording of the simulated table-top against the truth of the same frame.

Does not import ROS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penguin_models.grounding import GroundedObject, format_grounding
from penguin_ros.evaluation.tabletop.scenes import summarise
from penguin_ros.evaluation.tabletop.scores import Score, Scored, score_answer
from penguin_tabletop.conversations.turns import ExpectedReply, Turn


@dataclass
class TruthScore:
    """Scores of predictions about frames whose objects are known."""

    truths: Mapping[int, Sequence[GroundedObject]]  # objects of each frame, by its stamp in nanoseconds
    scored: list[Scored] = field(default_factory=list)  # scores of all predictions that could be compared

    def caption(self, stamp_ns: int, predicted: Sequence[GroundedObject]) -> Scored | None:
        """Scores a grounded caption; returns None if the truth about its frame is unknown."""
        truth = self.truths.get(stamp_ns)
        if truth is None:
            return None
        return self._score(
            Turn("caption_grounded", "", "", ExpectedReply("boxes", tuple(truth))), format_grounding(predicted)
        )

    def questions(self, stamp_ns: int) -> list[str]:
        """Returns questions that the truth about a frame answers: how many, where one is, whether one is there."""
        newest = self.truths.get(stamp_ns, ())
        labels = [item.label for item in newest]
        single = [label for label in labels if labels.count(label) == 1]
        asked = ["How many objects are there? Answer with one word."]
        if single:
            article = "an" if single[0][0] in "aeiou" else "a"
            asked += [f"Where is the {single[-1]}?", f"Is there {article} {single[0]}? Answer with one word."]
        return asked

    def answer(self, question: str, stamp_ns: int, text: str, predicted: Sequence[GroundedObject]) -> Scored | None:
        """Scores the answer to one of `questions` by the truth about its frame; returns None if that is unknown."""
        truth = self.truths.get(stamp_ns)
        if truth is None:
            return None
        if question.startswith("How many"):
            return self._score(Turn("count", question, "", ExpectedReply("number", number=len(truth))), text)
        label = question.split(maxsplit=3)[3].split("?")[0]
        matching = tuple(item for item in truth if item.label == label)
        if question.startswith("Where"):
            expected = ExpectedReply("boxes", matching)
            return self._score(Turn("find_by_name", question, "", expected), format_grounding(predicted))
        options = ("yes", "no")
        expected = ExpectedReply("choice", answer=options[not matching], options=options)
        return self._score(Turn("existence", question, "", expected), text)

    def summary(self) -> dict[str, Score]:
        """Returns the scores of everything compared so far."""
        return summarise([[scored] for scored in self.scored])

    def _score(self, turn: Turn, raw: str) -> Scored:
        scored = score_answer(turn, raw)
        self.scored.append(scored)
        return scored
