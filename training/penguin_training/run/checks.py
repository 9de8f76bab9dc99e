"""What is checked before the work, so that it does not fail after it: the folder of the result, and trackers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from penguin_models.errors import SettingError
from penguin_training.post_training.rewards import load_rewards
from penguin_training.settings.stage import StageSettings


def check_folder(folder: Path) -> None:
    """Raises SettingError if an output folder cannot be created or written to."""
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not existing.is_dir():
        raise SettingError(f"output {folder} cannot be a folder: {existing} is not one; write to another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SettingError(f"output {folder} cannot be written: {existing} is write-protected; write to another folder")


def check_settings(settings: StageSettings) -> None:
    """Raises SettingError if something that a stage names cannot be used.

    Its output cannot be written or is a checkpoint to read, a tracker is not installed, or there is no such reward.
    """
    output = Path(settings.output)
    check_folder(output)
    new, reconstruction = settings.model.new_model, settings.reconstruction
    decoder = settings.model.new_language_model
    inputs = {
        "model.start": settings.model.start,
        "model.new_model.llm": new and new.llm,
        "model.new_model.encoder_llm": new and new.encoder_llm,
        "model.new_language_model.tokenizer": decoder and decoder.tokenizer,
        "reconstruction.teacher.path": reconstruction and reconstruction.teacher.path,
    }
    for name, path in inputs.items():
        if path and Path(path).resolve() == output.resolve():
            raise SettingError(f"output {output} is {name}; write to another folder")
    if settings.rewards:
        load_rewards(settings.rewards.functions)
    for tracker in settings.engine.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise SettingError(f"engine.trackers names {tracker}, which is not installed: pip install {tracker}")
