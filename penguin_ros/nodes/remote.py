"""The node's remote brain: opened with the models of the node, and shown in its diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from diagnostic_msgs.msg import DiagnosticStatus

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.remote.no_model import NoModel, processor_without_tokens
from penguin_engine.scene.remote.opening import open_brain
from penguin_models.processor import Processor
from penguin_ros.nodes.diagnostics import Health
from penguin_ros.settings import NodeSettings

_FAILURES = {
    "unreachable": "unreachable",
    "late": "no token in time",
    "busy": "refused as busy (429)",
    "failed": "failed on the server (5xx)",
    "broken": "ended in the middle",
    "refused": "refused (4xx)",
}
"""Kinds of failed requests, see `RequestFailure`, in the words of the diagnostics."""


def open_models(
    settings: NodeSettings, open_local: Callable[[NodeSettings], tuple[Runtime, Processor]]
) -> tuple[Runtime, Processor, RemoteBrain | None]:
    """Opens the local model, the server, or both.

    Args:
        settings: The node's parameters.
        open_local: Loads the local model.

    Returns:
        A runtime and a processor, which have no model if only the server does, and the server's brain if it is wanted.

    Raises:
        PenguinError: A model cannot be loaded, or the server has none.
    """
    if settings["runtime"] != "openai":
        return *open_local(settings), None
    has_local = settings.local_model is not None
    brain, context_length = open_brain(settings["base_url"], settings["model"], settings["api_key_file"], has_local)
    brain.system_prompt = settings["system_prompt"]
    if not has_local:
        return NoModel(settings["base_url"], context_length), processor_without_tokens(), brain
    try:
        return *open_local(settings), brain
    except BaseException:
        brain.close()
        raise


def remote_warnings(settings: NodeSettings, brain: RemoteBrain | None) -> Iterator[str]:
    """Yields what a user should know when the node has been configured."""
    for name in settings.without_effect:
        yield f"{name} has no effect with runtime {settings['runtime']} and fallback {settings['fallback']}"
    if brain is not None and brain.breaker.reason:
        yield f"{brain.server.name} {brain.breaker.reason}; {settings['fallback']} answers until it is there"


def server_status(name: str, brain: RemoteBrain, settings: NodeSettings) -> DiagnosticStatus:
    """Returns whether the server answers, what became of all requests, and how often the local model answered."""
    health, breaker, counts = Health(), brain.breaker, brain.counts
    level = DiagnosticStatus.WARN if brain.has_local or breaker.state == "closed" else DiagnosticStatus.ERROR
    health.warn_if(bool(breaker.reason), f"{brain.server.name} {breaker.reason}", level)
    health.warn_if(not brain.in_charge, f"{settings['fallback']} answers in its place")
    values = {
        "server": settings["base_url"],
        "model": settings["model"],
        "circuit": breaker.state,
        "circuit opened": breaker.opened,
        "next try in [s]": breaker.rest_s if breaker.state == "open" else "",
        "fallback": settings["fallback"],
        "answered": counts["answered"],
        "cancelled": counts["cancelled"],
        **{text: counts[kind] for kind, text in _FAILURES.items()},
        "tried again": counts["retries"],
        "not sent while the circuit was open": counts["not sent"],
        "questions left to the fallback": counts["fallbacks"],
        "probabilities of tokens": {None: "not known yet", True: "yes", False: "no"}[brain.has_logprobs],
    }
    return health.status(f"{name}: server", settings["base_url"], values)
