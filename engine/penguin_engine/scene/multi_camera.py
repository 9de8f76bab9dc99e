"""A question about several cameras: one fresh prefill of what each of their memories holds.

The prompt names each camera before its frames. Times count from the first frame that is shown of any of them; boxes in
the answer refer to the camera that saw last, which comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penguin_engine.runtimes.base import Runtime, check_fits, interleave, segment_length
from penguin_engine.scene.answer import Answer, Clock
from penguin_engine.scene.generation import Sampling, prefill_and_generate
from penguin_engine.scene.session import SceneSession, check_horizon, check_question, new_answer
from penguin_models.errors import NoFramesError
from penguin_models.processor import Processor


def newest_last(stamps_ns: Mapping[str, int]) -> list[str]:
    """Cameras in the order in which a question shows them, given the stamps of their newest frames.

    Of cameras that see at the same moment the one that is named last comes last.
    """
    return sorted(stamps_ns, key=stamps_ns.__getitem__)


def ask_cameras(
    runtime: Runtime,
    processor: Processor,
    sessions: Mapping[str, SceneSession],
    question: str,
    sampling: Sampling | None = None,
    horizon_s: float = 0.0,
    on_text: Callable[[str], None] = lambda piece: None,
    cancelled: Callable[[], bool] = lambda: False,
    on_token: Callable[[int], None] = lambda count: None,
) -> Answer:
    """Answers a question about the memories of several cameras.

    Args:
        runtime: runs the model; the one of the sessions.
        processor: of the same checkpoint.
        sessions: name of each camera -> its session. Those that have seen nothing are left out.
        question: plain text.
        sampling: how the answer is generated.
        horizon_s: look back at most so far from the newest frame of any camera; 0 for everything held.
        on_text: called with each piece of text as it comes.
        cancelled: asked between two tokens.
        on_token: called after each token with their number; frames may be observed from it.

    Raises:
        NoFramesError: none of them has seen anything.
        PromptError: an empty question, reserved tokens in it, or a negative horizon.
        ContextLengthError: the frames of all cameras do not fit into the model's context; nothing was run.
    """
    sampling = sampling or Sampling()
    check_question(question)
    check_horizon(horizon_s)
    seen = {name: session for name, session in sessions.items() if session.memory.frames}
    if not seen:
        raise NoFramesError(f"none of {', '.join(sessions)} has seen a frame yet; are the cameras publishing?")
    newest = {name: session.memory.frames[-1].stamp_ns for name, session in seen.items()}
    order = newest_last(newest)
    newest_ns = newest[order[-1]]
    oldest_ns = newest_ns - round(horizon_s * 1e9) if horizon_s else -(2**63)
    shown = {name: [f for f in seen[name].memory.frames if f.stamp_ns >= oldest_ns] for name in order}
    shown = {name: frames for name, frames in shown.items() if frames}
    frames = [frame for name in shown for frame in shown[name]]

    clock, answer = Clock(), new_answer(frames)
    answer.start_ns = min(frame.stamp_ns for frame in frames)
    content: list[dict[str, Any]] = []
    for name, held in shown.items():
        times = [(frame.stamp_ns - answer.start_ns) * 1e-9 for frame in held]
        content.append({"type": "text", "text": f"Camera {name}:\n"})
        content.append({"type": "video", "num_frames": len(held), "timestamps": times})
    content.append({"type": "text", "text": question})
    texts = processor.prompt_segments([{"role": "user", "content": content}])
    wanted = sum(map(len, texts)) + answer.visual_tokens + sampling.max_new_tokens
    check_fits(wanted, runtime.info.context_length, f"a question about {len(shown)} cameras with its answer")
    for name, held in shown.items():
        seen[name].encode(held)
    answer.seconds["encode"] = clock.lap()
    parts = interleave(texts, [frame.encoded for frame in frames])
    assert sum(map(segment_length, parts)) + sampling.max_new_tokens == wanted
    cache = runtime.open_cache(wanted)
    try:
        prefill_and_generate(answer, clock, cache, parts, processor, sampling, on_text, cancelled, on_token)
    finally:
        cache.close()
    return answer
