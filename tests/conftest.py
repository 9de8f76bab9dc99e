"""Shared fixtures: the reference values, the small checkpoint they were computed with, and synthetic images."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import hypothesis
import numpy as np
import pytest

DATA = Path(__file__).parent / "data"
pytest_plugins = ["live_nodes", "postgres_server", "real_vllm"]

hypothesis.settings.register_profile("project", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with values computed by the authors' implementation."""
    return DATA / "reference"


@pytest.fixture(scope="session")
def checkpoint(reference):
    """Folder of the small checkpoint."""
    return reference / "checkpoint"


@pytest.fixture(scope="session")
def loaded(checkpoint):
    """Model and processor of the small checkpoint."""
    from penguin_models import load_pretrained

    return load_pretrained(checkpoint)


@pytest.fixture(scope="session")
def model(loaded):
    return loaded[0]


@pytest.fixture(scope="session")
def processor(loaded):
    return loaded[1]


@pytest.fixture(scope="module")
def one_thread():
    """Runs torch on one thread: more do not speed up so small a model, and on busy cores they wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory):
    """Returns a function that exports the small checkpoint, once per set of options, and returns the folder."""
    from penguin_engine.bench.event_clips import drawn_samples
    from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export

    made = {}

    def make(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("exported") / "model"
            export(checkpoint, made[key], ExportOptions(samples=drawn_samples(4), **options))
        return made[key]

    return make


@pytest.fixture
def edit_checkpoint(checkpoint, tmp_path):
    """Returns a function that makes a changed copy of the small checkpoint and returns its folder.

    Its arguments are functions that change the tensors (a dict of arrays) and the config (a dict) in place.
    """
    from safetensors.numpy import load_file, save_file

    def edit(tensors=lambda t: None, config=lambda c: None, name="edited"):
        folder = tmp_path / name
        folder.mkdir()
        for file in checkpoint.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        arrays = load_file(folder / "model.safetensors")
        tensors(arrays)
        save_file(arrays, folder / "model.safetensors")
        values = json.loads((folder / "config.json").read_text())
        config(values)
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return edit


@pytest.fixture
def small_disk(tmp_path):
    """Returns a function that mounts an empty disk of some KiB and returns its folder; skips without that right."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kib):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="session")
def picture():
    """Returns a function that makes a smooth random image: uint8 [height, width, 3]."""

    def make(height, width, seed=0):
        import cv2

        small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)

    return make
