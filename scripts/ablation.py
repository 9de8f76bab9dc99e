"""The ablation of docs/ablation.md: trains every arm with several seeds, scores it on test scenes, prints the tables.

    OMP_NUM_THREADS=1 python scripts/ablation.py runs/tiny-cpu/ablation --jobs 2

Needs the data, tokenizer, text stage and teacher of docs/training.md. Runs that are done are not made again; one that
was stopped goes on where it was.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STAGE = "training/configs/tiny-cpu/ablation.yaml"
PICTURES = "data/tabletop/train/annotations.jsonl"
FULL = "all of it"
ARMS = {
    FULL: [],
    "encoder from random weights": ["model.new_model.encoder_init=random"],
    "no reconstruction": ["reconstruction=null", "learning_rates.adapter=null"],
    "no relation loss": ["reconstruction.relation=0"],
}
EVALUATION = ["--scenes", "200", "--seed", "11", "--mixture", "image=1"]
LAST_STEPS = 100
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantile 0.975 of Student's t by the number of seeds."""


def run(folder: Path, arm: str, seed: int) -> None:
    """Trains and scores one arm with one seed, where that is not done yet."""
    out = folder / f"{arm.replace(' ', '-')}-{seed}"
    if not (out / "config.json").exists():
        settings = [f"output={out}", f"engine.seed={seed}", "engine.trackers=[]", *ARMS[arm]]
        command = ["penguin-vl", "train", STAGE, *(word for item in settings for word in ("--set", item))]
        stopped = any((out / "checkpoints").glob("step-*"))
        if out.exists() and not stopped:  # before its first state: nothing to go on from
            shutil.rmtree(out)
        call([*command, "--resume"] if stopped else command, folder / f"{out.name}.log")
    evaluate = ["penguin-vl", "evaluate", "tabletop", "--model", str(out), "--json", *EVALUATION]
    probe = [sys.executable, str(Path(__file__).with_name("probe.py")), PICTURES, str(out)]
    for name, command in (("scores.json", evaluate), ("probe.json", probe)):
        part = out / f"{name}.part"
        if not (out / name).exists():
            call(command, part)
            part.rename(out / name)
    print(f"done: {out}", file=sys.stderr)


def call(command: Sequence[str], output: Path) -> None:
    with output.open("w") as file:
        subprocess.run(command, stdout=file, stderr=None if output.suffix == ".part" else file, check=True)


def cross_entropy(out: Path) -> float:
    """Of the last steps: on samples that the run has not seen before, as it ends within its first epoch."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    end = lines[-1]["step"]
    if lines[-1]["epoch"] > 1:
        raise SystemExit(f"{out} ran for {lines[-1]['epoch']:.2f} epochs: its loss says nothing of unseen samples")
    return statistics.fmean(line["cross_entropy"] for line in lines if line["step"] > end - LAST_STEPS)


def score(name: str) -> Callable[[Path], float]:
    return lambda out: float(json.loads((out / "scores.json").read_text())["scores"][name]["value"])


SCORES: dict[str, Callable[[Path], float]] = {
    "cross-entropy": cross_entropy,
    "object F1": score("object_f1"),
    "boxes with IoU >= 0.5": score("box_share"),
    "questions": score("accuracy"),
    "kind, by a probe": lambda out: float(json.loads((out / "probe.json").read_text())["kind"]),
}


def interval(values: Sequence[float], sign: str = "") -> str:
    mean, half = statistics.fmean(values), T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{sign}.3f} ({mean - half:{sign}.3f} to {mean + half:{sign}.3f})"


def table(folder: Path, seeds: Sequence[int]) -> str:
    values = {
        arm: {name: [of(folder / f"{arm.replace(' ', '-')}-{seed}") for seed in seeds] for name, of in SCORES.items()}
        for arm in ARMS
    }
    lines = [f"| arm | {' | '.join(SCORES)} |", "| --- " * (len(SCORES) + 1) + "|"]
    for arm, found in values.items():
        lines.append(f"| {arm} | {' | '.join(interval(found[name]) for name in SCORES)} |")
    lines += ["", f"| minus {FULL}, same seed | {' | '.join(SCORES)} |", lines[1]]
    for arm, found in values.items():
        if arm != FULL:
            pairs = [[a - b for a, b in zip(found[name], values[FULL][name], strict=True)] for name in SCORES]
            lines.append(f"| {arm} | {' | '.join(interval(pair, '+') for pair in pairs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(T_95), help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = [pool.submit(run, arguments.folder, arm, seed) for seed in seeds for arm in ARMS]
        for done in waiting:
            done.result()
    print(table(arguments.folder, seeds))


if __name__ == "__main__":
    main()
