"""The command line of `scripts/gpu_check.sh`: `pack` downloads what the check needs, `run` checks and measures."""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from penguin_engine.bench.gpu_check.report import LOG, RESULTS, TABLE, Report
from penguin_engine.bench.gpu_check.step import FAILED, PASSED, TIMED_OUT, Outcome, Step, run_step
from penguin_engine.bench.gpu_check.wheels import SITE, install
from penguin_models.atomic_write import writing
from penguin_models.errors import PenguinError

ROOT = Path(__file__).resolve().parents[4]
TOTAL_S = 480
"""Seconds for all steps together."""
_IMPORT_S = 60


def run(wheels: Path | None, out: Path) -> bool:
    """Runs all steps, prints a line for each, and returns whether none failed."""
    deadline = time.monotonic() + TOTAL_S
    report = Report(out, datetime.now(timezone.utc).isoformat(timespec="seconds"))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        for step in _steps(report, Step("installation", 90, partial(install, wheels)), work):
            report.add(run_step(step, work, out / LOG, deadline - time.monotonic()))
    return report.passed


def _steps(report: Report, installation: Step, work: Path) -> Iterator[Step]:
    """Yields the steps, and imports each group's packages here, so that the processes of its steps need not."""
    yield installation
    sys.path.insert(0, str(work / SITE))
    for name, load in {"torch": _torch_steps, "TensorRT": _plan_steps}.items():
        steps, outcome = _imported(f"imports for {name}", load)
        report.add(outcome)
        yield from steps


def _imported(name: str, load: Callable[[], Sequence[Step]]) -> tuple[Sequence[Step], Outcome]:
    start = time.monotonic()
    signal.signal(signal.SIGALRM, _stop_import)
    signal.alarm(_IMPORT_S)
    steps: Sequence[Step] = ()
    try:
        steps = load()
        status, note = PASSED, f"{len(steps)} steps"
    except TimeoutError as err:
        status, note = TIMED_OUT, str(err)
    except Exception as err:  # noqa: BLE001 - broken packages raise anything; the other steps still run
        status, note = FAILED, f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
    finally:
        signal.alarm(0)
    return steps, Outcome(name, status, time.monotonic() - start, note)


def _stop_import(number: int, frame: object) -> None:
    raise TimeoutError(f"stopped after {_IMPORT_S} s")


def _torch_steps() -> Sequence[Step]:
    from penguin_engine.bench.gpu_check import torch_steps

    return torch_steps.STEPS


def _plan_steps() -> Sequence[Step]:
    from penguin_engine.bench.gpu_check import plan_steps

    return plan_steps.STEPS


def _python_version(text: str) -> str:
    if not re.fullmatch(r"3\.\d{1,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version of Python; write it as 3.12")
    return text


def main() -> None:
    """Runs `pack` or `run`."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="download packages; needs a network and the environment of `make setup`")
    packing.add_argument("folder", type=Path, help="new folder for the parts")
    packing.add_argument(
        "--python",
        type=_python_version,
        default=".".join(map(str, sys.version_info[:2])),
        help="version of the GPU machine, for example 3.12",
    )
    running = commands.add_parser("run", help="check and measure; needs torch, and a GPU for most steps")
    running.add_argument("wheels", type=Path, nargs="?", help="folder with the parts; default: use installed packages")
    running.add_argument("--out", type=Path, default=Path("gpu-check"), help=f"folder for {RESULTS}, {TABLE} and {LOG}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.command == "run":
            sys.exit(0 if run(options.wheels, options.out) else 1)
        from penguin_engine.bench.gpu_check.pack import pack

        needed, plans = pack(options.folder, ROOT / "constraints.txt", options.python)
    except PenguinError as err:
        sys.exit(f"error: {err}")
    except subprocess.CalledProcessError:
        sys.exit("error: pip could not download the packages, see above")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.stdout.write(
        f"{options.folder}: part-01 to part-{needed:02} with what PyTorch needs, part-{needed + 1:02} to "
        f"part-{needed + plans:02} with TensorRT for RTX and pycuda\n"
    )


if __name__ == "__main__":
    main()
