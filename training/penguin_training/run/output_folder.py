"""The folder that a result goes to: problems with it are reported before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from penguin_models.errors import SettingError
from penguin_training.settings.stage import StageSettings


def check_folder(folder: Path) -> None:
    """Raises SettingError if an output folder cannot be created or written to."""
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not existing.is_dir():
        raise SettingError(f"output {folder} cannot be a folder: {existing} is not one; write to another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SettingError(f"output {folder} cannot be written: {existing} is write-protected; write to another folder")


def check_output(settings: StageSettings) -> None:
    """Raises SettingError as `check_folder`, and if the output is a checkpoint that the stage reads."""
    output = Path(settings.output)
    check_folder(output)
    model, reconstruction = settings.model, settings.reconstruction
    inputs = {
        "model.start": model.start,
        "model.new_model.llm": model.new_model and model.new_model.llm,
        "model.new_model.encoder_llm": model.new_model and model.new_model.encoder_llm,
        "model.new_language_model.tokenizer": model.new_language_model and model.new_language_model.tokenizer,
        "reconstruction.teacher.path": reconstruction and reconstruction.teacher.path,
    }
    for name, path in inputs.items():
        if path and Path(path).resolve() == output.resolve():
            raise SettingError(f"output {output} is {name}; write to another folder")
