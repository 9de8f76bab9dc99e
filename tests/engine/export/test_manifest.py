"""The manifest: what was written is read, and a folder that is not what was exported is refused."""

import json
import shutil

import pytest

from penguin_engine.export.manifest import DECODER, EMBEDDINGS, MANIFEST, VISION, Manifest
from penguin_models.errors import EngineError
from penguin_models.processor import Processor


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported(profile="portable"), tmp_path / "copy")


def test_it_describes_the_model(folder, checkpoint):
    manifest = Manifest.read(folder)
    assert (manifest.source, manifest.opset, manifest.precision) == (str(checkpoint), 18, "float32")
    assert (manifest.decoder.layers, manifest.decoder.heads, manifest.decoder.kv_heads) == (3, 6, 2)
    assert (manifest.image_token_id, manifest.end_token_ids) == (1503, (1500,))
    assert manifest.preprocessor["patch_size"] == 14
    names = {VISION, DECODER, EMBEDDINGS, f"{VISION}.data", f"{DECODER}.data", *manifest.tokenizer}
    assert set(manifest.files) == names == {path.name for path in folder.iterdir()} - {MANIFEST}
    manifest.verify(folder)


def test_the_folder_has_the_processor(folder, checkpoint):
    ours, theirs = Manifest.read(folder).processor(folder), Processor.from_pretrained(checkpoint)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what? äöü"}]}]
    assert ours.prompt_ids(conversation, [3]).tolist() == theirs.prompt_ids(conversation, [3]).tolist()
    assert ours.images == theirs.images


@pytest.mark.parametrize(
    ("name", "message"), [("none", "is not a folder"), (".", "has no manifest.json; make an exported folder with")]
)
def test_what_is_no_exported_folder(tmp_path, name, message):
    with pytest.raises(EngineError, match=message):
        Manifest.read(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format=2), "its format is 2, this version reads 1"),
        (lambda raw: raw.pop("decoder"), "'decoder'"),
        (lambda raw: raw["decoder"].pop("layers"), "layers"),
        (lambda raw: raw.update(profile="old"), "profile 'old' is unknown"),
        (lambda raw: raw.update(files=[]), "has no attribute 'items'"),
    ],
)
def test_manifests_that_cannot_be_read(folder, change, message):
    raw = json.loads((folder / MANIFEST).read_text())
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=rf"cannot be read as a manifest \(.*{message}.*export the checkpoint again"):
        Manifest.read(folder)


def test_a_manifest_that_is_no_object(folder):
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(EngineError, match=r"cannot be read as a manifest \(it is no JSON object\); export"):
        Manifest.read(folder)


def test_a_missing_file(folder):
    (folder / "decoder.onnx.data").unlink()
    with pytest.raises(EngineError, match=r"decoder\.onnx\.data is missing, its manifest says \d+"):
        Manifest.read(folder)


def test_a_file_cut_short(folder):
    data = (folder / EMBEDDINGS).read_bytes()
    (folder / EMBEDDINGS).write_bytes(data[:-1])
    with pytest.raises(EngineError, match=f"has {len(data) - 1} bytes, its manifest says {len(data)}"):
        Manifest.read(folder)


@pytest.mark.parametrize("name", [DECODER, "tokenizer.json"])
def test_a_small_file_that_was_changed_is_found_at_once(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(EngineError, match=rf"{name} is not what was exported: its hash differs; copy or export"):
        Manifest.read(folder)


def test_a_changed_file(folder, monkeypatch):
    monkeypatch.setattr("penguin_engine.export.manifest._SMALL_BYTES", 0)  # as if it were large
    data = bytearray((folder / EMBEDDINGS).read_bytes())
    data[-1] ^= 1
    (folder / EMBEDDINGS).write_bytes(data)
    with pytest.raises(EngineError, match=r"embeddings\.bin is not what was exported: its hash differs"):
        Manifest.read(folder).verify(folder)
