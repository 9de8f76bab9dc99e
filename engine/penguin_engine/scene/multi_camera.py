"""A question about several cameras: one fresh prefill of what their memories hold.

The prompt names each camera before its frames. Times count from the earliest frame in the prompt; boxes in the answer
refer to the camera with the newest frame, which comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguin_engine.runtimes.base import Runtime, check_fits, interleave, segment_length
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.generation import AnswerHooks, prefill_and_generate
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession, new_answer
from penguin_models.errors import NoFramesError
from penguin_models.processor import Processor
from penguin_models.quoting import shortened


def newest_last(stamps_ns: Mapping[str, int]) -> list[str]:
    """Returns cameras in prompt order, given the stamp of each one's newest frame: the newest comes last.

    Cameras with equal stamps keep the order of the mapping.
    """
    return sorted(stamps_ns, key=stamps_ns.__getitem__)


def ask_cameras(
    runtime: Runtime,
    processor: Processor,
    sessions: Mapping[str, SceneSession],
    request: Request,
    hooks: AnswerHooks | None = None,
) -> Answer:
    """Answers a question about the memories of cameras: of one through its session, of several by a fresh prefill.

    Args:
        runtime: The runtime of the sessions.
        processor: Processor of the same checkpoint.
        sessions: Session by camera name. Cameras without a frame are left out of the prompt.
        request: The question; its horizon counts from the newest frame of any camera.
        hooks: Callbacks for streamed text and cancellation.

    Raises:
        NoFramesError: None of the cameras has a frame.
        ContextLengthError: The frames of all cameras exceed the model's context; nothing was run.
    """
    if len(sessions) == 1:
        return next(iter(sessions.values())).ask(request, hooks)
    seen = {name: session for name, session in sessions.items() if session.memory.frames}
    if not seen:
        names = shortened(", ".join(sessions))
        raise NoFramesError(f"no frame of {names} has been seen yet; are the cameras publishing?")
    newest = {name: session.memory.frames[-1].stamp_ns for name, session in seen.items()}
    order = newest_last(newest)
    horizon_s = request.horizon_s
    oldest_ns = newest[order[-1]] - round(horizon_s * 1e9) if horizon_s else -(2**63)
    shown = {name: [f for f in seen[name].memory.frames if f.stamp_ns >= oldest_ns] for name in order}
    shown = {name: frames for name, frames in shown.items() if frames}
    frames = [frame for name in shown for frame in shown[name]]

    timer, answer = LapTimer(), new_answer(frames)
    answer.start_ns = min(frame.stamp_ns for frame in frames)
    content: list[dict[str, Any]] = []
    for name, held in shown.items():
        times = [(frame.stamp_ns - answer.start_ns) * 1e-9 for frame in held]
        content.append({"type": "text", "text": f"Camera {name}:\n"})
        content.append({"type": "video", "num_frames": len(held), "timestamps": times})
    # Everything up to the last frame; the question after it is tokenised already.
    texts = [*processor.prompt_segments([{"role": "user", "content": content}])[:-1], request.token_ids]
    length = sum(map(len, texts)) + answer.visual_tokens + request.sampling.max_new_tokens
    check_fits(length, runtime.info.context_length, f"a question about {len(shown)} cameras with its answer")
    for name, held in shown.items():
        seen[name].encode(held)
    answer.seconds["encode"] = timer.lap()
    segments = interleave(texts, [frame.encoded for frame in frames])
    assert sum(map(segment_length, segments)) + request.sampling.max_new_tokens == length
    cache = runtime.open_cache(length)
    try:
        prefill_and_generate(answer, timer, cache, segments, processor, request.sampling, hooks or AnswerHooks())
    finally:
        cache.close()
    return answer
