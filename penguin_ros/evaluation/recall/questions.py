"""Which questions are asked about a recording, and the band of age to which each belongs.

The age is the time from the end of a question's evidence to the question, which is asked at the last frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from penguin_models.types import Size
from penguin_tabletop.clips.timeline import PlannedTimeline
from penguin_tabletop.conversations.recall_tasks import Past, RecallQuestion, balanced, now_turns, recall_questions
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.seeds import Random
from penguin_tabletop.truth import SceneTruth

LAST_FRAMES = 4
RECENT = "recent"
NOMINAL_AGES_S = {"15s": 15.0, "60s": 60.0, "5min": 300.0, "30min": 1800.0, "2h": 7200.0}
"""Nominal ages of the bands of questions about the past; bands meet at the geometric mean of their ages."""
BANDS = (RECENT, *NOMINAL_AGES_S)
_UPPER_S = [math.sqrt(a * b) for a, b in pairwise(NOMINAL_AGES_S.values())]


@dataclass(frozen=True)
class AskedQuestion:
    """A question at the end of a recording. Times count from the start of the recording, in seconds."""

    turn: Turn
    evidence_s: tuple[float, float]  # when the evidence was in view
    age_s: float  # from the end of the evidence to the question
    band: str  # one of BANDS


def band_of(age_s: float) -> str:
    """Returns the band of a question about the past by the age of its evidence; a border belongs to the younger one."""
    return next((name for name, upper_s in zip(NOMINAL_AGES_S, _UPPER_S, strict=False) if age_s <= upper_s), BANDS[-1])


def choose_questions(
    recording: PlannedTimeline, now: SceneTruth, size: Size, random: Random, most: int
) -> list[AskedQuestion]:
    """Returns at most `most` questions of each band, in the order of BANDS.

    Args:
        recording: What happened.
        now: What the last frame shows.
        size: Size of the frames in pixels.
        random: Chooses.
        most: Maximum number of questions of a band; those about the past take turns between the tasks.
    """
    asked_s, recent_s = recording.stamps_s[-1], recording.stamps_s[-LAST_FRAMES]
    chosen = [AskedQuestion(turn, (asked_s, asked_s), 0.0, RECENT) for turn in now_turns(now, random, 2 * most)[:most]]
    past: dict[str, list[RecallQuestion]] = {band: [] for band in NOMINAL_AGES_S}
    for question in recall_questions(Past(recording, size, asked_s), random):
        if question.evidence_s[1] <= recent_s:  # else the last frames show some of the evidence
            past[band_of(asked_s - question.evidence_s[1])].append(question)
    for band, questions in past.items():
        chosen += [_asked(question, asked_s, band) for question in balanced(questions, most)]
    return chosen


def _asked(question: RecallQuestion, asked_s: float, band: str) -> AskedQuestion:
    return AskedQuestion(question.turn, question.evidence_s, asked_s - question.evidence_s[1], band)
