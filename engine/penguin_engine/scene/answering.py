"""Answers questions: from memory and episodes, with the earlier turns, by the runtime or the server in its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.conversations import fits_scene
from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.multi_camera import ask_cameras, newest_last
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.recall import ask_recall
from penguin_engine.scene.remote.brain import RemoteQuestion
from penguin_engine.scene.requests import Outcome, PendingRequest, Request
from penguin_engine.scene.scene import Scene
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import EpisodeError, NoFramesError, RemoteServerError
from penguin_models.quoting import shortened


def answer_question(scene: Scene, pending: PendingRequest) -> Outcome:
    """Answers a question; raises the error that the caller gets instead."""
    queue_s = scene.clock() - pending.submitted_s
    with scene.pace.answering() if scene.pace is not None else nullcontext():
        return scene.located(_ask(scene, pending, queue_s))


def _ask(scene: Scene, pending: PendingRequest, queue_s: float) -> Outcome:
    request = pending.request
    cameras = request.cameras or tuple(scene.camera_states)
    sessions = {name: scene.camera_states[name].session for name in cameras}
    newest = None if request.has_window else _newest(scene, cameras)  # episodes may answer without a frame
    pixels = newest and newest[1].pixels  # the frame may shrink meanwhile
    hooks = AnswerHooks(pending.on_text, lambda: pending.cancelled, scene.take_frames)
    due_s = pending.submitted_s + request.deadline_s if request.deadline_s else math.inf
    left_s = due_s - scene.clock()
    fits = fits_scene(sessions, scene.pace if scene.server is None else None, due_s)
    answer = scene.conversations.answer(request, fits, lambda asked: _look(scene, sessions, asked, hooks, due_s))
    if scene.pace is not None and answer.predicted_s > left_s:
        scene.pace.missed, scene.pace.needed_s = scene.pace.missed + 1, answer.predicted_s
    if answer.newest is not None:
        newest, pixels = answer.newest, answer.newest[1].pixels
    assert newest is not None and pixels is not None
    return Outcome(answer, *newest, pixels, queue_s)


def _look(
    scene: Scene, sessions: Mapping[str, SceneSession], request: Request, hooks: AnswerHooks, due_s: float
) -> Answer:
    """Answers through the server, or by the runtime if there is no server, or it fails and may be replaced."""
    if (server := scene.server) is not None:
        try:
            return _look_with(scene, server.question(due_s), None, sessions, request, hooks, due_s)
        except RemoteServerError as err:
            if not server.falls_back(err):
                raise
    elif scene.remote is not None:
        scene.remote.counts["fallbacks"] += 1
    return _look_with(scene, scene.runtime, scene.pace, sessions, request, hooks, due_s)


def _look_with(
    scene: Scene,
    runtime: Runtime | RemoteQuestion,
    pace: Pace | None,
    sessions: Mapping[str, SceneSession],
    request: Request,
    hooks: AnswerHooks,
    due_s: float,
) -> Answer:
    """Answers from memory and episodes; episodes that cannot be read are reported, and an error for a window."""
    asked = runtime, scene.processor, sessions
    try:
        return ask_recall(*asked, scene.episodes, request, hooks, pace, due_s)
    except EpisodeError as err:
        if request.has_window:
            raise
        scene.listener.on_failure("looking for episodes", err)
    return ask_cameras(*asked, request, hooks, pace, due_s)


def _newest(scene: Scene, cameras: Iterable[str]) -> tuple[str, HeldFrame]:
    held = {name: frame for name in cameras if (frame := scene.camera_states[name].newest) is not None}
    if not held:
        failure = next(filter(None, (scene.camera_states[name].failure for name in cameras)), None)
        if failure is not None:
            raise failure
        reasons = [scene.camera_states[name].why_empty for name in cameras]
        reason = "; ".join(filter(None, reasons)) or "is the camera publishing?"
        raise NoFramesError(f"no frame of {shortened(', '.join(cameras))} has been seen yet: {reason}")
    camera = newest_last({name: frame.stamp_ns for name, frame in held.items()})[-1]
    return camera, held[camera]
