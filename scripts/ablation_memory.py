"""The ablation of the memory in docs/ablation.md: what its settings are worth, by the age of the evidence.

    python scripts/ablation_memory.py models/penguin-tiny --seeds 0,1,2 --recordings 8

Each variant differs from the first one in one setting. Values are shares of right answers, and their differences from
the first variant with the same seed, with 95 % intervals over the seeds (Student's t).
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.reference_policy import ReferencePolicy
from penguin_ros.evaluation.recall.methods import SAMPLING, Model, SeenRecording, from_last_frames, from_window
from penguin_ros.evaluation.recall.questions import AskedQuestion
from penguin_ros.evaluation.recall.run import RecallRun, evaluate_recall

DEFAULT = "as shipped: 1,024 tokens, novelty, full size, 30 s"
VARIANTS = {
    DEFAULT: {},
    "512 tokens": {"token_budget": 512},
    "2,048 tokens": {"token_budget": 2048},
    "released keyframe rule": {"policy": ReferencePolicy},
    "context frames arrive small": {"arrival": "by_kind"},
    "more for the recent past (5 s)": {"half_loss_s": 5.0},
    "more for the distant past (300 s)": {"half_loss_s": 300.0},
}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def from_variant(settings: dict, seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from a memory with other settings."""
    settings = {"token_budget": seen.model.token_budget} | settings
    policy = settings.pop("policy", NoveltyPolicy)()
    session = SceneSession(seen.remembering, seen.model.processor, policy, MemoryConfig(**settings))
    try:
        for frame in seen.frames:
            session.observe(frame)
        return [session.ask(Request.prepare(seen.model.processor, item.turn.question, SAMPLING)) for item in asked]
    finally:
        session.close()


def interval(values: Sequence[float], sign: str = "") -> str:
    mean = statistics.mean(values)
    if len(values) not in T_95:
        return f"{mean:{sign}.2f}"
    half = T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{sign}.2f} ± {half:.2f}"


def print_table(head: str, bands: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    print(f"| {head} | " + " | ".join(bands) + " |\n|" + " --- |" * (len(bands) + 1))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--lengths", default="60,300")
    args = parser.parse_args()
    runtime, processor = open_runtime("torch", args.model, "auto", "float32")
    methods = {name: partial(from_variant, settings) for name, settings in VARIANTS.items()}
    methods |= {"window of the newest frames": from_window, "last four frames": from_last_frames}
    shares = defaultdict(lambda: defaultdict(list))
    for seed in map(int, args.seeds.split(",")):
        lengths = tuple(float(text) for text in args.lengths.split(","))
        run = RecallRun(seed, lengths, args.recordings)
        model = Model(runtime, processor, run.token_budget)
        replies = [reply for some in evaluate_recall(model, run, methods=methods) for reply in some]
        for name in methods:
            for band in dict.fromkeys(reply.band for reply in replies):
                right = [reply.right for reply in replies if (reply.method, reply.band) == (name, band)]
                shares[name][band].append(statistics.mean(right))
        print(json.dumps({"seed": seed, "shares": {name: dict(shares[name]) for name in methods}}), file=sys.stderr)
    bands = list(shares[DEFAULT])
    print_table("variant", bands, {name: [interval(shares[name][band]) for band in bands] for name in methods})
    minus = {
        name: [
            interval([a - b for a, b in zip(shares[name][band], shares[DEFAULT][band], strict=True)], "+")
            for band in bands
        ]
        for name in [*methods][1:]
    }
    print_table("minus as shipped, same seed", bands, minus)


if __name__ == "__main__":
    main()
