"""A question about several cameras: one fresh prefill of what their memories hold.

The prompt names each camera before its frames. Times count from the earliest frame in the prompt; boxes in the answer
refer to the camera with the newest frame, which comes last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from penguin_engine.runtimes.base import Runtime, check_fits, interleave, segment_length
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.evidence import Candidate, Shown, choose
from penguin_engine.scene.generation import AnswerHooks, prefill_and_generate
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.remote.brain import RemoteQuestion
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import LONGEST_TIME, SceneSession, new_answer, system_ids
from penguin_models.errors import CancelledError, NoFramesError
from penguin_models.processor import Processor
from penguin_models.quoting import shortened


def newest_last(stamps_ns: Mapping[str, int]) -> list[str]:
    """Returns cameras in prompt order, given the stamp of each one's newest frame: the newest comes last.

    Cameras with equal stamps keep the order of the mapping.
    """
    return sorted(stamps_ns, key=stamps_ns.__getitem__)


def ask_cameras(
    runtime: Runtime | RemoteQuestion,
    processor: Processor,
    sessions: Mapping[str, SceneSession],
    request: Request,
    hooks: AnswerHooks | None = None,
    pace: Pace | None = None,
    due_s: float = math.inf,
) -> Answer:
    """Answers a question about the memories of cameras: of one through its session, of several by a fresh prefill.

    Args:
        runtime: The runtime of the sessions, or the server that answers.
        processor: Processor of the same checkpoint.
        sessions: Session by camera name. Cameras without a frame are left out of the prompt.
        request: The question; its horizon counts from the newest frame of any camera.
        hooks: Callbacks for streamed text and cancellation.
        pace: The pace of the sessions.
        due_s: When the first token is due, on the clock of the pace.

    Raises:
        NoFramesError: None of the cameras has a frame.
        ContextLengthError: The frames of all cameras exceed the model's context; nothing was run.
    """
    if len(sessions) == 1 and not isinstance(runtime, RemoteQuestion):
        return next(iter(sessions.values())).ask(request, hooks, due_s)
    seen = {name: session for name, session in sessions.items() if session.memory.frames}
    if not seen:
        names = shortened(", ".join(sessions))
        raise NoFramesError(f"no frame of {names} has been seen yet; are the cameras publishing?")
    newest = {name: session.memory.frames[-1].stamp_ns for name, session in seen.items()}
    order = newest_last(newest)
    horizon_s = request.horizon_s
    oldest_ns = newest[order[-1]] - round(horizon_s * 1e9) if horizon_s else -(2**63)
    candidates = [
        Candidate(frame, seen[name].memory, name, required=frame is seen[name].memory.frames[-1])
        for name in order
        for frame in seen[name].memory.frames
        if frame.stamp_ns >= oldest_ns
    ]

    hooks, timer = hooks or AnswerHooks(), LapTimer(pace.clock) if pace else LapTimer()
    text_tokens = len(processor.encode_text(LONGEST_TIME))
    chosen, predicted_s = choose(pace, candidates, text_tokens, len(request.token_ids), due_s)
    answer = new_answer([], chosen)
    answer.frames_pending, answer.predicted_s = len(candidates) - len(chosen), predicted_s
    answer_shown(runtime, processor, sessions, chosen, request, hooks, timer, answer)
    return answer


def answer_shown(
    runtime: Runtime | RemoteQuestion,
    processor: Processor,
    sessions: Mapping[str, SceneSession],
    shown: Sequence[Shown],
    request: Request,
    hooks: AnswerHooks,
    timer: LapTimer,
    answer: Answer,
) -> None:
    """Prefills some frames into a cache of their own, generates, and fills in the answer.

    Args:
        runtime: The runtime of the sessions, or the server that answers.
        processor: Processor of the same checkpoint.
        sessions: Session by camera name; they encode the frames.
        shown: Frames in the order of the prompt, at least one, those of a camera together. If there are several
            sessions, the prompt names the cameras.
        request: The question.
        hooks: Callbacks for streamed text and cancellation.
        timer: Its current lap is the encoding.
        answer: Its counts of the prompt are set; `ended_by` becomes "cancelled" if the hooks say so.

    Raises:
        ContextLengthError: The frames exceed the model's context; nothing was run.
    """
    answer.start_ns = min(item.frame.stamp_ns for item in shown)
    if isinstance(runtime, RemoteQuestion):
        runtime.answer_shown(shown, len(sessions) > 1, request, hooks, timer, answer)
        return
    by_camera = {name: list(items) for name, items in groupby(shown, lambda item: item.candidate.camera)}
    content: list[dict[str, Any]] = []
    for name, items in by_camera.items():
        times = [(item.frame.stamp_ns - answer.start_ns) * 1e-9 for item in items]
        if len(sessions) > 1:
            content.append({"type": "text", "text": f"Camera {name}:\n"})
        content.append({"type": "video", "num_frames": len(items), "timestamps": times})
    # Everything up to the last frame; the question after it is tokenised already.
    first, *texts = [*processor.prompt_segments([{"role": "user", "content": content}])[:-1], request.token_ids]
    texts = [[*system_ids(processor, next(iter(sessions.values())).system), *first], *texts]
    length = sum(map(len, texts)) + answer.visual_tokens + request.sampling.max_new_tokens
    check_fits(length, runtime.info.context_length, f"a question about {len(by_camera)} cameras with its answer")
    try:
        visual_tokens = [
            t for name, items in by_camera.items() for t in sessions[name].encoder.encode_shown(items, hooks.cancelled)
        ]
        answer.seconds["encode"] = timer.lap()
        segments = interleave(texts, visual_tokens)
        assert sum(map(segment_length, segments)) + request.sampling.max_new_tokens == length
        cache = next(iter(sessions.values())).open_cache(length)
        try:
            prefill_and_generate(answer, timer, cache, segments, processor, request.sampling, hooks)
        finally:
            cache.close()
    except CancelledError:
        answer.ended_by = "cancelled"
