"""Time to the first token of a question: with the prefix reused, prefilled anew, and done offline from the frames."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from penguin_engine.runtimes.base import PromptSegment, Runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.offline import ask
from penguin_engine.scene.session import SceneSession
from penguin_models.media import ClipFrame
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor
from penguin_models.types import Frame, UInt8Array

_QUESTION = "What has changed on the table?"
_FIRST = Sampling(max_new_tokens=1)
_REPEATS = 3


def first_token(runtime: Runtime, processor: Processor, visual_tokens: int) -> dict[str, Any]:
    """Seconds to the first token over a memory of about so many visual tokens, medians of three.

    - reused: a second question to a session that is up to date;
    - fresh: the whole prompt prefilled again, the frames encoded already;
    - offline: as the released code answers: every frame labelled by its rule, encoded at its sizes and prefilled, for
      each question. The released rule needs torch; without it this is None.
    """
    frames = _frames(visual_tokens)
    session = SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(token_budget=visual_tokens + 400))
    for frame in frames:
        session.observe(frame)
        session.prefill_pending()
    first = session.ask(_QUESTION, _FIRST)
    held = session.memory.frames
    times = [(seen.stamp_ns - held[0].stamp_ns) * 1e-9 for seen in held]
    parts: list[PromptSegment] = []
    for number, (seen, time_s) in enumerate(zip(held, times, strict=True)):
        parts += [processor.video_time_ids(time_s, first=number == 0), seen.encoded]
    content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    tail = processor.prompt_segments([{"role": "user", "content": content}])[-1]

    def fresh() -> None:
        cache = runtime.open_cache(first.prompt_tokens + 64)
        cache.append([*parts, tail])
        cache.close()

    def offline() -> None:
        from penguin_models.reference_policy import ReferencePolicy

        clip = [ClipFrame(float(i), frame.rgb) for i, frame in enumerate(frames)]
        ask(
            runtime, processor, _QUESTION, clip=clip, policy=ReferencePolicy(), max_tokens=visual_tokens,
            size_rule="reference", sampling=_FIRST,
        )  # fmt: skip

    reused_s = _median(lambda: session.ask(_QUESTION, _FIRST))
    fresh_s = _median(fresh)
    offline_s = _median(offline) if importlib.util.find_spec("torch") else None
    session.close()
    return {
        "visual_tokens": first.visual_tokens,
        "frames": len(held),
        "reused_s": reused_s,
        "fresh_s": fresh_s,
        "offline_s": offline_s,
        "fresh_over_reused": fresh_s / reused_s,
        "offline_over_reused": offline_s and offline_s / reused_s,
    }


def _frames(visual_tokens: int) -> list[Frame]:
    """VGA pictures, 391 tokens each, just as many as fit."""
    random = np.random.default_rng(0)
    picture: UInt8Array = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    count = max(1, round(visual_tokens / 391))
    return [Frame(np.roll(picture, 40 * i, axis=1), i * 10**9) for i in range(count)]


def _median(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
