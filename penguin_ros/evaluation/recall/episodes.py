"""The method "episodes": the memory together with a store of keyframes and their captions, as the node keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import EpisodeStore, open_episodes
from penguin_engine.scene.recall import ask_recall
from penguin_engine.scene.requests import Request
from penguin_models.errors import EvaluationError
from penguin_models.grounding import Grounding
from penguin_ros.evaluation.recall.methods import CAMERA, SAMPLING, SeenRecording, ask_full_size, seconds_since_start
from penguin_ros.evaluation.recall.questions import AskedQuestion

_CAPTION_PROMPT = "What is in the picture?"
_CAPTION_PERIOD_NS = 2 * 10**9
"""Keyframes that follow each other faster have no caption of their own, as on a robot that has other work to do."""
_FLUSH_S = 60.0


def from_episodes(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from memory and episodes; each question is about the whole recording."""
    runtime, processor = seen.remembering, seen.model.processor
    answers, seconds = [], seconds_since_start(seen.frames[-1].stamp_ns)
    with _filled_store(seen) as store:
        for item in asked:
            request = Request.prepare(processor, item.turn.question, SAMPLING, horizon_s=seconds)
            answers.append(ask_recall(runtime, processor, {CAMERA: seen.session}, store, request))
    return answers


@contextmanager
def _filled_store(seen: SeenRecording) -> Iterator[EpisodeStore]:
    """Opens a temporary store with all keyframes of a recording.

    Each caption is about its frame alone; a node's captions also see the memory, which would cost a prefill of it each.
    """
    captioned_ns = -_CAPTION_PERIOD_NS
    with TemporaryDirectory() as folder, open_episodes(Path(folder) / "episodes.db") as store:
        for frame in seen.keyframes:
            about = Grounding("")
            if frame.stamp_ns - captioned_ns >= _CAPTION_PERIOD_NS:
                [answer] = ask_full_size(seen.remembering, seen, [frame], [_CAPTION_PROMPT])
                about, captioned_ns = answer.grounding, frame.stamp_ns
            store.add(Episode(CAMERA, frame.stamp_ns, caption=about.text, objects=about.objects), frame.rgb)
            store.flush(_FLUSH_S)
        if problem := store.status.problem:
            raise EvaluationError(f"keyframes cannot be stored in {folder}: {problem}")
        yield store
