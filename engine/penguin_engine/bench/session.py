"""Time to the first token of a question: with the prefix reused, prefilled again, and offline from the frames."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from penguin_engine.bench.machine import timed
from penguin_engine.bench.worker_process import VGA_TOKENS, vga_frames
from penguin_engine.runtimes.base import PromptSegment, Runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.offline import ask
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.media import ClipFrame
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor

_QUESTION = "What has changed on the table?"
_FIRST = Sampling(max_new_tokens=1)


def first_token(runtime: Runtime, processor: Processor, visual_tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Returns seconds to the first token over a memory of about `visual_tokens`, medians of `repeats` runs.

    - reused: a second question to a session that is up to date;
    - fresh: the whole prompt prefilled again, with the frames encoded before;
    - offline: as the released code answers: each question labels every frame by the released rule, encodes and
      prefills it. That rule needs torch; the time is None without it.
    """
    frames = vga_frames(max(1, round(visual_tokens / VGA_TOKENS)))
    session = SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(token_budget=visual_tokens + 400))
    for frame in frames:
        session.observe(frame)
        session.prefill_pending()
    request = Request.prepare(processor, _QUESTION, _FIRST)
    first = session.ask(request)
    prompt = [*_scene_segments(session, processor), request.token_ids]

    def fresh() -> None:
        cache = runtime.open_cache(first.prompt_tokens + 64)
        cache.append(prompt)
        cache.close()

    def offline() -> None:
        from penguin_models.reference_policy import ReferencePolicy

        clip = [ClipFrame(float(i), frame.rgb) for i, frame in enumerate(frames)]
        ask(
            runtime, processor, _QUESTION, clip=clip, policy=ReferencePolicy(), max_tokens=visual_tokens,
            size_rule="reference", sampling=_FIRST,
        )  # fmt: skip

    reused_s = timed(lambda: session.ask(request), 0, repeats)
    fresh_s = timed(fresh, 0, repeats)
    offline_s = timed(offline, 0, repeats) if importlib.util.find_spec("torch") else None
    result = {
        "visual_tokens": first.visual_tokens,
        "frames": len(session.memory.frames),
        "reused_s": reused_s,
        "fresh_s": fresh_s,
        "offline_s": offline_s,
        "fresh_over_reused": fresh_s / reused_s,
        "offline_over_reused": offline_s and offline_s / reused_s,
    }
    session.close()
    return result


def _scene_segments(session: SceneSession, processor: Processor) -> Iterator[PromptSegment]:
    frames = session.memory.frames
    for frame in frames:
        yield processor.video_time_ids((frame.stamp_ns - frames[0].stamp_ns) * 1e-9, first=frame is frames[0])
        yield frame.encoded
