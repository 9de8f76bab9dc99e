"""What must stay as it is while a run is resumed: settings and data that decide what it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penguin_models.errors import TrainingError
from penguin_training.settings import StageSettings

_FREE = (
    "name.",
    "output.",
    "data.workers.",
    *(f"engine.{name}." for name in ("compile", "gradient_checkpointing", "sharding")),
    *(f"engine.{name}." for name in ("keep", "log_every", "save_every", "trackers")),
)
"""Settings that change nothing in what is learnt, or no more than rounding does."""


def decisive(settings: StageSettings, digests: Sequence[str]) -> dict[str, Any]:
    """What a state is written with, and is compared with when it is resumed; plain values for JSON.

    Args:
        settings: of the stage.
        digests: of its annotation files and their lengths; none of streams, which are not known before they are read.

    Returns:
        Settings by their keys with dots, and the digests.
    """
    found = {key: value for key, value in _flat(asdict(settings)).items() if not f"{key}.".startswith(_FREE)}
    return found | {f"the content of data.files.{number}": digest for number, digest in enumerate(digests)}


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], state: Path) -> None:
    """Raises TrainingError where a run would go on with other settings, or other data, than its state was written with.

    Args:
        before: what `decisive` gave when the state was written.
        now: what it gives.
        state: folder of the state.
    """
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise TrainingError(
            f"{state} was written with other settings: {'; '.join(changed)}. Set them back, or begin a new run from "
            f"it: another output, with model.start {state}"
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values of nested settings by their keys with dots; what is null or empty is not there."""
    if isinstance(value, dict):
        items = [(str(name), below) for name, below in value.items()]
    elif isinstance(value, list):
        items = [(str(number), below) for number, below in enumerate(value)]
    else:
        return {} if value is None else {key: value}
    return {k: v for name, below in items for k, v in _flat(below, f"{key}.{name}" if key else name).items()}
