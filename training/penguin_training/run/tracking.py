"""Where a run's metrics go: metrics.jsonl, trackers (tensorboard, wandb), and a progress line on the console."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress

from penguin_models.atomic_write import atomic_write, writing

_SHOWN_UNUSABLE = 5  # Unusable samples that are printed; all of them are in unusable.jsonl


class Tracking:
    """Writes the metrics of a run; only the first process writes more than unusable samples."""

    def __init__(self, accelerator: Accelerator, output: Path, steps: int, console: Console):
        self._accelerator, self._output, self._console, self._steps = accelerator, output, console, steps
        self._main = accelerator.is_main_process
        self._shown = 0
        self._progress = Progress(console=console, disable=not (self._main and console.is_terminal))
        self._task = self._progress.add_task("", total=steps)

    def start(self, name: str, settings: Mapping[str, Any], step: int) -> None:
        """Begins at a step, and drops metrics that an interrupted run wrote for later steps."""
        threading.excepthook = _print_unless_reported
        with writing(self._output):
            self._output.mkdir(parents=True, exist_ok=True)
            if self._main:
                self._drop_after(step)
            self._accelerator.init_trackers(name, config={key: str(value) for key, value in settings.items()})
        self._progress.start()
        self.advance(step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        if not self._main:
            return
        self._append("metrics.jsonl", {"step": step, **metrics})
        with writing(self._output):
            self._accelerator.log(dict(metrics), step=step)
        line = f"step {step}/{self._steps} {_summary(metrics)}"
        self._progress.update(self._task, description=line)
        if not self._console.is_terminal:
            self._console.out(line)

    def advance(self, step: int) -> None:
        """Moves the progress line."""
        self._progress.update(self._task, completed=step)

    def unusable(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Reports (id, reason) of samples that were left out; every process reports its own."""
        for name, reason in samples:
            self._append("unusable.jsonl", {"id": name, "reason": reason, "step": step})
            self._shown += 1
            if self._main and self._shown <= _SHOWN_UNUSABLE:
                self._console.out(f"left out {name}: {reason}")

    def close(self) -> None:
        """Ends the progress line and the trackers."""
        self._progress.stop()
        with writing(self._output):
            self._accelerator.end_training()

    def _append(self, file: str, entry: Mapping[str, Any]) -> None:
        path = self._output / file
        with writing(path), path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")

    def _drop_after(self, step: int) -> None:
        for name in ("metrics.jsonl", "unusable.jsonl"):
            path = self._output / name
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                whole = [line for line in lines if line.endswith("\n")]  # the last one may have been cut short
                kept = [line for line in whole if step and json.loads(line)["step"] <= step]
                with atomic_write(path) as out:
                    out.writelines(kept)


def _print_unless_reported(event: threading.ExceptHookArgs) -> None:
    """Leaves out failed writes of tensorboard's thread, which the next call of the main thread raises again."""
    if not isinstance(event.exc_value, OSError):
        threading.__excepthook__(event)


def _summary(metrics: Mapping[str, float]) -> str:
    words = [f"loss {metrics['loss']:.4f}"]
    words += [f"{name} {metrics[name]:.3f}" for name in ("direction", "amplitude", "relation") if name in metrics]
    if "reward" in metrics:
        words.append(f"reward {metrics['reward']:.3f} · {metrics['without_variance_share']:.0%} of groups alike")
    words += [f"{metrics['tokens_per_s']:.0f} tokens/s", f"rate {metrics['rate_share']:.2f}"]
    if metrics["unusable"]:
        words.append(f"{metrics['unusable']:.0f} unusable")
    return " · ".join(words)
