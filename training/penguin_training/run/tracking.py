"""Where a run's figures go: metrics.jsonl, trackers (tensorboard, wandb), and one line of progress for people."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from penguin_models.errors import SettingError
from penguin_training.run.output_folder import make_folder

_NAMED = 5
"""Unusable samples that are shown; all are in unusable.jsonl."""


def check_trackers(trackers: Sequence[str]) -> None:
    """Raises SettingError where a tracker is not installed."""
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise SettingError(f"engine.trackers names {tracker}, which is not installed: pip install {tracker}")


class Tracking:
    """Writes the figures of a run; on processes other than the first it does nothing."""

    def __init__(
        self,
        accelerator: Accelerator,
        output: Path,
        steps: int,
        console: Console,
        left_out: Sequence[tuple[str, str]] = (),
    ):
        """Opens files and the progress line.

        Args:
            accelerator: knows the process and the trackers.
            output: folder of the run.
            steps: of the run.
            console: where progress is shown.
            left_out: (id, reason) of samples that are left out from the beginning.
        """
        self._accelerator = accelerator
        self._main = accelerator.is_main_process
        self._output = output
        self._console = console
        self._steps = steps
        self._left_out = left_out
        self._shown = 0
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (self._main and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=steps, figures="")

    def start(self, name: str, settings: Mapping[str, Any], step: int) -> None:
        """Begins at a step; figures that an interrupted run wrote for later steps are dropped.

        Raises:
            SettingError: the output cannot be made.
        """
        make_folder(self._output)
        if self._main:
            self._drop_after(step)
        self._accelerator.init_trackers(name, config={key: str(value) for key, value in settings.items()})
        self._progress.start()
        self._progress.update(self._task, completed=step)
        if self._main and not step:
            self.unusable(step, self._left_out)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes the figures of a step."""
        if not self._main:
            return
        self._append("metrics.jsonl", {"step": step, **figures})
        self._accelerator.log(dict(figures), step=step)
        line = _line(figures)
        self._progress.update(self._task, figures=line)
        if not self._console.is_terminal:
            self._console.out(f"step {step}/{self._steps} {line}")

    def advance(self, step: int) -> None:
        """Moves the progress line."""
        self._progress.update(self._task, completed=step)

    def unusable(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Reports samples that were left out; every process reports its own."""
        for name, reason in samples:
            self._append("unusable.jsonl", {"id": name, "reason": reason, "step": step})
            self._shown += 1
            if self._main and self._shown <= _NAMED:
                self._console.out(f"left out {name}: {reason}")

    def close(self) -> None:
        """Ends the progress line and the trackers."""
        self._progress.stop()
        self._accelerator.end_training()

    def _append(self, file: str, entry: Mapping[str, Any]) -> None:
        values = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in entry.items()}
        with (self._output / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(values) + "\n")

    def _drop_after(self, step: int) -> None:
        for name in ("metrics.jsonl", "unusable.jsonl"):
            path = self._output / name
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                if lines and _step_of(lines[-1]) is None:
                    lines.pop()  # half written when the run was stopped
                kept = [line for line in lines if step and (_step_of(line) or 0) <= step]
                path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> int | None:
    """The step of a line of figures; None where the line is not whole."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _line(figures: Mapping[str, float]) -> str:
    """The figures that people watch."""
    words = [f"loss {figures['loss']:.4f}"]
    words += [f"{name} {figures[name]:.3f}" for name in ("direction", "amplitude", "relation") if name in figures]
    words += [f"{figures['tokens_per_s']:.0f} tokens/s", f"rate {figures['rate_share']:.2f}"]
    if figures["unusable"]:
        words.append(f"{figures['unusable']:.0f} unusable")
    return " · ".join(words)
