"""Judges the conditions that are watched for (watches.py), each after the frames of its camera."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.scene import Scene
from penguin_engine.scene.watches import PendingWatch
from penguin_models.errors import CancelledError, NoLogprobsError
from penguin_models.watch import holds_probability, watch_question

_FRESH_S = 10.0
"""A frame that was taken longer ago is not judged: what it shows is not true now."""


def watches_due(scene: Scene, state: CameraState) -> Sequence[PendingWatch]:
    """Returns the conditions that are due on the newest frame of a camera."""
    fresh = state.observed_s is not None and scene.clock() - state.observed_s <= _FRESH_S
    return scene.watches.due(state.camera, state.newest, state.clears) if fresh else ()


def watch_due(scene: Scene, may_look: bool) -> bool:
    """Judges the conditions that are due on one camera; returns False if there are none.

    `may_look` allows it to prefill frames for it.
    """
    server = scene.server
    judge = server if server is not None and server.judges else None
    for state in sorted(scene.camera_states.values(), key=lambda state: state.watched_s):
        due = watches_due(scene, state)
        if due and (may_look or server is not None or state.session.up_to_date):
            state.watched_s = scene.clock()
            work = partial(_judge, scene, state, due, judge)
            scene.guarded("judging a condition", work, state if judge is None else None)
            return True
    return False


def _judge(scene: Scene, state: CameraState, due: Sequence[PendingWatch], server: RemoteBrain | None) -> None:
    while server is None and not state.session.up_to_date:
        if scene.is_wanted:
            return
        scene.prefill(state)
    frame, clears = state.newest, state.clears
    assert frame is not None
    pace = scene.pace if server is None else None
    for watch in due:
        start_s = scene.clock()
        try:
            probability = _probability(scene, state, watch, server)
            scene.watches.judged(watch, state.camera, frame, clears, probability)
        except CancelledError:
            return  # the rest is judged after the question
        except NoLogprobsError as err:
            if scene.remote is not None and scene.remote.has_local:
                return  # which judges from now on
            scene.watches.end(watch, err)
        finally:
            if pace is not None:
                pace.watched(scene.clock() - start_s)
        if pace is not None and pace.watch_rest_s():
            return


def _probability(scene: Scene, state: CameraState, watch: PendingWatch, server: RemoteBrain | None) -> float:
    """Returns the probability that a condition holds now, which is not calibrated if the server judges it."""
    if server is not None:
        memory, question = state.session.memory, watch_question(watch.request.condition)
        return server.judge(memory, question, scene.unasked_hooks, scene.clock() + _FRESH_S)
    logits = state.session.judge(watch.request.token_ids, lambda: scene.is_wanted)
    return holds_probability(scene.processor, logits, scene.watches.calibration)
