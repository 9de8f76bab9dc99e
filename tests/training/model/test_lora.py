"""Low-rank training: adapters initially change nothing, only they are trained, and checkpoints hold them merged."""

import pytest
import torch

from penguin_models.checkpoint import load_pretrained
from penguin_training.model.blueprint import make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.model.lora import merge_lora
from penguin_training.run.checkpoint import gather_weights
from penguin_training.run.loop import train
from penguin_training.settings.stage import Lora


@pytest.fixture
def low_rank(values):
    values["learning_rates"] = {"lora": 1e-2}
    values["lora"] = {"rank": 4, "alpha": 8.0}
    return values


def test_initial_adapters_change_nothing(low_rank, parse, checkpoint):
    settings = parse(low_rank)
    model = build_model(settings, make_blueprint(settings), None)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 3 and all(".lora_" in name for name in trained)
    plain, _ = load_pretrained(checkpoint, dtype="float32")
    merged = merge_lora(gather_weights(model), Lora(rank=4, alpha=8.0))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(merged[name], parameter.detach(), msg=name)


def test_the_merged_checkpoint_equals_the_model_with_adapters(low_rank, start, checkpoint):
    run = start(low_rank)
    train(run)
    model, _ = load_pretrained(run.output)
    before, _ = load_pretrained(checkpoint)
    ids, positions = torch.arange(20), torch.arange(20)
    from penguin_training.model.packed_attention import packed_arguments

    decoder = run.model.language_model.eval()
    with torch.no_grad():
        extra = {"use_cache": False, **packed_arguments([20], [()], torch.device("cpu"))}
        with_matrices = decoder(ids[None], position_ids=positions[None], **extra).logits
        merged = model.language_model(ids[None]).logits
        original = before.language_model(ids[None]).logits
    torch.testing.assert_close(merged, with_matrices, atol=1e-4, rtol=1e-4)
    assert (merged - original).abs().max() > 1e-2


def test_frozen_weights_are_bfloat16_if_they_are_saved_so(low_rank, parse):
    low_rank["engine"] |= {"precision": "bf16", "save_dtype": "bfloat16"}
    settings = parse(low_rank)
    model = build_model(settings, make_blueprint(settings), None)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    low_rank["engine"]["save_dtype"] = "float32"  # or the checkpoint would hold what was rounded
    settings = parse(low_rank)
    model = build_model(settings, make_blueprint(settings), None)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
