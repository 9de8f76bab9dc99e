"""Finds the storage files of a bag.

Of metadata.yaml, only names are used, and numbers of messages, to notice that some are missing: the files themselves
say what they hold, and a bag may lack metadata.yaml after a crash, or have one that contradicts the files after
conversion or editing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.events import AliasEvent

from penguin_models.errors import MediaError
from penguin_models.file_checks import url_fault

_MAX_METADATA_BYTES = 2 << 20
_SUFFIXES = (".mcap", ".db3", ".bag", ".zstd", ".zst")


class StorageFiles(NamedTuple):
    """The storage files of a bag."""

    files: list[Path]  # in the order of recording
    notes: list[str]  # sentences about oddities
    counts: dict[str, int]  # messages that metadata.yaml announces, by topic; empty if it does not say


class _Listed(NamedTuple):
    names: list[str]
    counts: dict[str, int]
    notes: list[str]


def storage_files(path: Path) -> StorageFiles:
    """Finds the storage files of a bag, a file or a folder.

    Raises MediaError if there is no file, it cannot be read, or the files are those of several bags.
    """
    try:
        return _find(path)
    except OSError as err:  # no permission, a name that is too long
        raise MediaError(f"bag {path} cannot be read: {err.strerror}; check its permissions and its name") from err


def _find(path: Path) -> StorageFiles:
    if not path.exists():
        raise MediaError(url_fault(path, "bag") or f"bag {path} does not exist")
    if path.is_file():
        return StorageFiles([path], [], {})
    if not path.is_dir():  # a pipe would wait for a writer
        raise MediaError(f"bag {path} is neither a file nor a folder; give the folder of a bag, or its file")
    visible = (file for file in path.iterdir() if not file.name.startswith("."))  # macOS leaves ._bag_0.mcap behind
    present = sorted((file for file in visible if file.suffix in _SUFFIXES and file.is_file()), key=_natural)
    listed, counts, found = _listed(path)
    notes = list(found)
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
    filled = [file for file in files if file.stat().st_size]
    if 0 < len(filled) < len(files):
        empty = ", ".join(file.name for file in files if file not in filled)
        notes.append(f"{len(files) - len(filled)} of {len(files)} files are empty (0 bytes), as after a crash: {empty}")
    return StorageFiles(filled or files, notes, counts)


def _listed(path: Path) -> _Listed:
    """Returns the file names and numbers of messages in metadata.yaml, and a note if it cannot be read."""
    file = path / "metadata.yaml"
    try:
        if not file.exists():
            return _Listed([], {}, [])
        if not file.is_file():
            return _unusable("it is no file")
        if (size := file.stat().st_size) <= _MAX_METADATA_BYTES:
            return _parse(file.read_bytes())
        reason = f"it has {size >> 10} KiB, the limit is {_MAX_METADATA_BYTES >> 10} KiB"
    except OSError as err:
        reason = str(err.strerror)
    return _unusable(reason)


def _unusable(reason: str) -> _Listed:
    return _Listed([], {}, [f"metadata.yaml cannot be used ({reason[:200]}); the bag is read without it"])


@lru_cache(maxsize=8)
def _parse(text: bytes) -> _Listed:
    """Parses metadata.yaml, which takes seconds for a bag of many files."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _NoAliases
    try:
        content = yaml.load(text)["rosbag2_bagfile_information"]
        return _Listed([PurePath(name).name for name in content["relative_file_paths"]], _counts(content), [])
    except Exception as err:  # noqa: BLE001  # the parser raises many types of error on damaged files
        return _unusable(f"{type(err).__name__}: {' '.join(str(err).split())}".rstrip(": "))


class _NoAliases(Composer):
    """Refuses aliases, with which a few lines can hold billions of values; rosbag2 writes none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            raise ValueError("it has aliases")
        return super().compose_node(parent, index)


def _counts(content: dict[str, Any]) -> dict[str, int]:
    with suppress(LookupError, TypeError, ValueError, OverflowError):
        topics = content["topics_with_message_count"]
        return {topic["topic_metadata"]["name"]: int(topic["message_count"]) for topic in topics}
    return {}


def _bag_of(file: Path) -> tuple[str, str]:
    """Returns what the files of one bag have in common: name_0.mcap, name_1.mcap, ..."""
    stem, *suffixes = file.name.split(".")
    return re.sub(r"_\d+$", "", stem), ".".join(suffixes)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts name_2 before name_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]
