"""What must stay as it is while a run is resumed: settings and data that decide what it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from penguin_models.errors import TrainingError
from penguin_training.settings.stage import StageSettings

_FREE = (
    "name.",
    "output.",
    *(f"engine.{name}." for name in ("compile", "gradient_checkpointing", "sharding")),
    *(f"engine.{name}." for name in ("keep", "log_every", "save_every", "trackers")),
)
"""Settings that change nothing in what is learnt, or no more than rounding does."""


def resume_fingerprint(settings: StageSettings, digests: Sequence[str]) -> dict[str, Any]:
    """What a state is written with, and is compared with when it is resumed; plain values for JSON.

    Args:
        settings: of the stage.
        digests: of its annotation files and their lengths; none of streams, which are not known before they are read.

    Returns:
        Settings by their keys with dots, and the digests.
    """
    free = _FREE if settings.data.streamed else (*_FREE, "data.workers.")  # a stream is shared out among its workers
    found = {key: value for key, value in _flat(asdict(settings)).items() if not f"{key}.".startswith(free)}
    return found | {f"the content of data.files.{number}": digest for number, digest in enumerate(digests)}


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], settings: StageSettings, state: Path) -> None:
    """Raises TrainingError where a run would go on with other settings, or other data, than its state was written with.

    Args:
        before: what `decisive` gave when the state was written, perhaps by an older version with fewer settings.
        now: what it gives.
        settings: of the stage.
        state: folder of the state.
    """
    sections = {_section(key) for key in before}
    younger = {key: value for key, value in _defaults(settings).items() if key in now and _section(key) in sections}
    before = {**younger, **before}
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


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _defaults(settings: Any, section: str = "") -> dict[str, Any]:
    """What settings are where nobody gives them, by their keys with dots."""
    found: dict[str, Any] = {}
    for field in fields(settings):
        key, value = f"{section}{field.name}", getattr(settings, field.name)
        if field.default is not MISSING:
            found[key] = field.default
        parts = value if isinstance(value, list) else [value]
        for number, part in enumerate(parts):
            if is_dataclass(part):
                found |= _defaults(part, f"{key}.{number}." if parts is value else f"{key}.")
    return found


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values of nested settings by their keys with dots; what is empty is not there."""
    if isinstance(value, dict):
        items = [(str(name), below) for name, below in value.items()]
    elif isinstance(value, list):
        items = [(str(number), below) for number, below in enumerate(value)]
    else:
        return {key: value}
    return {k: v for name, below in items for k, v in _flat(below, f"{key}.{name}" if key else name).items()}
