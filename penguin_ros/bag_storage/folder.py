"""Finds the storage files of a bag.

Only the names in metadata.yaml are used: the files themselves say what they hold, and a bag may lack metadata.yaml
after a crash, or have one that contradicts the files after conversion or editing.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from penguin_models.errors import MediaError

_SUFFIXES = (".mcap", ".db3", ".bag", ".zstd", ".zst")


def storage_files(path: Path) -> tuple[list[Path], list[str]]:
    """Returns the storage files of a bag, a file or a folder, in the order of recording, and notes about oddities.

    Raises MediaError if there is no file, or the files are those of several bags.
    """
    if not path.exists():
        raise MediaError(f"bag {path} does not exist")
    if path.is_file():
        return [path], []
    visible = (file for file in path.iterdir() if not file.name.startswith("."))  # macOS leaves ._bag_0.mcap behind
    present = sorted((file for file in visible if file.suffix in _SUFFIXES and file.is_file()), key=_natural)
    listed, notes = _listed(path)
    if not present:
        missing = f"; its metadata.yaml names {', '.join(listed)}" if listed else ""
        raise MediaError(f"{path} holds no .mcap, .db3 or .bag file{missing}; give the folder of a bag, or its file")
    named = [file for name in listed for file in present if file.name == name]
    bags = {_bag_of(file) for file in named or present}
    if not named and len(bags) > 1:
        names = ", ".join(file.name for file in present[:5]) + (", ..." if len(present) > 5 else "")
        raise MediaError(f"{path} holds the files of {len(bags)} bags ({names}); give one of the files")
    files = named + [file for file in present if file not in named and _bag_of(file) in bags]
    if len(files) < len(listed):
        lost = ", ".join(name for name in listed if not (path / name).is_file())
        notes.append(f"{len(listed) - len(files)} of the {len(listed)} files in metadata.yaml are missing: {lost}")
    return files, notes


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Returns the file names in metadata.yaml, and a note if it cannot be read."""
    file = path / "metadata.yaml"
    if not file.exists():
        return [], []
    try:
        content = YAML(typ="safe").load(file.read_bytes())
        names = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return [PurePath(name).name for name in names], []
    except (OSError, YAMLError, LookupError, TypeError, ValueError) as err:
        return [], [f"metadata.yaml cannot be used ({type(err).__name__}); the bag is read without it"]


def _bag_of(file: Path) -> tuple[str, str]:
    """Returns what the files of one bag have in common: name_0.mcap, name_1.mcap, ..."""
    stem, *suffixes = file.name.split(".")
    return re.sub(r"_\d+$", "", stem), ".".join(suffixes)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts name_2 before name_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]
