"""Choosing tokens, streaming text and stopping, with a fake cache of scripted tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from penguin_engine.scene.generation import AnswerHooks, Generation, Sampler, Sampling, TextStream, generate
from penguin_models.errors import PromptError

VOCABULARY = 1506


class ScriptedCache:
    """A cache whose logits prefer the tokens of a script in order; a real model cannot be made to answer with them."""

    def __init__(self, tokens):
        self.tokens = list(tokens)
        self.appended = []

    def logits(self):
        values = np.zeros(VOCABULARY, np.float32)
        values[self.tokens[len(self.appended)]] = 1.0
        return values

    def append(self, parts):
        self.appended += [token for part in parts for token in part]
        return self.logits()


def run(processor, tokens, **arguments):
    cancelled = arguments.pop("cancelled", lambda: False)
    cache, generation = ScriptedCache([*tokens, processor.end_token_ids[0]]), Generation()
    hooks = AnswerHooks(cancelled=cancelled)
    pieces = list(generate(cache, cache.logits(), processor, Sampling(**arguments), generation, hooks))
    assert "".join(pieces) == generation.text and all(pieces)
    return generation, pieces, cache


def test_an_answer_ends_with_the_end_token(processor):
    tokens = processor.encode_text("A red cube and a mug.")
    generation, pieces, _ = run(processor, tokens)
    assert (generation.text, generation.ids, generation.ended_by) == ("A red cube and a mug.", tokens, "end")
    assert len(pieces) > 3


def test_an_answer_ends_at_its_length_and_its_last_token_is_not_appended(processor):
    tokens = processor.encode_text("one two three four five")
    generation, _, cache = run(processor, tokens, max_new_tokens=3)
    assert (generation.ids, generation.ended_by) == (tokens[:3], "length")
    assert cache.appended == tokens[:2]


def test_an_answer_can_be_cancelled_between_two_tokens(processor):
    cancelled = iter([False, False, True])
    generation, _, _ = run(processor, processor.encode_text("one two three four"), cancelled=lambda: next(cancelled))
    assert (len(generation.ids), generation.ended_by) == (3, "cancelled")


def test_a_stop_string_is_cut_even_across_tokens(processor):
    generation, pieces, _ = run(processor, processor.encode_text("Here it is. STOP more"), stop=("STOP", "xyz"))
    assert (generation.text, generation.ended_by) == ("Here it is. ", "stop")
    assert not any("S" in piece for piece in pieces)


def test_an_incomplete_stop_string_is_part_of_the_answer(processor):
    generation, _, _ = run(processor, processor.encode_text("nearly STO"), stop=("STOP",))
    assert generation.text == "nearly STO"


@pytest.mark.parametrize("text", ["Grüße, 世界 🐧!", "🐧🐧", "é"])
def test_characters_of_several_tokens_are_streamed_whole(processor, text):
    generation, pieces, _ = run(processor, processor.encode_text(text))
    assert generation.text == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.lists(st.integers(0, 1499), max_size=30), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_streamed_text_never_contains_a_stop_string(processor, tokens, stop):
    generation, _, _ = run(processor, tokens, stop=tuple(stop))
    assert not any(s in generation.text for s in stop)
    if not stop:
        assert generation.text == processor.decode(tokens)


def streamed(decode, tokens):
    stream = TextStream(decode)
    return [stream.push(token) for token in tokens] + [stream.finish()]


@given(
    st.lists(st.sampled_from(["요", "한국", "🐧", "é", "a ", "\u200d"]).map(str.encode) | st.binary(max_size=3)),
    st.data(),
)
def test_pieces_add_up_however_tokens_cut_the_bytes(parts, data):
    """Tokens may straddle two characters and more, and the bytes may be no text at all."""
    content = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=len(content))))
    tokens = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    pieces = streamed(lambda ids: b"".join(ids).decode(errors="replace"), tokens)
    assert "".join(pieces) == content.decode(errors="replace")


def test_characters_are_released_as_soon_as_they_are_complete():
    tokens = [bytes.fromhex(token) for token in ("ec", "80", "a0ed", "97", "88", "eabf", "bc", "ff", "41")]
    pieces = streamed(lambda ids: b"".join(ids).decode(errors="replace"), tokens)
    assert pieces == ["", "", "쀠", "", "허", "", "꿼", "", "\N{REPLACEMENT CHARACTER}A", ""]


LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
WORDS = ["▁a", "▁", "b", "", "▁é", "🐧"]


@given(st.lists(st.sampled_from([*([word] for word in WORDS), [f"<0x{byte:02X}>" for byte in "🐧".encode()]])))
def test_tokenizers_with_leading_spaces_and_byte_tokens_stream_all_text(parts):
    tokens = [token for part in parts for token in part]
    assert "".join(streamed(LLAMA.decode, tokens)) == LLAMA.decode(tokens)


def test_text_is_streamed_as_soon_as_it_cannot_be_a_stop_string():
    stream = TextStream(lambda ids: "".join(map(chr, ids)), stop=("ab",))
    assert [stream.push(ord(c)) for c in "xay"] == ["x", "", "ay"]
    assert (stream.push(ord("a")), stream.finish()) == ("", "a")


LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def draw(count=4000, **sampling):
    sampler = Sampler(Sampling(**sampling))
    return np.bincount([sampler.choose(LOGITS)[0] for _ in range(count)], minlength=4) / count


def test_sampling_follows_the_probabilities():
    np.testing.assert_allclose(draw(temperature=1.0), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    sharper = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(draw(temperature=0.5), sharper / sharper.sum(), atol=0.03)
    np.testing.assert_allclose(draw(temperature=1.0, top_p=0.75), [0.625, 0.375, 0, 0], atol=0.03)


def test_greedy_takes_the_most_likely_token_and_a_seed_repeats_its_draws():
    def sequence(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(LOGITS)[0] for _ in range(50)]

    assert draw(10)[0] == 1
    assert sequence(1) == sequence(1) != sequence(2)


@pytest.mark.parametrize(
    ("name", "value"), [("max_new_tokens", 0), ("temperature", -1), ("top_p", 0), ("top_p", 1.1), ("stop", ("",))]
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(PromptError, match=f"{name} is .* must be"):
        Sampling(**{name: value})
