"""Measures curation on pictures of the simulated table-top with known duplicates, known damage and a known skew.

    python scripts/curation_benchmark.py render DIR --jobs 2
    python scripts/curation_benchmark.py pack DIR
    penguin-vl curate DIR/archives --model models/penguin-tiny --out OUT --keep 2000 --clusters 400,40 \\
        --max-tokens 64 --dtype float32 --device cpu --processes 3
    python scripts/curation_benchmark.py score DIR OUT

`render` continues where it was stopped, `pack` writes 20,000 samples in 40 archives, and `score` fails (exit code 1) if
fewer copies are found, or found wrongly, or the entropy over kinds rises less than the goals below say.

Every picture shows objects of one kind; kind number r of 12 is chosen with a probability proportional to 1/r^1.6. A
duplicate is a copy that was scaled, cropped by up to 2 %, made brighter or darker, and compressed again.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from penguin_models.types import Size
from penguin_tabletop.render.charts import draw_chart
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.scene.planning import place
from penguin_tabletop.scene.random_parts import empty_scene, random_thing
from penguin_tabletop.seeds import Random, Split, seeded_random
from penguin_training.curation.summary import entropy_bits

KINDS = ("cube", "ball", "bottle", "bowl", "mug", "duck", "teddy", "rabbit", "brick", "ring", "cone", "tray")
WEIGHTS = 1 / np.arange(1, len(KINDS) + 1) ** 1.6
SIZE = Size(168, 168)
PICTURES, SAMPLES = 14_270, 20_000
PER_ARCHIVE = 500
RECALL_GOAL, PRECISION_GOAL = 0.99, 0.99  # of duplicates
ENTROPY_GOAL_BITS = 0.4  # Rise of the entropy over kinds


def kind_of(number: int) -> str:
    random = seeded_random(Split.TRAIN.seed(number, 0), "kind")
    return KINDS[random.choice(len(KINDS), p=WEIGHTS / WEIGHTS.sum())]


@lru_cache(maxsize=1)
def renderer() -> SceneRenderer:
    return SceneRenderer(SIZE)


def render_one(folder: Path, number: int) -> None:
    file = folder / f"{number:06d}.png"
    if file.exists():
        return
    random = seeded_random(Split.TRAIN.seed(number, 0), "curation")
    scene = empty_scene(random)
    for index in range(int(random.integers(3, 6))):
        thing = random_thing(random, scene.surroundings.table, index, (), kind_of(number))
        if (placed := place(random, scene, SIZE, thing)) is not None:
            scene = replace(scene, things=(*scene.things, placed))
    partial_file = file.with_suffix(".partial")
    Image.fromarray(renderer().render(scene).rgb).save(partial_file, format="PNG")
    partial_file.replace(file)


def render(folder: Path, pictures: int, jobs: int) -> None:
    (folder / "rendered").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for _ in pool.map(partial(render_one, folder / "rendered"), range(pictures), chunksize=16):
            pass


def jpeg(image: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def copy_of(image: Image.Image, random: Random) -> bytes:
    """Returns the picture scaled, cropped, made brighter or darker, and compressed again."""
    width, height = image.size
    left, top, right, bottom = random.uniform(0, 0.02, 4)
    image = image.crop(
        (int(left * width), int(top * height), width - int(right * width), height - int(bottom * height))
    )
    scale = random.uniform(0.6, 1.6)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(0.85, 1.15))
    return jpeg(image, int(random.integers(40, 95)))


def samples(folder: Path, random: Random, total: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yields truth and content of samples: pictures, copies of some, and what must not be a duplicate or be kept."""
    files = sorted((folder / "rendered").glob("*.png"))
    others = 6 * len(range(0, len(files), 156))
    copied = Counter(random.integers(0, len(files), total - len(files) - others).tolist())
    for number, file in enumerate(files):
        content = jpeg(Image.open(file), 92)
        yield {"group": number, "kind": kind_of(number)}, content
        image = Image.open(io.BytesIO(content)).convert("RGB")
        for _ in range(copied[number]):
            yield {"group": number, "kind": kind_of(number)}, copy_of(image, random)
        if number % 156 == 0:
            yield {"group": f"dark {number}", "kind": "dark"}, jpeg(ImageEnhance.Brightness(image).enhance(0.05), 92)
            colour = tuple(int(level) for level in random.integers(0, 256, 3))
            yield {"group": f"plain {number}", "kind": "plain"}, jpeg(Image.new("RGB", image.size, colour), 92)
            yield {"group": f"chart {number}", "kind": "chart"}, jpeg(Image.fromarray(draw_chart(random, SIZE)), 92)
            yield {"group": f"damaged {number}", "kind": "damaged"}, content[: len(content) // 2]
            yield {"group": f"small {number}", "kind": "small"}, jpeg(image.resize((48, 48)), 92)
            blurred = image.filter(ImageFilter.GaussianBlur(4))
            yield {"group": f"blurred {number}", "kind": "blurred"}, jpeg(blurred, 92)


def pack(folder: Path, total: int) -> None:
    """Writes the samples in random order as WebDataset archives, and what is known of them as truth.jsonl."""
    random = np.random.default_rng(0)
    found = list(samples(folder, random, total))
    order = random.permutation(len(found)).tolist()
    (folder / "archives").mkdir(exist_ok=True)
    with (folder / "truth.jsonl").open("w") as truths:
        for start in range(0, len(order), PER_ARCHIVE):
            with tarfile.open(folder / "archives" / f"{start // PER_ARCHIVE:05d}.tar", "w") as archive:
                for name in range(start, min(start + PER_ARCHIVE, len(order))):
                    truth, content = found[order[name]]
                    member = tarfile.TarInfo(f"{name:06d}.jpg")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                    truths.write(json.dumps({"name": f"{name:06d}", **truth}) + "\n")
    print(len(found), "samples, of which copies:", len(found) - len({truth["group"] for truth, _ in found}))


def score(folder: Path, out: Path) -> list[str]:
    """Prints recall and precision of the duplicates, and the entropy over kinds; returns which goals are missed."""
    truths = [json.loads(line) for line in (folder / "truth.jsonl").open()]
    found = {}
    for file in sorted((out / "dropped").glob("*.jsonl")):
        found |= {line["name"]: line["reason"] for line in map(json.loads, file.open())}
    kinds = Counter(truth["kind"] for truth in truths)
    print(
        "dropped:", {kind: Counter(found.get(t["name"], "kept") for t in truths if t["kind"] == kind) for kind in kinds}
    )
    duplicate_of = np.load(out / "duplicates.npy")
    right = sum(truths[row]["group"] == truths[of]["group"] for row, of in enumerate(duplicate_of) if of >= 0)
    ordinary = [truth for truth in truths if truth["kind"] in KINDS]
    copies = len(ordinary) - len({truth["group"] for truth in ordinary})
    recall, precision = right / copies, right / max(1, int((duplicate_of >= 0).sum()))
    print(f"duplicates: {copies} known, recall {recall:.4f}, precision {precision:.4f}")
    entropies = []
    for label, names in (("before", lambda reason: True), ("after", lambda reason: reason is None)):
        counts = Counter(truth["kind"] for truth in ordinary if names(found.get(truth["name"])))
        entropies.append(entropy_bits(list(counts.values())))
        print(f"kinds {label}: {entropies[-1]:.3f} of {np.log2(len(KINDS)):.3f} bits, {dict(counts)}")
    before, after = entropies
    reached = {
        "recall of duplicates": (recall, RECALL_GOAL),
        "precision of duplicates": (precision, PRECISION_GOAL),
        "rise of the entropy over kinds in bits": (after - before, ENTROPY_GOAL_BITS),
    }
    return [f"{what} is {value:.4f}, below {goal}" for what, (value, goal) in reached.items() if value < goal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("render", "pack", "score"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="output of penguin-vl curate, for score")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if options.step == "render":
        render(options.folder, options.pictures, options.jobs)
    elif options.step == "pack":
        pack(options.folder, options.samples)
    elif options.out is None:
        parser.error("score needs OUT, the output of penguin-vl curate")
    elif missed := score(options.folder, options.out):
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
