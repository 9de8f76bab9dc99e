"""The request of a caption, cut to what there is time for."""

from __future__ import annotations

from dataclasses import replace

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.camera_state import CaptionConfig
from penguin_engine.scene.grammar_state import shortest_answer
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import Request
from penguin_models.processor import Processor


def caption_request(runtime: Runtime, processor: Processor, config: CaptionConfig, pace: Pace | None) -> Request:
    """Returns the request of a caption.

    Args:
        runtime: Runs the model.
        processor: Processor of the same checkpoint.
        config: What the caption is like.
        pace: Cuts captions; one that follows a schema not below what the schema requires. None if nothing is cut.

    Raises:
        PromptError: The schema requires more tokens than a caption may have.
    """
    sampling = config.sampling
    request = Request.prepare(processor, config.prompt, sampling)
    shortest = 0
    if sampling.grammar is not None and runtime.info.vocab_size:  # without a vocabulary, a server follows it
        shortest = shortest_answer(processor, runtime.info.vocab_size, sampling.grammar, sampling.max_new_tokens)
    if pace is None:
        return request
    tokens = max(shortest, pace.caption_tokens(sampling.max_new_tokens, len(request.token_ids)))
    return replace(request, sampling=replace(sampling, max_new_tokens=tokens))
