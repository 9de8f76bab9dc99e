"""The dry run: every stage that ships passes it, its figures are right, and what is missing is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from penguin_models.errors import CheckpointError, DataError, SettingError
from penguin_training import setup
from penguin_training.batches import Batch
from penguin_training.dry_run import dry_run
from penguin_training.settings_file import load_settings
from penguin_training.weights import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
STAGES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
# Sizes of the models that stages name, as their config.json files have them.
QWEN3 = {
    "Qwen/Qwen3-0.6B": (1024, 3072, 28, 16, True),
    "Qwen/Qwen3-1.7B": (2048, 6144, 28, 16, True),
    "Qwen/Qwen3-8B": (4096, 12288, 36, 32, False),
}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
PARAMETERS = {"2b": (1.7e9, 2.3e9), "8b": (8.2e9, 8.8e9), "on-device": (0.8e9, 0.9e9)}


def qwen3(name):
    hidden, intermediate, layers, heads, tied = QWEN3[name]
    return {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
        "tie_word_embeddings": tied,
    }


def penguin(name):
    encoder = {k: v for k, v in qwen3("Qwen/Qwen3-0.6B").items() if k != "model_type"} | {"patch_size": 14}
    more = {"model_type": "penguinvl_qwen3", "image_token_index": 1503, "vision_encoder_config": encoder}
    return qwen3(name) | more


@pytest.fixture(scope="module")
def world(tmp_path_factory, checkpoint, llm_folder, teacher_folder):
    """A folder in which everything lies that stages name: configurations and tokenizers, but no large weights."""
    root = tmp_path_factory.mktemp("world")
    tokenizer = [checkpoint / name for name in ("tokenizer.json", "tokenizer_config.json")]

    def put(name, config, more=()):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        for file in (*tokenizer, *more):
            shutil.copy(file, folder)

    for name in QWEN3:
        put(name, qwen3(name))
    pictures = [checkpoint / "preprocessor_config.json"]
    put("tencent/Penguin-VL-2B", penguin("Qwen/Qwen3-1.7B"), pictures)
    put("DAMO-NLP-SG/VL3-SigLIP-NaViT", SIGLIP | {"model_type": "videollama3_vision_encoder"})
    for size, llm in (("2b", "Qwen/Qwen3-1.7B"), ("8b", "Qwen/Qwen3-8B")):
        for stage in ("1-low-resolution", "2-high-resolution", "3-pretraining", "4a-general"):
            put(f"runs/penguin-{size}/{stage}", penguin(llm), pictures)
    for size in ("tiny-cpu", "tiny-gpu"):
        run = root / "runs" / size
        shutil.copytree(llm_folder, run / "0-text")
        shutil.copytree(teacher_folder, run / "teacher")
        put(f"runs/{size}/tokenizer", {})
        for stage in ("1-low-resolution", "2-high-resolution", "3-pretraining", "4a-general"):
            shutil.copytree(checkpoint, run / stage)
    return root


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_that_ships_passes(name, world, drawn, indexed, monkeypatch):
    monkeypatch.chdir(world)
    files = "[{path: text.jsonl}]" if "text" in name else "[{path: few.jsonl}]"
    given = load_settings(CONFIGS / f"{name}.yaml")
    data = f"data={{root: {drawn}, files: {files}, fps: 2.0, workers: 0, train_on: {given.data.train_on}}}"
    tokens = f"budgets.tokens={max(512, given.budgets.visual_tokens)}"
    settings = indexed(load_settings(CONFIGS / f"{name}.yaml", [data, "budgets.micro_batches=1", tokens]))
    report = dry_run(settings)
    trained = settings.learning_rates.given()
    assert set(report.trained) == set(trained) and not set(report.frozen) & set(trained)
    total = sum(report.trained.values()) + sum(report.frozen.values())
    low, high = PARAMETERS.get(name.split("/")[0], (0, 8e6))
    assert low < total < high
    assert report.bytes["optimiser"] == 8 * sum(report.trained.values()) and report.bytes["activations"] > 0
    assert report.lines()[0].startswith(f"{settings.name}: ")


def test_figures_are_those_of_the_model_and_the_data(values, parse, indexed, reconstruction):
    settings = indexed(parse(reconstruction(values)))
    report = dry_run(settings)
    blueprint = setup.make_blueprint(settings)
    model = build_model(settings, blueprint, 32)
    assert sum(report.trained.values()) == sum(p.numel() for p in model.parameters())
    assert report.bytes["weights"] == 4 * sum(p.numel() for p in model.parameters()) and not report.frozen
    source = setup.open_source(settings, blueprint)
    batches = [source.data.batch(numbers) for numbers in source.data.plan.micro_batches(0)]
    assert report.shapes["patches"] == [max(len(b.patches) for b in batches), 588]
    assert report.steps == 4 and report.micro_batches_per_epoch == len(batches)


def test_kept_activations_are_counted_as_they_are(values, parse, indexed, checkpoint):
    """Against what autograd keeps in a real forward pass; recomputation keeps far less."""
    settings = indexed(parse(values))
    batch = setup.open_source(settings, setup.make_blueprint(settings)).data
    largest = max(batch.plan.micro_batches(0), key=lambda n: (batch.patches(n), batch.plan.size(n)))
    model = build_model(settings, setup.make_blueprint(settings), None)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    real: Batch = batch.batch(largest)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(real)
    size = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    del losses
    counted = dry_run(settings).bytes["activations"]
    assert counted == pytest.approx(size, rel=0.05)
    values["engine"]["gradient_checkpointing"] = True
    assert dry_run(parse(values)).bytes["activations"] < 0.5 * counted


def test_what_is_missing_is_said(values, parse, reconstruction, tmp_path, drawn):
    with pytest.raises(DataError, match="no length index for these settings"):
        values["budgets"]["visual_tokens"] = 127
        dry_run(parse(values))
    values["data"]["files"] = [{"path": "none.jsonl"}]
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        dry_run(parse(values))
    values["data"]["root"] = str(tmp_path / "none")
    with pytest.raises(DataError, match="is not a folder"):
        dry_run(parse(values))
    values["data"]["root"] = str(drawn)
    values["output"] = values["model"]["start"]
    with pytest.raises(SettingError, match=r"is model\.start; write to another folder"):
        dry_run(parse(values))
    values["output"] = str(tmp_path / "run")
    values["engine"]["trackers"] = ["wandb"]
    with pytest.raises(SettingError, match="names wandb, which is not installed"):
        dry_run(parse(values))


def test_a_missing_teacher_is_said(values, parse, indexed, reconstruction, tmp_path):
    settings = indexed(parse(reconstruction(values)))
    assert dry_run(settings).trained
    values["reconstruction"]["teacher"]["path"] = str(tmp_path / "none")
    with pytest.raises(CheckpointError, match="none is not a checkpoint folder"):
        dry_run(parse(values))
