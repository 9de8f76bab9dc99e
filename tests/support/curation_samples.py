"""For the tests of curation: drawn pictures, archives, an encoder, and workers in this process.

Importing it skips the module if the packages of the extra are missing.
"""

from __future__ import annotations

import io
import tarfile
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from PIL import Image

for name in ("faiss", "imagehash", "pyarrow"):
    pytest.importorskip(name, reason="curation is an extra: pip install '.[curate]'")

COLOURS = ((200, 40, 40), (40, 170, 60), (50, 70, 210), (220, 200, 40))


def picture(number, kind=0, side=96):
    """Draws a picture of a kind, which its colour tells, with rectangles that no other number has."""
    random = np.random.default_rng(number)
    rgb = np.full((side, side, 3), COLOURS[kind], np.uint8)
    for _ in range(12):
        x, y = random.integers(0, side, 2).tolist()
        width, height = random.integers(side // 8, side // 2, 2).tolist()
        shade = random.uniform(0.2, 1.1)
        colour = [min(255, round(level * shade)) for level in COLOURS[kind]]
        cv2.rectangle(rgb, (x, y), (x + width, y + height), colour, -1)
    return rgb


def encoded(rgb, form="JPEG", **options):
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, form, **options)
    return content.getvalue()


def write_tar(path, members):
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


class MeanColour:
    """Embeds a picture as its mean colour, and a little of where it is bright."""

    def __call__(self, images):
        grids = np.stack([cv2.resize(rgb, (4, 4), interpolation=cv2.INTER_AREA) for rgb in images]).astype(np.float32)
        means = grids.mean(axis=(1, 2)) - 100
        return np.concatenate([means, 0.2 * (grids.mean(axis=3) - 100).reshape(len(images), -1)], axis=1)


class InThisProcess:
    """Workers without Ray."""

    def connected(self):
        return nullcontext()

    def run(self, numbers, open_work, uses_encoder=False):
        work = open_work() if numbers else None
        for number in numbers:
            work(number)
            yield number
