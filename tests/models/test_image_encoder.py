"""The encoder by itself, from each layout, in this package and in transformers, equals the authors' features."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, Qwen3Config, Qwen3ForCausalLM

from penguin_models import load_encoder
from penguin_models.config import ImageConfig
from penguin_models.errors import BudgetError, CheckpointError, MediaError
from penguin_models.images import patch_whole_image
from penguin_models.transformers_encoder import register_encoder

CASES = ("image_tabletop", "image_portrait", "image_small")


@pytest.fixture(scope="module")
def cases(reference):
    """Returns (image, token budget, expected features) of each case."""
    described = json.loads((reference / "expected.json").read_text())
    features = load_file(reference / "expected.safetensors")
    found = []
    for name in CASES:
        case = described[name]["case"]
        image = Image.open(reference / "media" / case["files"][0]).convert("RGB")
        image = image.crop(case["crop"]) if "crop" in case else image
        found.append((image, case["max_tokens"], features[f"{name}.encoder"]))
    return found


@pytest.fixture(scope="module")
def standalone(checkpoint, tmp_path_factory):
    """Returns the folder of the small checkpoint's encoder by itself."""
    folder = tmp_path_factory.mktemp("encoder")
    load_encoder(checkpoint).save_pretrained(folder)
    return folder


def test_features_equal_the_authors_from_a_model_and_by_itself(checkpoint, standalone, cases):
    for folder in (checkpoint, standalone):
        encoder = load_encoder(folder)
        for image, max_tokens, expected in cases:
            (features,) = encoder([np.asarray(image)], max_tokens)
            assert features.shape == expected.shape and not features.requires_grad
            assert (features - expected).abs().max() < 2e-4


def test_images_of_different_sizes_are_encoded_together(standalone, cases):
    encoder = load_encoder(standalone)
    images = [np.asarray(image)[:90, :120] for image, *_ in cases]
    for image, together in zip(images, encoder(images, merge_size=2), strict=True):
        assert torch.allclose(encoder([image], merge_size=2)[0], together, atol=1e-5)
    assert encoder([]) == []


def test_transformers_loads_it_without_remote_code(standalone, cases, tmp_path):
    register_encoder()
    register_encoder()
    model, processor = AutoModel.from_pretrained(standalone), AutoImageProcessor.from_pretrained(standalone)
    for image, max_tokens, expected in cases:
        inputs = processor(image, merge_size=1, max_tokens=max_tokens, return_tensors="pt")
        with torch.no_grad():
            features = model(**inputs).last_hidden_state
        assert features.shape == expected.shape and (features - expected).abs().max() < 2e-4
    pair = processor([cases[0][0], cases[2][0]], max_tokens=256, return_tensors="pt")
    assert pair["grid_sizes"].shape == (2, 3) and len(pair["pixel_values"]) == pair["grid_sizes"].prod(1).sum()

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).shape == load_encoder(tmp_path).encoder.config
    again = load_encoder(tmp_path)([np.asarray(cases[2][0])], cases[2][1])[0]
    assert (again - cases[2][2]).abs().max() < 2e-4
    half = AutoModel.from_pretrained(standalone, dtype=torch.bfloat16)
    assert half(**inputs).last_hidden_state.dtype == torch.bfloat16
    with pytest.raises(MediaError, match="there are no images"):
        processor([])


def test_a_text_only_checkpoint_initialises_an_encoder(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=50, num_key_value_heads=2, head_dim=16, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    first, again = load_encoder(tmp_path), load_encoder(tmp_path)
    picture = [np.full((70, 70, 3), 90, np.uint8)]
    assert first(picture)[0].shape == (25, 32) and torch.equal(first(picture)[0], again(picture)[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {"model_type": "siglip"}}, "is a 'siglip' model; an encoder is read from"),
        ({"preprocessor_config.json": {"patch_size": 16}}, "patches of 16 pixels, config.json of 14"),
        ({"config.json": {"num_hidden_layers": 4}}, "missing: .*layers.3"),
    ],
)
def test_what_holds_no_encoder_is_refused(standalone, tmp_path, files, message):
    for file in standalone.iterdir():
        content = file.read_bytes()
        if file.name in files:
            content = json.dumps(json.loads(content) | files[file.name]).encode()
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path)


def test_sizes_of_an_image_by_itself():
    config = ImageConfig()
    assert patch_whole_image(np.zeros((20, 20, 3), np.uint8), config).tokens == 25  # enlarged, as released
    assert patch_whole_image(np.zeros((20, 900, 3), np.uint8), config, 36).tokens <= 36  # the released rule gives 39
    with pytest.raises(BudgetError, match="the budget is 64"):
        patch_whole_image(np.zeros((3, 5000, 3), np.uint8), config, 64)
    for shape, dtype in (((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)):
        with pytest.raises(MediaError, match=r"it must be uint8 \[H, W, 3\]"):
            patch_whole_image(np.zeros(shape, dtype), config)
