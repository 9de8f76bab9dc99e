"""Drawn data for training: coloured shapes with captions, questions, clips and masks; and stages over it."""

from __future__ import annotations

import copy
import io
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 50), "blue": (40, 70, 210), "yellow": (230, 210, 40)}
SHAPES = ("square", "circle", "triangle")


def draw(random, size=(112, 140)):
    """Draws one to three shapes: rgb, class mask, and (colour, shape, box in thousandths) of each."""
    height, width = size
    rgb, mask = np.full((height, width, 3), 235, np.uint8), np.zeros((height, width), np.uint8)
    objects = []
    for _ in range(random.integers(1, 4)):
        colour, shape, r = random.choice(list(COLOURS)), random.choice(SHAPES), int(random.integers(10, 20))
        x, y = int(random.integers(r, width - r)), int(random.integers(r, height - r))
        for plane, value in ((rgb, COLOURS[colour]), (mask, 1 + SHAPES.index(shape))):
            if shape == "square":
                cv2.rectangle(plane, (x - r, y - r), (x + r, y + r), value, -1)
            elif shape == "circle":
                cv2.circle(plane, (x, y), r, value, -1)
            else:
                cv2.fillPoly(plane, [np.array([[x, y - r], [x - r, y + r], [x + r, y + r]])], value)
        box = [round((x - r) * 1000 / width), round((y - r) * 1000 / height)]
        box += [round((x + r) * 1000 / width), round((y + r) * 1000 / height)]
        objects.append((colour, shape, box))
    return rgb, mask, objects


def turns(*texts):
    """A conversation in the form of annotation files."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def jsonl():
    return write_jsonl


@pytest.fixture(scope="session")
def conversation():
    return turns


def _write_clip(folder, random, frames=5):
    """Writes frames in which a second shape appears half way."""
    folder.mkdir(parents=True)
    rgb, _, _ = draw(random)
    for i in range(frames):
        if i == frames // 2:
            rgb = rgb.copy()
            cv2.circle(rgb, (30, 30), 18, COLOURS["red"], -1)
        Image.fromarray(rgb).save(folder / f"{500 * i:08d}.png")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder with annotation files: captions, clips, text, mixtures of them; charts without conversation; masks."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "images").mkdir()
    random = np.random.default_rng(7)
    captions, charts, text, masks = [], [], [], []
    for i in range(40):
        rgb, mask, objects = draw(random)
        name = f"images/{i}.png"
        Image.fromarray(rgb).save(root / name)
        Image.fromarray(mask).save(root / f"images/{i}-mask.png")
        said = ", ".join(f"a [{c} {s}]({x1},{y1},{x2},{y2})" for c, s, (x1, y1, x2, y2) in objects)
        asked = turns("<image>\nDescribe it.", f"There is {said}.", "How many?", str(len(objects)))
        captions.append({"id": f"caption-{i}", "family": "image", "image": [name], "conversations": asked})
        text.append({"id": f"text-{i}", "family": "text", "text": " and ".join(f"a {c} {s}" for c, s, _ in objects)})
        masks.append({"id": f"mask-{i}", "image": [name], "masks": [f"images/{i}-mask.png"]})
        if i % 4 == 0:
            charts.append({"id": f"chart-{i}", "family": "chart", "image": name, "conversations": []})
    small = []
    for i in range(8):
        rgb, _, ((colour, shape, box), *_) = draw(random, (56, 70))
        Image.fromarray(rgb).save(root / f"images/small-{i}.png")
        asked = turns("<image>\nWhat is it?", f"[{colour} {shape}]({','.join(map(str, box))})")
        small.append({"id": f"small-{i}", "family": "image", "image": f"images/small-{i}.png", "conversations": asked})
    clips = []
    for i in range(6):
        _write_clip(root / f"clips/{i}", random)
        asked = turns("<video>\nWhen does the red circle appear?", "During the period 1.00 - 2.00 seconds.")
        clips.append({"id": f"clip-{i}", "family": "clip", "video": f"clips/{i}", "conversations": asked})
    (root / "settings.json").write_text(json.dumps({"classes": ["nothing", *SHAPES]}))
    write_jsonl(root / "few.jsonl", [*small[:4], *clips[:1]])
    files = {"captions": captions, "charts": charts, "clips": clips, "text": text, "masks": masks, "small": small}
    for name, rows in files.items():
        write_jsonl(root / f"{name}.jsonl", rows)
    write_jsonl(root / "mixed.jsonl", [*captions, *clips, *text])
    write_jsonl(root / "everything.jsonl", [*captions, *charts, *clips, *text])
    return root


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """An untrained tiny teacher."""
    from penguin_training.model.tiny_teacher import TinyTeacher

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("teacher")
    TinyTeacher(32, words=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory, checkpoint):
    """A small random Qwen3 checkpoint with the tokenizer of the reference checkpoint."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("llm")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=1536, num_key_value_heads=1, head_dim=32, tie_word_embeddings=True, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    return folder


@pytest.fixture
def values(drawn, checkpoint, tmp_path):
    """Plain values of a small multimodal stage that starts from the reference checkpoint; tests change them."""
    return {
        "name": "test",
        "kind": "multimodal",
        "output": str(tmp_path / "run"),
        "model": {"start": str(checkpoint)},
        "learning_rates": {"llm": 1e-3, "encoder": 1e-3, "patch_embedding": 1e-3, "projector": 1e-3},
        "data": {"root": str(drawn), "files": [{"path": "mixed.jsonl"}], "workers": 0, "fps": 2.0},
        "budgets": {"tokens": 256, "visual_tokens": 128, "micro_batches": 2},
        "schedule": {"steps": 4},
        "engine": {
            "precision": "float32",
            "gradient_checkpointing": False,
            "log_every": 1,
            "trackers": [],
            "save_dtype": "float32",
        },
    }


@pytest.fixture
def reconstruction(teacher_folder):
    """Adds the sections of a stage with the tiny teacher."""

    def add(values, **settings):
        values["learning_rates"]["adapter"] = 1e-3
        values["data"]["files"].append({"path": "charts.jsonl"})
        values["reconstruction"] = {"teacher": {"kind": "tiny", "path": str(teacher_folder)}, **settings}
        return values

    return add


@pytest.fixture
def parse():
    """Makes settings of plain values."""
    from penguin_training.settings.stage_file import parse_settings

    return lambda values: parse_settings(copy.deepcopy(values), "test.yaml")


@pytest.fixture
def indexed():
    """Makes the length indexes of a stage."""
    from penguin_training.data.length_index import build_index, index_path
    from penguin_training.data.open_data import annotation_files, make_reader
    from penguin_training.model.blueprint import make_blueprint

    def make(settings):
        reader = make_reader(settings, make_blueprint(settings))
        for file in annotation_files(settings):
            if not index_path(file, reader).is_file():
                build_index(file, reader)
        return settings

    return make


@pytest.fixture
def start(parse, indexed):
    """Prepares a run of plain values (or settings), with its indexes made."""
    from accelerate.state import AcceleratorState

    from penguin_training.run.build_run import build_run

    def prepare(values, resume=False):
        AcceleratorState._reset_state(reset_partial_state=True)
        settings = parse(values) if isinstance(values, dict) else values
        if not settings.data.streamed:
            indexed(settings)
        return build_run(settings, resume, Console(file=io.StringIO()))

    yield prepare
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def losses():
    """Reads the logged metrics of a run."""

    def read(run, name="loss"):
        lines = (run.output / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)[name] for line in lines]

    return read


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Runs every test of training on one thread."""
