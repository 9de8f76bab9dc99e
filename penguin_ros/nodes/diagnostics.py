"""Content of `/diagnostics`: one status for the node and one for each camera, levels with their reasons."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from penguin_engine.runtimes.base import RuntimeInfo
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.worker import SceneWorker
from penguin_models.quoting import quoted
from penguin_ros.bridge import bridge, bridge_fault
from penguin_ros.nodes.cameras import Camera
from penguin_ros.nodes.episode_recorder import EpisodeRecorder
from penguin_ros.nodes.outputs import Outputs
from penguin_ros.settings import NodeSettings

_MANY = 0.1
"""Share of images that are lost which is a warning."""


class Health:
    """Level of a status: the worst one wins, and every reason is reported."""

    def __init__(self) -> None:
        self.level = DiagnosticStatus.OK
        self._reasons: list[str] = []

    def warn_if(self, condition: bool, reason: str, level: bytes = DiagnosticStatus.WARN) -> None:
        """Adds a reason if a condition holds."""
        if condition:
            self.level = max(self.level, level)
            self._reasons.append(reason)

    def status(self, name: str, hardware_id: str, values: dict[str, Any]) -> DiagnosticStatus:
        """Returns the message."""
        shown = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
        message = "; ".join(self._reasons) or "OK"
        return DiagnosticStatus(level=self.level, name=name, message=message, hardware_id=hardware_id, values=shown)


def add_callback_errors(status: DiagnosticStatus, errors: int, newest: str) -> None:
    """Adds how many messages, requests and timers of a node failed, and why the last one did."""
    status.values = [
        *status.values,
        KeyValue(key="callback errors", value=str(errors)),
        KeyValue(key="newest callback error", value=newest),
    ]


def inactive_status(name: str, state: str, error: str) -> DiagnosticStatus:
    """Returns the status of a node that is not active: its state, and the error that led to it, if any."""
    health = Health()
    health.warn_if(bool(error), error, DiagnosticStatus.ERROR)
    health.warn_if(True, f"the node is {state}")
    return health.status(name, "", {})


def node_status(
    name: str, worker: SceneWorker, settings: NodeSettings, info: RuntimeInfo, outputs: Outputs, clock_trouble: str
) -> DiagnosticStatus:
    """Returns queue, model, runtime, latencies and clock of an active node."""
    health, target_s = Health(), settings["latency_target_s"]
    first_s, pace = outputs.answers.first_token_p95_s, worker.pace
    needs = f"; the newest frame alone needs {pace.needed_s:.2f} s here" if pace is not None and pace.missed else ""
    slow = f"the first token of an answer takes {first_s:.2f} s (p95), above latency_target_s = {target_s:g}{needs}"
    health.warn_if(0 < target_s < first_s, slow)
    health.warn_if(bool(behind := _watch_delay(worker)), behind, DiagnosticStatus.OK)
    health.warn_if(len(worker.queue) >= worker.queue.limit, "the queue of questions is full")
    health.warn_if(bool(clock_trouble), clock_trouble)
    fault = bridge_fault()
    health.warn_if(fault is not None, str(fault), DiagnosticStatus.OK)  # images are converted all the same
    health.warn_if(outputs.errors > 0, f"{outputs.errors} unexpected errors, the last: {outputs.last_error}")
    budgets = [state.session.memory.config.token_budget for state in worker.camera_states.values()]
    values = {
        "model": settings["model"],
        "runtime": info.name,
        "device": info.device,
        "precision": info.dtype,
        "image conversion": "built in" if bridge() is None else "cv_bridge",
        "context length [tokens]": info.context_length,
        "token budget [tokens]": sum(budgets),
        "questions waiting": len(worker.queue),
        "question running": worker.queue.running,
        "questions refused": worker.queue.refused,
        "answers": outputs.answers.count,
        "captions": outputs.captions.count,
        "pace": "off" if pace is None else pace.reason or "the machine keeps up",
        "load of looking": "" if pace is None else pace.load,
        "deadlines that could not be met": "" if pace is None else pace.missed,
        "captions preempted": worker.captions_preempted,
        **_watch_values(worker),
        "errors": outputs.errors,
    }
    values |= {f"answer {key}": value for key, value in outputs.answers.percentiles().items()}
    values |= {f"caption {key}": value for key, value in outputs.captions.percentiles().items()}
    return health.status(name, settings["model"], values)


def _watch_delay(worker: SceneWorker) -> str:
    """Returns which condition is judged much less often than wanted; empty if none is."""
    if (slowest := worker.watches.slowest) is None:
        return ""
    wanted_s, condition = slowest.request.period_s, quoted(slowest.request.condition)
    return (
        f"the condition {condition} is judged every {slowest.period_s:.2f} s instead of every {wanted_s:g} s: its "
        "frames come no faster, or the share of looking (pace.load) is used up"
    )


def _watch_values(worker: SceneWorker) -> dict[str, Any]:
    """Returns how many conditions are watched for, at what cost, and how they are calibrated."""
    watches, found = worker.watches, worker.watches.calibration
    fitted = f"scale {found.scale:.3f}, offset {found.offset:.3f}, from {found.samples} judgements"
    return {
        "watches": len(watches),
        "watches refused": watches.refused,
        "longest watch period [s]": max((watch.period_s for watch in watches.pending()), default=0.0),
        "load of watches": "" if worker.pace is None else worker.pace.watch_load,
        "watch calibration": fitted if found.samples else "none",
    }


def episodes_status(name: str, episodes: EpisodeRecorder) -> DiagnosticStatus:
    """Returns what the store of episodes has written, and what went wrong."""
    health, status = Health(), episodes.store.status
    level = DiagnosticStatus.ERROR if status.failing else DiagnosticStatus.WARN
    health.warn_if(bool(status.problem), status.problem, level)
    health.warn_if(status.lost > 0, f"{status.lost} episodes were lost")
    return health.status(f"{name}: episodes", episodes.store.name, episodes.values())


def camera_statuses(
    name: str, cameras: Iterable[Camera], worker: SceneWorker, settings: NodeSettings
) -> Iterable[DiagnosticStatus]:
    """Yields rate, age, losses, stamps and memory of each camera."""
    for camera in cameras:
        yield _camera_status(f"{name}: {camera.name}", camera, worker.camera_states[camera.name], settings)


def _camera_status(name: str, camera: Camera, camera_state: CameraState, settings: NodeSettings) -> DiagnosticStatus:
    health, memory, mailbox = Health(), camera_state.session.memory, camera_state.mailbox
    now_s = monotonic()
    age_s = None if camera.arrived_s is None else now_s - camera.arrived_s
    if age_s is None:
        is_late = now_s - camera.opened_s > settings["camera_timeout_s"]
        level = DiagnosticStatus.ERROR if is_late else DiagnosticStatus.WARN
        health.warn_if(True, f"no image yet: {camera_state.silence}", level)
    elif camera_state.silence:
        health.warn_if(True, f"stale: no image for {age_s:.1f} s: {camera_state.silence}", DiagnosticStatus.ERROR)
    else:
        for warning in camera.warnings(settings["sample_rate_hz"]):
            health.warn_if(True, warning)
    health.warn_if(camera_state.newest_failed, f"the newest image could not be read: {camera_state.last_error}")
    counters, stamps = memory.counters, camera.stamps
    late = mailbox.late + counters.late
    many = _MANY * mailbox.received
    bad, error = camera_state.bad_frames, camera_state.last_error
    is_often_bad = bad > many and not camera_state.newest_failed
    health.warn_if(is_often_bad, f"{bad} of {mailbox.received} images could not be read, the last: {error}")
    health.warn_if(
        late > many,
        f"{late} of {mailbox.received} images were older than the newest one and were dropped: is there more than one "
        "publisher?",
    )
    values = {
        "rate [Hz]": camera.rate_hz(),
        "age of the newest image [s]": "" if age_s is None else age_s,
        "images": mailbox.received,
        "skipped by the sampling rate": mailbox.skipped,
        "dropped": mailbox.dropped,
        "late": late,
        "failed to convert": camera_state.bad_frames,
        "unstamped": stamps.unstamped,
        "repeated stamps": stamps.repeated,
        "jumps back in time": stamps.jumps_back,
        "memory [tokens]": memory.tokens,
        "memory budget [tokens]": memory.config.token_budget,
        "frames held": len(memory.frames),
        "keyframes": counters.keyframes,
        "compactions": counters.compactions,
        "clears": counters.clears,
        "captions": camera_state.captions,
        "captions skipped": camera_state.captions_skipped,
        **camera.video_values(),
    }
    return health.status(name, camera.name, values)


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
