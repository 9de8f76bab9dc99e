"""The ablation of docs/ablation.md: trains every variant with several seeds, scores it, and prints the tables.

    OMP_NUM_THREADS=1 python scripts/ablation.py runs/tiny-cpu/ablation --jobs 2

Needs the data, tokenizer, text stage and teacher of docs/training.md. Finished runs are not repeated; interrupted ones
continue.
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

from penguin_models.atomic_write import atomic_write

STAGE = "training/configs/tiny-cpu/ablation.yaml"
PICTURES = "data/tabletop/train/annotations.jsonl"
FULL = "all of it"
VARIANTS = {
    FULL: [],
    "encoder from random weights": ["model.new_model.encoder_init=random"],
    "no reconstruction": ["reconstruction=null", "learning_rates.adapter=null"],
    "no relation loss": ["reconstruction.relation=0"],
}
EVALUATION = ["--scenes", "200", "--seed", "11", "--mixture", "image=1"]
LAST_STEPS = 100
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""The 0.975 quantile of Student's t by the number of seeds."""


def run(out: Path, variant: str, seed: int) -> None:
    """Trains and scores one variant with one seed, unless that is done already."""
    if not (out / "config.json").exists():
        settings = [f"output={out}", f"engine.seed={seed}", "engine.trackers=[]", *VARIANTS[variant]]
        command = ["penguin-vl", "train", STAGE, *(word for item in settings for word in ("--set", item))]
        resumable = any((out / "checkpoints").glob("step-*"))
        if out.exists() and not resumable:
            shutil.rmtree(out)
        with out.with_name(f"{out.name}.log").open("w") as log:
            subprocess.run([*command, "--resume"] if resumable else command, stdout=log, stderr=log, check=True)
    evaluate = ["penguin-vl", "evaluate", "tabletop", "--model", str(out), "--json", *EVALUATION]
    probe = [sys.executable, str(Path(__file__).with_name("probe.py")), PICTURES, str(out)]
    for name, command in (("scores.json", evaluate), ("probe.json", probe)):
        if not (out / name).exists():
            with atomic_write(out / name, "wb") as file:
                subprocess.run(command, stdout=file, check=True)
    print(f"done: {out}", file=sys.stderr)


def cross_entropy(out: Path) -> float:
    """Returns the mean over the last steps, on samples the run has not seen before: it ends within its first epoch."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if lines[-1]["epoch"] > 1:
        raise SystemExit(f"{out} ran for {lines[-1]['epoch']:.2f} epochs: its loss is not about unseen samples")
    return statistics.fmean(line["cross_entropy"] for line in lines if line["step"] > lines[-1]["step"] - LAST_STEPS)


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


def table(runs: dict[str, list[Path]]) -> str:
    values = {
        name: {variant: [of(out) for out in outs] for variant, outs in runs.items()} for name, of in SCORES.items()
    }
    lines = [f"| variant | {' | '.join(SCORES)} |", "| --- " * (len(SCORES) + 1) + "|"]
    for variant in VARIANTS:
        lines.append(f"| {variant} | {' | '.join(interval(values[name][variant]) for name in SCORES)} |")
    lines += ["", f"| minus {FULL}, same seed | {' | '.join(SCORES)} |", lines[1]]
    for variant in list(VARIANTS)[1:]:
        pairs = [[a - b for a, b in zip(values[name][variant], values[name][FULL], strict=True)] for name in SCORES]
        lines.append(f"| {variant} | {' | '.join(interval(pair, '+') for pair in pairs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(T_95), help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="number of simultaneous runs")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    runs = {
        variant: [arguments.folder / f"{variant.replace(' ', '-')}-{seed}" for seed in seeds] for variant in VARIANTS
    }
    with ThreadPoolExecutor(arguments.jobs) as pool:
        pending = [pool.submit(run, runs[variant][seed], variant, seed) for seed in seeds for variant in VARIANTS]
        for future in pending:
            future.result()
    print(table(runs))


if __name__ == "__main__":
    main()
