"""The packages that the check brings along: split into parts of limited size, joined and installed again.

A part is a folder that can be copied by itself, next to a copy of this repository, where a transfer is limited to
64 MiB. Needs the standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from penguin_engine.bench.gpu_check.step import Finding, Skipped

JOINED, SITE = "wheels", "site"
"""Folders for temporary files: joined wheels, and the packages installed from them."""
CHECKSUMS = "SHA256SUMS"
PART_BYTES = 30 * 2**20


def write_parts(groups: Sequence[Sequence[Path]], folder: Path, part_bytes: int = PART_BYTES) -> list[int]:
    """Writes files to parts of `part_bytes`, part-01, part-02, ..., each group beginning with a new one.

    A piece of a file is named after the file and its number. Every part also has the checksums of all files.

    Returns:
        The number of parts of each group.
    """
    counts, number = [], 0
    for group in groups:
        before, left = number, 0
        for file in group:
            content, piece = file.read_bytes(), 0
            while content:
                if not left:
                    number, left = number + 1, part_bytes
                part = folder / f"part-{number:02}"
                part.mkdir(parents=True, exist_ok=True)
                (part / f"{file.name}.{piece:02}").write_bytes(content[:left])
                left, content, piece = max(0, left - len(content)), content[left:], piece + 1
        counts.append(number - before)
    sums = "".join(f"{_sha256(file)}  {file.name}\n" for group in groups for file in group)
    for part in folder.glob("part-*"):
        (part / CHECKSUMS).write_text(sums)
    return counts


def join_parts(folder: Path, target: Path) -> tuple[list[Path], list[str]]:
    """Joins the pieces of all parts in a folder.

    Returns:
        The complete files, and the names of those that are missing or damaged.
    """
    joined, missing = [], []
    for line in next(iter(sorted(folder.glob(f"*/{CHECKSUMS}"))), Path("/dev/null")).read_text().splitlines():
        checksum, name = line.split(maxsplit=1)
        path = target / name
        with path.open("wb") as file:
            for piece in sorted(folder.glob(f"*/{name}.??")):
                file.write(piece.read_bytes())
        if _sha256(path) == checksum:
            joined.append(path)
        else:
            path.unlink()
            missing.append(name)
    return joined, missing


def install(folder: Path | None, work: Path) -> Finding:
    """Installs the wheels in a folder of parts into a folder of their own, next to what is installed already."""
    if folder is None:
        raise Skipped("no folder with wheels was given: the packages of this Python are used")
    (work / JOINED).mkdir()
    files, missing = join_parts(folder, work / JOINED)
    wheels = [file for file in files if file.suffix == ".whl"]
    if not wheels:
        return Finding(f"{folder} contains no complete wheel; write one with: scripts/gpu_check.sh pack", passed=False)
    options = ("--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--target", work / SITE)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    packages = [name.partition("-")[0] for name in missing]
    note = f"{len(wheels)} wheels" + (f"; missing or damaged: {', '.join(packages)}" if missing else "")
    return Finding(note, {"missing": missing})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
