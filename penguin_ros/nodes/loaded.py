"""What the node loads before it is configured, on a thread of its own: the model, the server, and the episodes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.captioning import caption_request
from penguin_engine.scene.episodes import EpisodeStore
from penguin_engine.scene.first_costs import measure
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_models.processor import Processor
from penguin_ros.bridge import bridge_fault
from penguin_ros.nodes.episode_recorder import open_store
from penguin_ros.nodes.lifecycle_bond import check_bond
from penguin_ros.nodes.remote import open_models
from penguin_ros.settings import NodeSettings

OpenModel = Callable[[NodeSettings], tuple[Runtime, Processor]]


@dataclass(frozen=True)
class Loaded:
    """What was loaded; `close` frees it."""

    runtime: Runtime
    processor: Processor
    remote: RemoteBrain | None  # the server that answers
    store: EpisodeStore | None  # of episodes
    pace: Pace | None  # knows what the runtime's operations cost here
    opened: ExitStack

    def close(self) -> None:
        """Frees model, server and store."""
        self.opened.close()


def load(settings: NodeSettings, open_model: OpenModel) -> Loaded:
    """Loads what some settings name.

    Args:
        settings: The node's parameters.
        open_model: Returns runtime and processor.

    Raises:
        PenguinError: Something cannot be loaded.
    """
    bridge_fault()  # tries cv_bridge in another process, which takes a second; the result is kept
    check_bond(settings["bond_heartbeat_period"])
    with ExitStack() as opened:
        store = open_store(settings)
        if store is not None:
            opened.callback(store.close)
        runtime, processor, remote = open_models(settings, open_model)
        opened.callback(runtime.close)
        if remote is not None:
            opened.callback(remote.close)
        pace = Pace(settings.pace) if settings["pace"] and settings.local_model else None
        if pace is not None:
            measure(runtime, processor, pace, settings.memory(processor.images))
        caption_request(runtime, processor, settings.caption, None)  # prepares the vocabulary for a schema
        kept = opened.pop_all()
    return Loaded(runtime, processor, remote, store, pace, kept)
