"""The folder that a result goes to: what is wrong with it is said before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from penguin_models.errors import SettingError
from penguin_training.settings.stage import StageSettings


def check_folder(folder: Path) -> None:
    """Raises SettingError where an output is no folder and cannot be made one, or cannot be written to."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        raise SettingError(f"output {folder} cannot be a folder: {there} is none; write to another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingError(f"output {folder} cannot be written: {there} is write-protected; write to another folder")


def make_folder(folder: Path) -> None:
    """Makes an output.

    Raises:
        SettingError: the operating system refuses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SettingError(f"output {folder} cannot be made ({err.strerror}); write to another folder") from err


def check_output(settings: StageSettings) -> None:
    """Raises SettingError where `check_folder` does, or the output is a checkpoint that the stage begins with."""
    output = Path(settings.output)
    check_folder(output)
    for name, path in _read_by(settings).items():
        if Path(path).resolve() == output.resolve():
            raise SettingError(f"output {output} is {name}; write to another folder")


def _read_by(settings: StageSettings) -> dict[str, str]:
    """Checkpoints and tokenizers that a stage reads, by the settings that name them."""
    model, reconstruction = settings.model, settings.reconstruction
    found = {
        "model.start": model.start,
        "model.new_model.llm": model.new_model and model.new_model.llm,
        "model.new_model.encoder_llm": model.new_model and model.new_model.encoder_llm,
        "model.new_language_model.tokenizer": model.new_language_model and model.new_language_model.tokenizer,
        "reconstruction.teacher.path": reconstruction and reconstruction.teacher.path,
    }
    return {name: path for name, path in found.items() if path}
