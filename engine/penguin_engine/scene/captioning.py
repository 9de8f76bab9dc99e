"""Captions: made of the newest frame of a camera when one is due, cut to what there is time for."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.grammar_state import shortest_answer
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.requests import Outcome, Request
from penguin_engine.scene.scene import Scene
from penguin_models.errors import PromptError
from penguin_models.processor import Processor

_LOOK_S = 1.0
"""With a pace, a caption looks at frames that are not prefilled yet while its first token is due within this time."""


def make_caption(scene: Scene) -> bool:
    """Makes a caption of the camera that has waited longest; returns False if none is due."""
    for state in sorted(scene.camera_states.values(), key=lambda state: state.captioned_s):
        frame = state.caption_due(scene.caption)
        if frame is not None:
            server = scene.server
            work = partial(_describe, scene, state, frame, server)
            scene.guarded("making a caption", work, state if server is None else None)
            return True
    return False


def _describe(scene: Scene, state: CameraState, frame: HeldFrame, server: RemoteBrain | None) -> None:
    pixels = frame.pixels  # the frame may shrink meanwhile
    pace = scene.pace if server is None else None
    try:
        request = caption_request(scene.runtime, scene.processor, scene.caption, pace)
    except PromptError as err:  # the session is as it was
        state.captioned(frame)
        scene.listener.on_failure("making a caption", err)
        return
    start_s = scene.clock()
    if server is None:
        due_s = math.inf if pace is None else start_s + _LOOK_S
        answer = state.session.ask(request, scene.unasked_hooks, due_s)
    else:
        question = server.question(start_s + scene.caption.max_age_s)
        sessions = {state.camera: state.session}
        answer = ask_cameras(question, scene.processor, sessions, request, scene.unasked_hooks)
    if pace is not None:
        pace.captioned(scene.clock() - start_s)
    if answer.ended_by == "cancelled":
        scene.captions_preempted += 1
        return
    state.captioned(frame)
    state.captions += 1
    scene.listener.on_caption(scene.located(Outcome(answer, state.camera, frame, pixels)))


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
    if sampling.grammar is not None and runtime.info.vocab_size:  # otherwise only a server has the vocabulary
        shortest = shortest_answer(processor, runtime.info.vocab_size, sampling.grammar, sampling.max_new_tokens)
    if pace is None:
        return request
    tokens = max(shortest, pace.caption_tokens(sampling.max_new_tokens, len(request.token_ids)))
    return replace(request, sampling=replace(sampling, max_new_tokens=tokens))
