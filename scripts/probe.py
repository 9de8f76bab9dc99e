"""Measures how often a linear map reads the kind of an object from an encoder's features of a patch.

    python scripts/probe.py data/tabletop/train/annotations.jsonl runs/tiny-cpu/teacher models/penguin-tiny

The map is fitted by least squares on some pictures and tested on others, on patches of which an object covers more than
half. docs/training.md and docs/ablation.md call this figure "kind, by a probe".
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from penguin_models.checkpoint import load_pretrained
from penguin_models.config import read_json
from penguin_models.encoder import FrameShape
from penguin_tabletop.scene.catalogue import COLOURS
from penguin_training.model.tiny_teacher import MODEL_TYPE, TinyTeacher
from penguin_training.model.train_teacher import MaskedPictures, read_classes

Encoder = Callable[[Tensor, list[FrameShape]], Tensor]
FITTED_PICTURES, TESTED_PICTURES = 600, 160
RIDGE = 10.0


def load_encoder(model: Path) -> Encoder:
    """Returns the encoder of a checkpoint, or a teacher."""
    if read_json(model / "config.json").get("model_type") == MODEL_TYPE:
        return TinyTeacher.from_pretrained(model).features
    encoder = load_pretrained(model, dtype="float32")[0].vision_encoder
    assert encoder is not None
    return encoder


@torch.no_grad()
def encode(encoder: Encoder, pictures: MaskedPictures, rows: list[int], kinds: list[int]) -> tuple[Tensor, Tensor]:
    """Returns the features of the patches that show an object, [patches, width], and its kind, [patches]."""
    features, labels = [], []
    for row in rows:
        image, words, _ = pictures[row, 1.0]
        share, kind = words[:, kinds].max(1)
        encoded = encoder(torch.from_numpy(image.patches), [FrameShape(image.grid, image.merge_size)])
        features.append(encoded.float()[share > 0.5])
        labels.append(kind[share > 0.5])
    return torch.cat(features), torch.cat(labels)


def probe(encoder: Encoder, pictures: MaskedPictures) -> float:
    """Returns the share of the tested patches whose kind is read correctly."""
    kinds = [number for number, word in enumerate(pictures.words) if word not in COLOURS]
    count = FITTED_PICTURES + TESTED_PICTURES
    rows = np.random.default_rng(0).choice(len(pictures), count, replace=False).tolist()
    fitted, fitted_labels = encode(encoder, pictures, rows[:FITTED_PICTURES], kinds)
    tested, tested_labels = encode(encoder, pictures, rows[FITTED_PICTURES:], kinds)
    mean, spread = fitted.mean(0), fitted.std(0) + 1e-6
    fitted, tested = (torch.nn.functional.pad((x - mean) / spread, (0, 1), value=1.0) for x in (fitted, tested))
    targets = torch.nn.functional.one_hot(fitted_labels, len(kinds)).float()
    fit = torch.linalg.solve(fitted.T @ fitted + RIDGE * torch.eye(fitted.shape[1]), fitted.T @ targets)
    return float(((tested @ fit).argmax(1) == tested_labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="annotation file of the table-top, written with masks")
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints or teachers")
    options = parser.parse_args()
    pictures = MaskedPictures([options.annotations], read_classes([options.annotations]))
    for model in options.models:
        print(json.dumps({"model": str(model), "kind": probe(load_encoder(model), pictures)}), flush=True)


if __name__ == "__main__":
    main()
