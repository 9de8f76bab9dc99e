"""The tensors of the released 2B checkpoint match those of our model at the same sizes."""

from dataclasses import replace

import pytest
import torch

from penguin_engine.bench.random_model import DECODER_2B
from penguin_models.checkpoint import empty_model
from penguin_models.config import EncoderConfig, PenguinConfig
from penguin_models.encoder import FrameShape
from penguin_models.tensor_files import our_name, released_name
from penguin_models.types import Size

TENSORS = {
    "model.embed_tokens.weight": (151_936, 2048),
    "model.norm.weight": (2048,),
    "model.vision_encoder.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
    "model.vision_encoder.embeddings.patch_embedding.bias": (1024,),
    "model.vision_encoder.encoder.norm.weight": (1024,),
    "model.vision_projector.readout.0.weight": (2048, 1024),
    "model.vision_projector.readout.0.bias": (2048,),
    "model.vision_projector.readout.2.weight": (2048, 2048),
    "model.vision_projector.readout.2.bias": (2048,),
}
DECODER_LAYER = {
    "input_layernorm.weight": (2048,),
    "post_attention_layernorm.weight": (2048,),
    "self_attn.q_proj.weight": (2048, 2048),
    "self_attn.k_proj.weight": (1024, 2048),
    "self_attn.v_proj.weight": (1024, 2048),
    "self_attn.o_proj.weight": (2048, 2048),
    "self_attn.q_norm.weight": (128,),
    "self_attn.k_norm.weight": (128,),
    "mlp.gate_proj.weight": (6144, 2048),
    "mlp.up_proj.weight": (6144, 2048),
    "mlp.down_proj.weight": (2048, 6144),
}
ENCODER_LAYER = {
    "input_layernorm.weight": (1024,),
    "post_attention_layernorm.weight": (1024,),
    "self_attn.q_proj.weight": (2048, 1024),
    "self_attn.k_proj.weight": (1024, 1024),
    "self_attn.v_proj.weight": (1024, 1024),
    "self_attn.o_proj.weight": (1024, 2048),
    "self_attn.q_norm.weight": (128,),
    "self_attn.k_norm.weight": (128,),
    "mlp.gate_proj.weight": (3072, 1024),
    "mlp.up_proj.weight": (3072, 1024),
    "mlp.down_proj.weight": (1024, 3072),
}


def released_tensors(layers):
    tensors = dict(TENSORS)
    for layer in range(layers):
        tensors |= {f"model.layers.{layer}.{name}": shape for name, shape in DECODER_LAYER.items()}
        tensors |= {f"model.vision_encoder.encoder.layers.{layer}.{name}": s for name, s in ENCODER_LAYER.items()}
    return tensors


def config_2b(layers=28):
    encoder = replace(EncoderConfig(), num_hidden_layers=layers)
    return PenguinConfig.create(encoder, DECODER_2B | {"num_hidden_layers": layers}, image_token_id=151_669)


def test_names_and_shapes_match_at_full_depth():
    model = empty_model(config_2b())
    # The tied head is not in the files.
    ours = {n: tuple(p.shape) for n, p in model.named_parameters() if n != "language_model.lm_head.weight"}
    assert {released_name(name): shape for name, shape in ours.items()} == released_tensors(28)
    assert all(our_name(released_name(name)) == name for name in ours)
    encoder_parameters = sum(p.numel() for p in model.vision_encoder.parameters())
    assert encoder_parameters == pytest.approx(441e6, rel=0.005)


def test_forward_runs_at_full_width():
    """An image and a question run through a model with random weights and one layer each."""
    model = empty_model(config_2b(layers=1)).to(torch.bfloat16).to_empty(device="cpu").eval()
    noise = 0.02 * torch.randn(2**20, dtype=torch.bfloat16)  # drawing each weight would take 10 seconds
    with torch.inference_mode():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(noise.repeat(-(-tensor.numel() // len(noise)))[: tensor.numel()].view(tensor.shape))
        visual = model.vision_projector(model.vision_encoder(torch.randn(24, 588), [FrameShape(Size(4, 6), 2)]))
        assert visual.shape == (6, 2048)
        ids = torch.tensor([[1, *[151_669] * 6, 2, 3]])
        logits = model.language_model(inputs_embeds=model.embed_prompt(ids, visual), logits_to_keep=1).logits
    assert logits.shape == (1, 1, 151_936) and logits.isfinite().all()
