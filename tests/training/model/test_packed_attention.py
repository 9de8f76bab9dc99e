"""Packed attention: samples do not see each other, and the numbers are those of transformers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import varlen
from transformers import Qwen3Config, Qwen3ForCausalLM

from penguin_training.data.independent_turns import turn_positions
from penguin_training.model import packed_attention
from penguin_training.model.packed_attention import PACKED, packed_arguments


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=50, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, **sizes)
    return Qwen3ForCausalLM(config).eval()


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_packed_samples_equal_single_ones(decoder, lengths):
    random = torch.Generator().manual_seed(sum(lengths))
    samples = [torch.randint(50, (1, length), generator=random) for length in lengths]
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        decoder.set_attn_implementation("sdpa")
        alone = torch.cat([decoder(sample).logits[0] for sample in samples])
        masked = decoder(torch.cat(samples, 1), position_ids=places, use_cache=False).logits[0]
        decoder.set_attn_implementation(PACKED)
        packed = _packed_logits(decoder, torch.cat(samples, 1), places, lengths)[0]
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed, masked, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def small_groups():
    """Makes several groups of turns in a sample."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_attention, "_GROUP_TOKENS", 6)
        yield


@given(
    samples=st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.integers(1, 4), max_size=4)).filter(any), min_size=1, max_size=4
    )
)
def test_independent_turns_see_the_shared_tokens_and_themselves(decoder, small_groups, samples):
    """A sample is (shared tokens, tokens of each independent turn)."""
    random = torch.Generator().manual_seed(len(samples))
    ids, alone = [], []
    decoder.set_attn_implementation("sdpa")
    for shared, turns in samples:
        head, *rest = (torch.randint(50, (1, length), generator=random) for length in (shared, *turns))
        ids += [head, *rest]
        with torch.no_grad():
            alone += [decoder(head).logits[0]] if shared else []
            alone += [decoder(torch.cat((head, turn), 1)).logits[0, shared:] for turn in rest]
    lengths, turns = [shared + sum(turns) for shared, turns in samples], [turns for _, turns in samples]
    places = torch.from_numpy(np.concatenate([*map(turn_positions, lengths, turns)]))
    decoder.set_attn_implementation(PACKED)
    with torch.no_grad():
        packed = _packed_logits(decoder, torch.cat(ids, 1), places[None], lengths, turns)[0]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_with_a_mask(decoder):
    lengths, states = [3, 5, 1, 4], torch.randn(1, 13, 32, generator=torch.Generator().manual_seed(1))
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    gradients = []
    for name in ("sdpa", PACKED):
        decoder.set_attn_implementation(name)
        inputs = states.clone().requires_grad_()
        extra = packed_arguments(lengths, [()] * len(lengths), decoder.device) if name == PACKED else {}
        decoder.model(inputs_embeds=inputs, position_ids=places, use_cache=False, **extra)[0].pow(2).sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_the_packed_kernel_is_called_as_it_requires(decoder, monkeypatch):
    """Without a GPU: a stand-in checks the call and computes the same with a mask."""

    def stand_in(q, k, v, starts, starts_k, longest, longest_k, *, scale, window_size, enable_gqa):
        assert window_size == (-1, 0) and starts is starts_k and starts.dtype == torch.int32
        assert longest == longest_k == 5 and q.shape == (9, 4, 8) and k.shape == (9, 2, 8) and enable_gqa
        sample = torch.bucketize(torch.arange(9), starts[1:], right=True)
        mask = (sample[:, None] == sample) & (torch.arange(9)[:, None] >= torch.arange(9))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)[0].transpose(0, 1)

    lengths, ids = [4, 5], torch.arange(9)[None]
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    decoder.set_attn_implementation(PACKED)

    def run():
        with torch.no_grad():
            return _packed_logits(decoder, ids, places, lengths)

    expected = run()
    monkeypatch.setattr(packed_attention, "packed_attention_available", lambda like: True)
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    torch.testing.assert_close(run(), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(varlen, "varlen_attn", None)  # it has no masks
    with torch.no_grad():
        assert _packed_logits(decoder, ids, places, lengths, [(1, 1), ()]).shape == expected.shape


def _packed_logits(decoder, ids, places, lengths, turns=None):
    extra = packed_arguments(lengths, turns or [()] * len(lengths), decoder.device)
    return decoder(ids, position_ids=places, use_cache=False, **extra).logits
