"""Writes a checkpoint whose weights are the mean of two of the same shape.

    python scripts/average_weights.py runs/4d-memory runs/4c-answers runs/averaged --share 0.6

`--share` is that of the first. Fine-tuning for a new task loses some of the old one; the mean of the weights before and
after keeps most of both (WiSE-FT, arXiv 2109.01903).
"""

import argparse
from pathlib import Path

import torch

from penguin_models import load_pretrained, save_pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="share of the first checkpoint")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    (first, processor), (second, _) = (load_pretrained(path, "float32") for path in (arguments.first, arguments.second))
    with torch.no_grad():
        for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
            ours.lerp_(theirs, 1 - arguments.share)
    save_pretrained(first.to(getattr(torch, arguments.dtype)), processor, arguments.output)


if __name__ == "__main__":
    main()
