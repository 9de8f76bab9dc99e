"""The results of a check: one JSON file, and a table for docs/figures.md. Written after every step."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penguin_engine.bench.gpu_check.step import FAILED, TIMED_OUT, Outcome
from penguin_models.atomic_write import atomic_write

RESULTS, TABLE, LOG = "gpu_check.json", "gpu_check.md", "gpu_check.log"


class Report:
    """The outcomes so far, in a folder."""

    def __init__(self, folder: Path, started: str):
        self._folder, self._started = folder, started
        self.outcomes: list[Outcome] = []

    @property
    def passed(self) -> bool:
        """Whether no step failed or timed out."""
        return not any(outcome.status in (FAILED, TIMED_OUT) for outcome in self.outcomes)

    def add(self, outcome: Outcome) -> None:
        """Adds an outcome, writes both files and prints a line."""
        self.outcomes.append(outcome)
        result = {
            "started": self._started,
            "passed": self.passed,
            "machine": machine(self.outcomes),
            "steps": [asdict(outcome) for outcome in self.outcomes],
        }
        with atomic_write(self._folder / RESULTS) as file:
            file.write(json.dumps(result, indent=1) + "\n")
        with atomic_write(self._folder / TABLE) as file:
            file.write(markdown(self._started, self.outcomes))
        try:
            sys.stdout.write(f"{outcome.name:<38} {outcome.status:<9} {outcome.seconds:6.1f} s  {outcome.note}\n")
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads it any more; the files are still written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def machine(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the GPU, its driver and the versions of packages; empty if the step that reads them has not run."""
    return next((outcome.figures for outcome in outcomes if "gpu" in outcome.figures), {})


def markdown(started: str, outcomes: Sequence[Outcome]) -> str:
    """Returns the section for docs/figures.md."""
    found = machine(outcomes)
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    rows = [f"| {o.name} | {o.status} | {o.note.replace('|', '/')} | {o.seconds:.0f} s |" for o in outcomes]
    lines = [
        f"## {found.get('gpu') or 'No GPU'}, {started[:10]}",
        "",
        f"{versions}." if versions else "The machine was not described.",
        "",
        "| step | status | result | time |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"
