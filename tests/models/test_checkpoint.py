"""Checkpoints are read completely or not at all, and read back bit by bit as they were written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from penguin_models import load_pretrained, save_pretrained
from penguin_models.errors import CheckpointError

ENCODER = "model.vision_encoder."


def assert_same_weights(first, second):
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert torch.equal(parameter, theirs[name]), name


@pytest.mark.parametrize("shard_size", ["5GB", "300KB"])
def test_a_saved_checkpoint_loads_bit_identically(model, processor, tmp_path, shard_size):
    save_pretrained(model, processor, tmp_path / "saved", max_shard_size=shard_size)
    again, processor_again = load_pretrained(tmp_path / "saved")
    assert_same_weights(model, again)
    assert (tmp_path / "saved" / "model.safetensors.index.json").exists() == (shard_size == "300KB")
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A cup?"}]}]
    assert processor_again.prompt_segments(conversation) == processor.prompt_segments(conversation)
    assert processor_again.images == processor.images


def test_saving_over_shards_leaves_no_stale_shard(model, processor, tmp_path):
    save_pretrained(model, processor, tmp_path, max_shard_size="300KB")
    save_pretrained(model, processor, tmp_path)
    assert [f.name for f in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert_same_weights(model, load_pretrained(tmp_path)[0])


def test_weights_have_the_permissions_of_other_new_files(model, processor, tmp_path):
    save_pretrained(model, processor, tmp_path / "saved")
    (tmp_path / "other").touch()
    modes = {file.stat().st_mode for file in [*(tmp_path / "saved").iterdir(), tmp_path / "other"]}
    assert len(modes) == 1


def test_saved_tensors_have_released_names(model, processor, checkpoint, tmp_path):
    save_pretrained(model, processor, tmp_path)
    saved, released = load_file(tmp_path / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert saved.keys() == released.keys()
    assert all(np.array_equal(saved[name], released[name]) for name in released)


def test_the_training_layout_loads_without_its_extra_tensors(edit_checkpoint, model):
    def to_training(tensors):
        for name in [n for n in tensors if n.startswith(ENCODER)]:
            tensors[f"{ENCODER}vision_encoder.{name.removeprefix(ENCODER)}"] = tensors.pop(name)
        tensors[f"{ENCODER}vision_encoder_teacher.encoder.layers.0.x"] = np.zeros(3, np.float32)
        tensors[f"{ENCODER}vision_distill_layer.weight"] = np.zeros(3, np.float32)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(3, np.float32)

    assert_same_weights(load_pretrained(edit_checkpoint(to_training))[0], model)


@pytest.mark.parametrize("prefix", ["", ENCODER, f"{ENCODER}vision_encoder."])
def test_the_encoder_may_come_from_a_second_checkpoint(edit_checkpoint, model, checkpoint, prefix):
    def without_encoder(tensors):
        for name in [n for n in tensors if n.startswith(ENCODER)]:
            taken[prefix + name.removeprefix(ENCODER)] = tensors.pop(name)

    def name_encoder(config):
        config["vision_encoder"] = "encoder"
        config.pop("vision_encoder_config")

    taken: dict = {}
    folder = edit_checkpoint(without_encoder, name_encoder)
    (folder / "encoder").mkdir()
    save_file(taken, folder / "encoder" / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())["vision_encoder_config"]
    (folder / "encoder" / "config.json").write_text(json.dumps(config))
    assert_same_weights(load_pretrained(folder)[0], model)


def test_an_encoder_inside_wins_over_the_one_that_config_names(edit_checkpoint, model, checkpoint):
    """Released weights contain the encoder; only its configuration comes from the second checkpoint."""
    folder = edit_checkpoint(config=lambda c: (c.pop("vision_encoder_config"), c.update(vision_encoder="encoder")))
    (folder / "encoder").mkdir()
    config = json.loads((checkpoint / "config.json").read_text())["vision_encoder_config"]
    (folder / "encoder" / "config.json").write_text(json.dumps(config))
    assert_same_weights(load_pretrained(folder)[0], model)


def drop(name):
    return lambda tensors: tensors.pop(name)


def reshape(name):
    return lambda tensors: tensors.update({name: np.zeros((7, 5), np.float32)})


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (drop("model.norm.weight"), {}, r"1 missing: model\.norm\.weight"),
        (drop(f"{ENCODER}encoder.norm.weight"), {}, r"1 missing: model\.vision_encoder\.encoder\.norm\.weight"),
        (lambda t: t.update(surprise=np.zeros(1)), {}, "1 unexpected: surprise"),
        (reshape("model.norm.weight"), {}, r"model\.norm\.weight is \[7, 5\], config\.json wants \[96\]"),
        (lambda t: None, {"num_hidden_layers": 100_000}, "num_hidden_layers is 100000: Input should be less than"),
        (lambda t: None, {"layer_types": ["full_attention"]}, "transformers refuses the settings of the decoder"),
        (lambda t: None, {"initializer_range": [3]}, "initializer_range is .*: Input should be a valid number"),
        (lambda t: None, {"rope_parameters": ["x"]}, "rope_parameters is .*: Input should be a valid dictionary"),
        (lambda t: None, {"num_hidden_layers": 2}, r"11 unexpected: model\.layers\.2\..* and 6 more"),
        (lambda t: None, {"tie_word_embeddings": False}, r"1 missing: lm_head\.weight"),
        (lambda t: t.update({"lm_head.weight": np.ones_like(t["model.embed_tokens.weight"])}), {}, "ties lm_head"),
        (lambda t: None, {"model_type": "llama"}, "'llama' model"),
        (lambda t: None, {"hidden_size": None}, "lacks hidden_size"),
        (lambda t: None, {"hidden_size": "x"}, "hidden_size is 'x': Input should be a valid integer"),
        (lambda t: None, {"vocab_size": -1}, "vocab_size is -1: Input should be greater than or equal to 1"),
        (lambda t: None, {"vision_encoder_config": None}, "names no vision_encoder"),
        (lambda t: None, {"vision_encoder_config": None, "vision_encoder": 5}, "names no vision_encoder"),
        (lambda t: None, {"vision_encoder_config": [1]}, r"encoder configuration is \[1\]"),
        (lambda t: None, {"rms_norm_eps": "x"}, "rms_norm_eps is 'x': Input should be a valid number"),
        (lambda t: None, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (lambda t: None, {"num_key_value_heads": 5}, "misshapen|describes no Qwen3"),
        (lambda t: None, {"image_token_index": "x"}, "image_token_index is 'x'"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(96, np.int8)}),
            {},
            r"1 not of type .*: model\.norm\.weight is I8",
        ),
        (lambda t: None, {"vision_encoder_config": None, "vision_encoder": "no/such"}, "no/such is not a folder"),
        (lambda t: None, {"image_token_index": 7}, "gives <image> the id 1503"),
    ],
)
def test_mismatches_are_named(edit_checkpoint, monkeypatch, tensors, config, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = edit_checkpoint(tensors, lambda c: c.update(config))
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(folder)


def test_a_stored_head_that_equals_the_embeddings_is_accepted(edit_checkpoint, model):
    folder = edit_checkpoint(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    assert_same_weights(load_pretrained(folder)[0], model)


def test_an_untied_head_is_loaded_and_saved(edit_checkpoint, model):
    folder = edit_checkpoint(
        lambda t: t.update({"lm_head.weight": np.ones_like(t["model.embed_tokens.weight"])}),
        lambda c: c.update(tie_word_embeddings=False),
    )
    untied, processor = load_pretrained(folder)
    assert (untied.language_model.lm_head.weight == 1).all()
    assert torch.equal(untied.language_model.model.embed_tokens.weight, model.language_model.model.embed_tokens.weight)
    save_pretrained(untied, processor, folder / "again")
    assert_same_weights(load_pretrained(folder / "again")[0], untied)


def test_truncated_weights_are_refused(edit_checkpoint):
    file = edit_checkpoint() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_pretrained(file.parent)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("config.json", "{", "cannot be read as JSON"),
        ("config.json", "[]", "holds a list"),
        ("model.safetensors", None, "has neither"),
        ("tokenizer.json", None, "neither tokenizer.json nor vocab.json"),
        ("tokenizer.json", "{}", r"tokenizer\.json cannot be read"),
        ("preprocessor_config.json", None, "is missing"),
        ("preprocessor_config.json", '{"resample": 2}', "not bicubic"),
        ("preprocessor_config.json", '{"patch_size": 16}', "patches of 16 pixels, the encoder of 14"),
        ("preprocessor_config.json", '{"patch_size": 0}', "patch_size is 0: Input should be greater than"),
        ("preprocessor_config.json", '{"max_tokens": "x"}', "max_tokens is 'x'"),
        ("preprocessor_config.json", '{"image_mean": "abc"}', "mean is 'abc': Input should be a valid tuple"),
        ("preprocessor_config.json", '{"image_std": [0, 0, 0]}', r"std\.0 is 0: Input should be greater than 0"),
        ("model.safetensors.index.json", "[]", "holds a list"),
        ("model.safetensors.index.json", '{"weight_map": []}', "has no weight_map"),
    ],
)
def test_missing_and_broken_files_are_named(edit_checkpoint, file, content, message):
    folder = edit_checkpoint()
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize("form", ["../weights", "absolute", "link", "only"])
def test_shards_outside_the_folder_are_refused(edit_checkpoint, tmp_path, form):
    folder = edit_checkpoint()
    outside = tmp_path / "weights"
    (folder / "model.safetensors").rename(outside)
    links = {"link": "shard.safetensors", "only": "model.safetensors"}
    name = {"absolute": str(outside), "../weights": f"../{outside.name}"}.get(form) or links[form]
    if form in links:
        (folder / name).symlink_to(outside)
    if form != "only":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match=rf"names '{name}', which is outside the folder"):
        load_pretrained(folder)


def test_links_into_the_blobs_of_the_hub_cache_are_read(edit_checkpoint, tmp_path, model):
    """A snapshot of the cache holds links only."""
    folder = edit_checkpoint()
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1234", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    names = {"model.safetensors": "model-00001-of-00001.safetensors"}
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / names.get(file.name, file.name)).symlink_to(f"../../blobs/{file.name}")
    tensors = load_file(blobs / "model.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_weights(load_pretrained(snapshot)[0], model)


@pytest.mark.parametrize("second", ["../encoder", "/tmp/encoder"])
def test_an_encoder_outside_the_folder_is_refused(edit_checkpoint, second):
    folder = edit_checkpoint(config=lambda c: (c.pop("vision_encoder_config"), c.update(vision_encoder=second)))
    with pytest.raises(CheckpointError, match=rf"names '{second}', which is outside the folder"):
        load_pretrained(folder)


def test_code_in_a_checkpoint_never_runs(edit_checkpoint, tmp_path):
    """A tokenizer without tokenizer.json is read by transformers, which could import a module of the folder."""
    folder, proof = edit_checkpoint(), tmp_path / "executed"
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Tokenizer: pass\n")
    settings = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"the tokenizer of .* cannot be read: .*; download it again$"):
        load_pretrained(folder)
    assert not proof.exists()


@pytest.mark.parametrize("path", ["/nowhere", "./nowhere", "a/b/c", "nowhere"])
def test_unknown_folders_are_refused(path):
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        load_pretrained(path)


def test_dtype_and_device_never_fall_back(checkpoint):
    half, _ = load_pretrained(checkpoint, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.language_model.model.rotary_emb.inv_freq.dtype == torch.float32
    with pytest.raises(CheckpointError, match="'int7' is unknown"):
        load_pretrained(checkpoint, dtype="int7")
    if not torch.cuda.is_available():
        with pytest.raises(CheckpointError, match="cannot use device 'cuda'"):
            load_pretrained(checkpoint, device="cuda")


PEAK_SCRIPT = """
import json, resource, sys
from penguin_models import load_pretrained
load_pretrained(sys.argv[1])
from pathlib import Path
status = lambda name: int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024
found = {}
for dtype in ("bfloat16", "float32"):
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    model, _ = load_pretrained(sys.argv[2], dtype=dtype)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    found[dtype] = {"peak": status("VmHWM") - before, "weights": weights}
print(json.dumps(found))
"""


def test_loading_needs_little_more_than_the_weights(edit_checkpoint, checkpoint):
    def larger(tensors):
        random = np.random.default_rng(0)
        for layer in range(3):
            for name, shape in (("gate", (wide, 96)), ("up", (wide, 96)), ("down", (96, wide))):
                tensors[f"model.layers.{layer}.mlp.{name}_proj.weight"] = random.random(shape, np.float32)

    wide = 100_000  # 350 MB of float32
    folder = edit_checkpoint(larger, lambda c: c.update(intermediate_size=wide))
    command = [sys.executable, "-c", PEAK_SCRIPT, str(checkpoint), str(folder)]
    results = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert all(result["peak"] <= 1.2 * result["weights"] for result in results.values()), results


def test_a_local_folder_has_no_revisions(checkpoint):
    with pytest.raises(CheckpointError, match="is a local folder, which has no revisions; leave out revision 'v1'"):
        load_pretrained(checkpoint, revision="v1")
