"""How often a linear map reads the kind of a thing off an encoder's features of a patch: `probe` in docs/training.md.

    python scripts/probe.py data/tabletop/train/annotations.jsonl runs/tiny-cpu/teacher models/penguin-tiny

The map is fitted by least squares on some pictures and asked about others, on patches that show a thing by half.
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
from penguin_training.data.masks import MaskedImages
from penguin_training.model.tiny_teacher import MODEL_TYPE, TinyTeacher

Encoder = Callable[[Tensor, list[FrameShape]], Tensor]
FITTED, ASKED = 600, 160
"""Pictures."""
RIDGE = 10.0


def features_of(model: Path) -> Encoder:
    """The encoder of a checkpoint, or a teacher."""
    if read_json(model / "config.json").get("model_type") == MODEL_TYPE:
        return TinyTeacher.from_pretrained(model).features
    encoder = load_pretrained(model, dtype="float32")[0].vision_encoder
    assert encoder is not None
    return encoder


@torch.no_grad()
def read(encoder: Encoder, pictures: MaskedImages, rows: list[int], kinds: list[int]) -> tuple[Tensor, Tensor]:
    """Features of the patches that show a thing, [patches, width], and which kind that is, [patches]."""
    features, shown = [], []
    for row in rows:
        image, words, _ = pictures[row, 1.0]
        share, kind = words[:, kinds].max(1)
        seen = encoder(torch.from_numpy(image.patches), [FrameShape(image.grid, image.merge_size)])
        features.append(seen.float()[share > 0.5])
        shown.append(kind[share > 0.5])
    return torch.cat(features), torch.cat(shown)


def probe(encoder: Encoder, pictures: MaskedImages) -> float:
    """Share of the patches of pictures that were not fitted whose kind is read off right."""
    kinds = [number for number, word in enumerate(pictures.words) if word not in COLOURS]
    rows = np.random.default_rng(0).choice(len(pictures), FITTED + ASKED, replace=False).tolist()
    fitted, wanted = read(encoder, pictures, rows[:FITTED], kinds)
    asked, right = read(encoder, pictures, rows[FITTED:], kinds)
    mean, spread = fitted.mean(0), fitted.std(0) + 1e-6
    fitted, asked = (torch.nn.functional.pad((x - mean) / spread, (0, 1), value=1.0) for x in (fitted, asked))
    targets = torch.nn.functional.one_hot(wanted, len(kinds)).float()
    fit = torch.linalg.solve(fitted.T @ fitted + RIDGE * torch.eye(fitted.shape[1]), fitted.T @ targets)
    return float(((asked @ fit).argmax(1) == right).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="of the table-top, written with masks")
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints, or teachers")
    options = parser.parse_args()
    pictures = MaskedImages([options.annotations])
    for model in options.models:
        print(json.dumps({"model": str(model), "kind": probe(features_of(model), pictures)}), flush=True)


if __name__ == "__main__":
    main()
