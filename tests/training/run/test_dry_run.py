"""The dry run: every shipped stage passes it, its numbers are right, and missing inputs are reported."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from penguin_models.checkpoint import empty_model
from penguin_models.config import PenguinConfig
from penguin_models.errors import CheckpointError, DataError, SettingError
from penguin_models.tensor_files import released_name
from penguin_training.data.open_data import make_reader, open_data
from penguin_training.model.blueprint import make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.run.dry_run import dry_run
from penguin_training.run.optimizers import Optimizers, trained_parameters
from penguin_training.settings.stage_file import load_settings

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"
STAGES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
# Sizes of the models that stages name, as their config.json files have them, but with two layers.
LAYERS = 2
QWEN3 = {
    "Qwen/Qwen3-0.6B": (1024, 3072, 16, True),
    "Qwen/Qwen3-1.7B": (2048, 6144, 16, True),
    "Qwen/Qwen3-8B": (4096, 12288, 32, False),
}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": LAYERS, "num_attention_heads": 16}
SIGLIP |= {"patch_size": 14}


def qwen3(name):
    hidden, intermediate, heads, tied = QWEN3[name]
    return {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
        "tie_word_embeddings": tied,
    }


def sparse(folder, shapes):
    """Writes a sparse safetensors file with these tensors, which takes no space on disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    described = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        file.truncate(8 + len(described) + end)


def shapes_of(config):
    """Returns the stored tensors of a checkpoint with this configuration."""
    if config["model_type"] == "qwen3":
        with torch.device("meta"):
            model = Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in config.items() if k != "model_type"}))
        return {name: tuple(p.shape) for name, p in model.named_parameters()}
    model = empty_model(PenguinConfig.from_dict(config))
    return {released_name(name): tuple(p.shape) for name, p in model.named_parameters()}


def with_context(folder, tokens):
    """Sets the context of a checkpoint's decoder."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": tokens}))


def penguin(name):
    encoder = {k: v for k, v in qwen3("Qwen/Qwen3-0.6B").items() if k != "model_type"} | {"patch_size": 14}
    more = {"model_type": "penguinvl_qwen3", "image_token_index": 1503, "vision_encoder_config": encoder}
    return qwen3(name) | more


@pytest.fixture(scope="module")
def world(tmp_path_factory, checkpoint, llm_folder, teacher_folder):
    """A folder with everything that stages refer to; large weights are sparse files."""
    root = tmp_path_factory.mktemp("world")
    tokenizer = [checkpoint / name for name in ("tokenizer.json", "tokenizer_config.json")]

    def put(name, config, more=()):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        for file in (*tokenizer, *more):
            shutil.copy(file, folder)
        return folder

    for name in QWEN3:
        sparse(put(name, qwen3(name)), shapes_of(qwen3(name)))
    pictures = [checkpoint / "preprocessor_config.json"]
    siglip = put("DAMO-NLP-SG/VL3-SigLIP-NaViT", SIGLIP | {"model_type": "videollama3_vision_encoder"})
    sparse(siglip, {"post_layernorm.weight": (1152,)})
    for size, llm in (("2b", "Qwen/Qwen3-1.7B"), ("8b", "Qwen/Qwen3-8B")):
        shapes = shapes_of(penguin(llm))
        for stage in ("1-low-resolution", "2-high-resolution", "3-pretraining", "4a-general", "4b-video"):
            sparse(put(f"runs/penguin-{size}/{stage}", penguin(llm), pictures), shapes)
        if size == "2b":
            sparse(put("tencent/Penguin-VL-2B", penguin(llm), pictures), shapes)
    with_context(shutil.copytree(checkpoint, root / "models" / "penguin-tiny"), 8192)
    for size in ("tiny-cpu", "tiny-gpu"):
        run = root / "runs" / size
        shutil.copytree(teacher_folder, run / "teacher")
        put(f"runs/{size}/tokenizer", {})
        context = load_settings(CONFIGS / size / "0-text.yaml").model.new_language_model.max_position_embeddings
        with_context(shutil.copytree(llm_folder, run / "0-text"), context)
        for stage in ("1-low-resolution", "2-high-resolution", "3-pretraining", "4a-general", "4b-video", "4c-answers"):
            with_context(shutil.copytree(checkpoint, run / stage), context)
    return root


@pytest.mark.parametrize("name", STAGES)
def test_every_shipped_stage_passes(name, world, drawn, indexed, monkeypatch):
    monkeypatch.chdir(world)
    given = load_settings(CONFIGS / f"{name}.yaml")
    drawn_as = {"text": "text", "clips": "clips", "more-clips": "clips", "train": "everything"}
    files = [drawn_as.get(Path(file.name).parent.name, "few") for file in given.data.files]
    paths = [f"data.files.{i}.path={file}.jsonl" for i, file in enumerate(files)]
    if given.data.streamed:
        pytest.importorskip("pybullet", reason="PyBullet is not installed: pip install pybullet")
        paths = ["data.block=2"]
    # So few samples make few micro-batches.
    here = [f"data.root={drawn}", *paths, "budgets.micro_batches=1"]
    if given.model.new_model and given.model.new_model.encoder_layers:
        here.append(f"model.new_model.encoder_layers={LAYERS}")
    settings = load_settings(CONFIGS / f"{name}.yaml", here)
    if not settings.data.streamed:
        indexed(settings)
    assert settings.budgets.tokens == given.budgets.tokens
    blueprint = make_blueprint(settings)
    assert (
        make_reader(settings, blueprint).max_tokens <= blueprint.context_tokens
    )  # a text stage may pack more into its budget
    for file, shipped in zip(settings.data.files, given.data.files, strict=True):
        assert replace(file, path=shipped.path) == shipped
    report = dry_run(settings)
    trained = settings.learning_rates.trained()
    assert set(report.trained) == set(trained) and not set(report.frozen) & set(trained)
    assert report.bytes["activations"] > 0
    assert ("reference" in report.bytes) == ("sampling" in report.bytes) == (settings.rewards is not None)
    assert report.lines()[0].startswith(f"{settings.name}: ")


def test_numbers_equal_those_of_the_model_and_the_data(values, parse, indexed, reconstruction):
    settings = indexed(parse(reconstruction(values)))
    report = dry_run(settings)
    blueprint = make_blueprint(settings)
    model = build_model(settings, blueprint, 32)
    assert sum(report.trained.values()) == sum(p.numel() for p in model.parameters())
    assert report.bytes["weights"] == 4 * sum(p.numel() for p in model.parameters()) and not report.frozen
    data = open_data(settings, blueprint)
    batches = [data[numbers] for numbers in data.plan.micro_batches(0)]
    assert report.shapes["patches"] == [max(len(b.patches) for b in batches), 588]
    assert report.steps == 4 and report.micro_batches_per_epoch == len(batches)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimiser_memory_equals_that_of_a_real_step(values, parse, indexed, kind):
    values["learning_rates"] |= {"patch_embedding": None}
    values["optimizer"] = {"kind": kind}
    settings = indexed(parse(values))
    model = build_model(settings, make_blueprint(settings), None)
    optimizers = Optimizers(model, settings)
    for parameter in trained_parameters(model).values():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(1.0)
    kept = [t for one in optimizers.all for state in one.state.values() for t in state.values()]
    assert dry_run(settings).bytes["optimiser"] == sum(t.nbytes for t in kept if t.ndim)


def test_activation_memory_equals_that_of_a_real_forward_pass(values, parse, indexed, checkpoint):
    settings = indexed(parse(values))
    data = open_data(settings, make_blueprint(settings))
    model = build_model(settings, make_blueprint(settings), None)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = data.sample_batch()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(batch)
    size = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    del losses
    counted = dry_run(settings).bytes["activations"]
    assert counted == pytest.approx(size, rel=0.05)
    values["engine"]["gradient_checkpointing"] = True
    assert dry_run(parse(values)).bytes["activations"] < 0.5 * counted


def test_missing_data_and_trackers_are_reported(values, parse, reconstruction, tmp_path, drawn):
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


def test_a_missing_teacher_is_reported(values, parse, indexed, reconstruction, tmp_path):
    settings = indexed(parse(reconstruction(values)))
    assert dry_run(settings).trained
    values["reconstruction"]["teacher"]["path"] = str(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"none/config\.json is missing"):
        dry_run(parse(values))
    values["reconstruction"]["teacher"] = {"kind": "siglip", "path": values["model"]["start"]}
    with pytest.raises(CheckpointError, match="a teacher of kind siglip is one of"):
        dry_run(parse(values))


@pytest.mark.parametrize("lacking", ["model.safetensors", "a tensor"])
def test_missing_weights_are_reported_as_by_a_run(values, parse, indexed, checkpoint, llm_folder, tmp_path, lacking):
    for kind, source in (("multimodal", checkpoint), ("text", llm_folder), ("new", llm_folder)):
        folder = shutil.copytree(source, tmp_path / kind)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        if lacking == "a tensor":
            save_file({n: t for n, t in weights.items() if "layers.1.mlp.up" not in n}, folder / "model.safetensors")
        values["model"] = {"new_model": {"llm": str(folder)}} if kind == "new" else {"start": str(folder)}
        values["kind"] = "text" if kind == "text" else "multimodal"
        values["learning_rates"] = {"llm": 1e-3}
        message = "missing: .*layers.1.mlp.up_proj.weight" if lacking == "a tensor" else "neither model.safetensors"
        settings = parse(values)
        with pytest.raises(CheckpointError, match=message):
            dry_run(settings)
        with pytest.raises(CheckpointError, match=message):
            build_model(settings, make_blueprint(settings), None)


def test_the_memory_of_the_teacher_is_counted(values, parse, indexed, reconstruction, teacher_folder):
    settings = indexed(parse(reconstruction(values)))
    taught = sum(tensor.numel() for tensor in load_file(teacher_folder / "model.safetensors").values())
    assert dry_run(settings).bytes["teacher"] == 4 * taught
    values["engine"]["precision"] = "bf16"
    assert dry_run(parse(values)).bytes["teacher"] == 2 * taught
