"""Which methods `evaluate recall` compares."""

from __future__ import annotations

from penguin_ros.evaluation.recall import methods
from penguin_ros.evaluation.recall.episodes import from_episodes
from penguin_ros.evaluation.recall.methods import Method

METHODS: dict[str, Method] = {
    "memory": methods.from_memory,
    "episodes": from_episodes,
    "window": methods.from_window,
    "last-4": methods.from_last_frames,
    "uniform": methods.from_uniform_sample,
    "offline": methods.from_offline_sample,
}
SHOWN = "shown"
GUESSES: dict[str, Method] = {"text-only": methods.from_text, "last-frame": methods.from_last_frame}
ALL_METHODS = METHODS | {SHOWN: methods.from_evidence} | GUESSES
DIFFERENCES = (("memory", "last-4"), ("memory", "window"), ("episodes", "last-4"))
"""Pairs of methods whose scores are compared, the first minus the second."""
