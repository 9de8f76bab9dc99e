"""Teachers: each kind returns one feature vector per visual token, from the same patches as the student."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from penguin_models.checkpoint import load_pretrained
from penguin_models.encoder import FrameShape
from penguin_models.errors import CheckpointError, DataError, SettingError
from penguin_models.types import Size
from penguin_training.data.masks import NO_EDGE, class_shares, edge_classes, read_classes, words_of
from penguin_training.model.teachers import load_teacher
from penguin_training.model.tiny_teacher import EDGE_STEPS, TinyTeacher
from penguin_training.model.train_tiny_teacher import Recipe, train_tiny_teacher
from penguin_training.settings.model import TeacherSettings

FRAMES = [FrameShape(Size(4, 6), 2), FrameShape(Size(3, 5), 1)]


@pytest.fixture
def patches():
    return torch.randn(39, 588, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def siglip(tmp_path):
    """A random VL3-SigLIP-NaViT in its authors' layout, with code that must not run."""
    from transformers import VideoLlama3VisionConfig, VideoLlama3VisionModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    VideoLlama3VisionModel(VideoLlama3VisionConfig(patch_size=14, **sizes)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {
        "model_type": "videollama3_vision_encoder",
        "auto_map": {"AutoModel": "modeling.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text("raise RuntimeError('code of a checkpoint ran')")
    return tmp_path


def test_each_kind_returns_a_row_for_each_visual_token(siglip, teacher_folder, checkpoint, patches):
    for kind, path, width in (("siglip", siglip, 32), ("tiny", teacher_folder, 32), ("penguin", checkpoint, 64)):
        teacher = load_teacher(TeacherSettings(kind=kind, path=str(path)), 14).to(torch.device("cpu"), torch.float32)
        features = teacher.features(patches, FRAMES)
        assert features.shape == (6 + 15, width) and teacher.width == width and not features.requires_grad
        alone = teacher.features(patches[24:], FRAMES[1:])  # frames do not see each other
        torch.testing.assert_close(features[6:], alone, atol=1e-5, rtol=1e-4)


def test_a_penguin_teacher_is_its_encoder(checkpoint, patches):
    teacher = load_teacher(TeacherSettings(kind="penguin", path=str(checkpoint)), 14)
    model, _ = load_pretrained(checkpoint)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(patches, FRAMES), model.vision_encoder(patches, FRAMES))


def test_other_models_are_refused(siglip, checkpoint, tmp_path, teacher_folder):
    with pytest.raises(CheckpointError, match="is a 'penguinvl_qwen3' model; a teacher of kind siglip is one of"):
        load_teacher(TeacherSettings(kind="siglip", path=str(checkpoint)), 14)
    with pytest.raises(CheckpointError, match="not a teacher made by `penguin-vl prepare teacher`"):
        load_teacher(TeacherSettings(kind="tiny", path=str(checkpoint)), 14)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_teacher(TeacherSettings(kind="tiny", path=str(tmp_path / "none")), 14)
    with pytest.raises(SettingError, match="patches of 14 pixels, the student of 16"):
        load_teacher(TeacherSettings(kind="tiny", path=str(teacher_folder)), 16)


def test_an_empty_teacher_knows_its_sizes(siglip, teacher_folder, checkpoint, monkeypatch):
    for kind, path, width in (("siglip", siglip, 32), ("tiny", teacher_folder, 32), ("penguin", checkpoint, 64)):
        settings = TeacherSettings(kind=kind, path=str(path))
        empty, loaded = load_teacher(settings, 14, weights=False), load_teacher(settings, 14)
        assert (empty.width, empty.patch_size) == (width, 14)
        assert sum(p.numel() for p in empty.parameters()) == sum(p.numel() for p in loaded.parameters())
        assert kind == "tiny" or all(p.is_meta for p in empty.parameters())
        assert (empty.reading is not None) == (kind == "tiny")
        monkeypatch.setattr(
            "penguin_training.model.teachers.is_local", lambda path: False
        )  # on the hub, but for its sizes
        assert load_teacher(settings, 14, weights=False).width == width
        monkeypatch.undo()


@pytest.mark.parametrize("weights", [True, False])
def test_incomplete_teachers_are_refused(siglip, checkpoint, tmp_path_factory, weights):
    def fails(kind, folder, message):
        with pytest.raises(CheckpointError, match=message):
            load_teacher(TeacherSettings(kind=kind, path=str(folder)), 14, weights)

    for kind in ("tiny", "siglip"):
        fails(kind, checkpoint, "is a 'penguinvl_qwen3' model")
    fails("penguin", siglip, "has no vision_encoder_config")
    (siglip / "model.safetensors").rename(siglip / "kept")
    fails("siglip", siglip, "has neither model.safetensors nor")
    (siglip / "kept").rename(siglip / "model.safetensors")
    config = json.loads((siglip / "config.json").read_text())
    (siglip / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    fails("siglip", siglip, "hidden_size is 'wide', not an integer")
    hollow = tmp_path_factory.mktemp("hollow")
    for file in checkpoint.glob("*.json"):
        shutil.copy(file, hollow)
    fails("penguin", hollow, "has neither model.safetensors nor")


def test_the_tiny_teacher_learns_words_and_edges(drawn, tmp_path):
    seen = []
    recipe = Recipe(hidden_size=64, steps=30, images=4, rate=3e-3, workers=0)
    teacher = train_tiny_teacher(
        [drawn / "masks.jsonl"], recipe, report=lambda step, mean: seen.append((step, mean["loss"]))
    )
    assert seen[0][0] == 1 and len(seen) == 30
    assert seen[-1][1] < 0.8 * seen[4][1]  # running means
    again = train_tiny_teacher([drawn / "masks.jsonl"], replace(recipe, steps=2))
    other = train_tiny_teacher([drawn / "masks.jsonl"], replace(recipe, steps=2))
    for ours, theirs in zip(again.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = TinyTeacher.from_pretrained(tmp_path / "teacher")
    assert not any(p.requires_grad for p in loaded.parameters())
    for (name, ours), (_, theirs) in zip(loaded.named_parameters(), teacher.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_reading_compares_the_predictions_of_the_classifiers(teacher_folder):
    teacher = TinyTeacher.from_pretrained(teacher_folder)
    own = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    other = torch.zeros_like(own).requires_grad_()
    loss = teacher.reading(other, own)
    loss.backward()
    assert loss > teacher.reading(own, own) and (other.grad.norm(dim=1) > 0).all()


def test_reading_weights_patches_by_what_they_show(teacher_folder):
    """Only the first feature says whether a patch shows the first word; no other word ever applies."""
    teacher = TinyTeacher.from_pretrained(teacher_folder)
    for head in (teacher.word_head, teacher.edge_head):
        head.weight.zero_(), head.bias.zero_()
    teacher.word_head.weight[0, 0] = 50
    teacher.word_head.bias[1:] = -50
    undecided, sure = torch.zeros(1, 32), torch.ones(1, 32)
    of_word, of_edges = math.log(2), math.log(EDGE_STEPS + 1)
    torch.testing.assert_close(teacher.reading(undecided, sure).item(), of_word + 0.5 * of_edges)
    torch.testing.assert_close(teacher.reading(undecided, -sure).item(), 0.25 * of_word)


def test_shares_of_classes_follow_the_patches():
    mask = np.zeros((28, 42), np.uint8)
    mask[:14, 14:28] = 2  # the second patch of the first row
    mask[14:21, 28:] = 1  # half of the last patch
    shares = class_shares(mask, Size(28, 42), 14, 3)
    expected = torch.zeros(6, 3)
    expected[:, 0] = 1
    expected[1] = torch.tensor([0.0, 0.0, 1.0])
    expected[5] = torch.tensor([0.5, 0.5, 0.0])
    torch.testing.assert_close(shares, expected)


def test_classes_share_their_words():
    words, table = words_of(["nothing", "red cube", "red robot arm", "any cube"])
    assert words == ["arm", "cube", "red", "robot"]
    assert table.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0]]


def test_edges_are_those_of_the_connected_component_in_a_patch():
    mask = np.zeros((42, 56), np.uint8)
    mask[7:35, 14:42] = 3  # from the middle of the first row to that of the last, columns 1 and 2
    mask[0:2, 0:2] = 3  # another component, too small to count
    edges = edge_classes(mask, Size(42, 56), 14).reshape(3, 4, 4)

    assert (edges[:, 0] == NO_EDGE).all() and (edges[:, 3] == NO_EDGE).all()
    found = [EDGE_STEPS * 14 // 56, EDGE_STEPS * 7 // 42, EDGE_STEPS * 42 // 56, EDGE_STEPS * 35 // 42]
    assert (edges[:, 1:3] == torch.tensor(found)).all()


def test_unusable_masks_are_reported(drawn, tmp_path, jsonl):
    settings = Recipe(hidden_size=64, steps=4, images=4, workers=0)

    def annotations(name, classes):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps(classes))
        rows = [json.loads(line) for line in (drawn / "masks.jsonl").read_text().splitlines()]
        for row in rows:
            row["image"], row["masks"] = ([str(drawn / path) for path in row[key]] for key in ("image", "masks"))
        return jsonl(folder / "masks.jsonl", rows)

    few = annotations("few", {"classes": ["nothing", "a"]})
    with pytest.raises(DataError, match=r"shows class \d, but only 2 are named; list all"):
        train_tiny_teacher([few], settings)
    with pytest.raises(DataError, match="no sample with as many masks as images"):
        train_tiny_teacher([drawn / "captions.jsonl"], settings)
    few.write_text("[1]\n")
    with pytest.raises(DataError, match=r"sample 1 of annotation file .*masks\.jsonl must be an object, not \[1\]"):
        train_tiny_teacher([few], settings)
    with pytest.raises(DataError, match=r"settings\.json does not list the classes"):
        read_classes([annotations("none", {})])
    with pytest.raises(DataError, match="lists no classes"):
        read_classes([annotations("one", {"classes": ["nothing"]})])
    with pytest.raises(DataError, match=r"annotation file .*none\.jsonl does not exist"):
        read_classes([tmp_path / "none.jsonl"])
    with pytest.raises(DataError, match="list different classes"):
        read_classes([few, annotations("other", {"classes": ["nothing", "b"]})])


def test_a_tiny_teacher_with_other_sizes_is_refused(tmp_path):
    folder = tmp_path / "teacher"
    TinyTeacher(32, 4).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"words": 5}))
    with pytest.raises(CheckpointError, match="does not fit"):
        TinyTeacher.from_pretrained(folder)
