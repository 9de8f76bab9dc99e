"""The manifest: reading it back, and refusing folders that differ from what was exported."""

import json
import shutil

import pytest

from penguin_engine.export.manifest import DECODER, EMBEDDINGS, MANIFEST, VISION, Manifest
from penguin_models.errors import EngineError
from penguin_models.processor import Processor


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported(profile="portable"), tmp_path / "copy")


def test_manifest_describes_the_model(folder, checkpoint):
    manifest = Manifest.read(folder)
    assert (manifest.source, manifest.opset, manifest.precision) == (str(checkpoint), 18, "float32")
    assert (manifest.decoder.layers, manifest.decoder.heads, manifest.decoder.kv_heads) == (3, 6, 2)
    assert (manifest.image_token_id, manifest.end_token_ids) == (1503, (1500,))
    assert {VISION, DECODER, EMBEDDINGS, f"{VISION}.data", f"{DECODER}.data", "tokenizer.json"} <= set(manifest.files)
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {MANIFEST}
    manifest.verify(folder)


def test_folder_contains_the_processor(folder, checkpoint):
    ours, theirs = Manifest.read(folder).processor(folder), Processor.from_pretrained(checkpoint)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what? äöü"}]}]
    assert ours.prompt_ids(conversation, [3]).tolist() == theirs.prompt_ids(conversation, [3]).tolist()
    assert ours.images == theirs.images


@pytest.mark.parametrize(
    ("name", "message"), [("none", "is not a folder"), (".", "has no manifest.json; create an exported folder with")]
)
def test_folder_that_is_not_an_export_is_refused(tmp_path, name, message):
    with pytest.raises(EngineError, match=message):
        Manifest.read(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format=2), "it is not a JSON object of format 1"),
        (lambda raw: raw.pop("decoder"), "decoder: Field required"),
        (lambda raw: raw["decoder"].pop("layers"), r"decoder\.layers: Field required"),
        (lambda raw: raw.update(profile="old"), "profile is 'old': String should match pattern '.*portable"),
        (lambda raw: raw.update(files=[]), r"files is \[\]: Input should be a valid dictionary"),
        (
            lambda raw: raw["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
            r"it names '\.\./x', which is not a file",
        ),
        (lambda raw: raw["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}}), "it names '/etc/passwd'"),
    ],
)
def test_damaged_manifest_is_refused(folder, change, message):
    raw = json.loads((folder / MANIFEST).read_text())
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=rf"cannot be read as a manifest \(.*{message}.*export the checkpoint again"):
        Manifest.read(folder)


def test_missing_file_is_refused(folder):
    (folder / "decoder.onnx.data").unlink()
    with pytest.raises(EngineError, match=r"decoder\.onnx\.data is missing; copy or export"):
        Manifest.read(folder)


def test_truncated_file_is_refused(folder):
    data = (folder / EMBEDDINGS).read_bytes()
    (folder / EMBEDDINGS).write_bytes(data[:-1])
    with pytest.raises(EngineError, match=f"has {len(data) - 1} bytes instead of {len(data)}"):
        Manifest.read(folder)


@pytest.mark.parametrize("name", [DECODER, "tokenizer.json"])
def test_changed_small_file_is_refused_when_reading(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(EngineError, match=rf"{name} has changed since the export: its hash differs; copy or export"):
        Manifest.read(folder)


def test_changed_large_file_is_refused_when_verifying(folder, monkeypatch):
    monkeypatch.setattr("penguin_engine.export.manifest._SMALL_BYTES", 0)  # as if it were large
    data = bytearray((folder / EMBEDDINGS).read_bytes())
    data[-1] ^= 1
    (folder / EMBEDDINGS).write_bytes(data)
    with pytest.raises(EngineError, match=r"embeddings\.bin has changed since the export: its hash differs"):
        Manifest.read(folder).verify(folder)
