"""Log probabilities of tokens over HTTP, against PyTorch's log-softmax of the model's own logits."""

import numpy as np
import openai
import pytest
import torch
from openai_requests import chat, client_of, data_uri, image_part, schema_of
from openai_servers import running

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_engine.server.answering import ModelAnswerer
from penguin_engine.server.logprobs import TokenLog
from penguin_models.processor import Visual
from penguin_models.types import Size

QUESTION = "What is on the table?"


@pytest.fixture(scope="module", params=["torch", "onnx"])
def client(request, model, processor, exported):
    if request.param == "torch":
        opened = TorchRuntime(model), processor
    else:
        opened = open_runtime("onnx", exported(profile="portable"), "cpu")
    with running(ModelAnswerer(*opened, 10**6)) as server:
        yield client_of(server.address)


@pytest.fixture(scope="module")
def rgb(picture):
    return picture(56, 84)


@pytest.fixture(scope="module")
def expected(model, processor, rgb):
    """Returns a function: for a sampling, the answer, and PyTorch's log probabilities for each of its places."""

    def compute(sampling):
        answer = ask(TorchRuntime(model), processor, QUESTION, [rgb], sampling=sampling)
        visual = Visual(Size(*rgb.shape[:2]))
        [allocation] = processor.allocate([visual])
        [image] = processor.patch([rgb], visual.kinds, allocation)
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        prompt = processor.prompt_ids([{"role": "user", "content": content}], [image.tokens]).tolist()
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *answer.token_ids]]), [image]).logits[0, len(prompt) - 1 : -1]
        return answer, torch.log_softmax(logits.double(), -1).numpy()

    return compute


def ask_with(client, rgb, **options):
    text = {"type": "text", "text": QUESTION}
    return chat(client, [image_part(data_uri(rgb)[0]), text], logprobs=True, **options)


def joined(entries):
    return b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")


SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 23]}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"max_tokens": 6}, {"max_new_tokens": 6}),
        (
            {"max_tokens": 6, "temperature": 1.7, "top_p": 0.8, "seed": 5},
            {"max_new_tokens": 6, "temperature": 1.7, "top_p": 0.8, "seed": 5},
        ),
        ({"max_tokens": 24, "response_format": schema_of(SCHEMA)}, {"max_new_tokens": 24, "grammar": SCHEMA}),
    ],
    ids=["most likely", "sampled", "schema"],
)
def test_they_are_the_models_own(client, expected, processor, rgb, options, sampling):
    from penguin_engine.scene.json_answers import json_grammar

    if "grammar" in sampling:
        sampling = sampling | {"grammar": json_grammar(sampling["grammar"])}
    answer, logprobs = expected(Sampling(**sampling))
    choice = ask_with(client, rgb, top_logprobs=20, **options).choices[0]
    entries = choice.logprobs.content
    assert choice.message.content == answer.raw == joined(entries) and len(entries) == len(answer.token_ids)
    for entry, token, row in zip(entries, answer.token_ids, logprobs, strict=True):
        assert entry.logprob == pytest.approx(row[token], abs=1e-4)
        assert entry.token == processor.tokenizer.decode([token])
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(np.sort(row)[::-1][:20].tolist(), abs=1e-4)
        assert entry.top_logprobs[0].token == processor.tokenizer.decode([int(row.argmax())])

    def values(entries):
        return [(entry.token, entry.logprob, len(entry.top_logprobs)) for entry in entries]

    role, *pieces, last = (each.choices[0] for each in ask_with(client, rgb, top_logprobs=20, stream=True, **options))
    assert role.logprobs is None and last.logprobs is None
    streamed = [entry for piece in pieces for entry in piece.logprobs.content]
    assert values(streamed) == values(entries) and len(pieces) > 1


def test_they_are_those_of_the_text(client, expected, rgb):
    """A stop string and the end of the answer are not part of it."""
    answer, _ = expected(Sampling(max_new_tokens=12))
    stop = answer.raw[7:9]
    stopped = ask_with(client, rgb, max_tokens=12, stop=stop).choices[0]
    entries = stopped.logprobs.content
    assert stopped.message.content == answer.raw[: answer.raw.index(stop)] and stopped.finish_reason == "stop"
    assert joined(entries).startswith(stopped.message.content)
    assert not joined(entries[:-1]).startswith(stopped.message.content)
    assert all(entry.top_logprobs == [] for entry in entries)
    streamed = [each.choices[0].logprobs for each in ask_with(client, rgb, max_tokens=12, stop=stop, stream=True)]
    assert [entry for part in streamed if part for entry in part.content] == entries


def test_without_them_there_are_none(client):
    assert chat(client, max_tokens=2).choices[0].logprobs is None
    assert chat(client, max_tokens=2, logprobs=False, top_logprobs=0).choices[0].logprobs is None
    assert all(piece.choices[0].logprobs is None for piece in chat(client, max_tokens=2, stream=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_logprobs": 3}, "top_logprobs is 3 without logprobs; set logprobs to true"),
        ({"logprobs": True, "top_logprobs": 21}, r"top_logprobs: .*less than or equal to 20 \(it is 21\)"),
        ({"logprobs": True, "top_logprobs": -1}, r"top_logprobs: .*greater than or equal to 0 \(it is -1\)"),
        ({"logprobs": 5}, r"logprobs: .*boolean"),
    ],
)
def test_bad_values_are_refused(client, options, message):
    with pytest.raises(openai.BadRequestError, match=message):
        chat(client, **options)


def test_parts_of_characters_special_tokens_and_impossible_ones(processor):
    log = TokenLog(3)
    penguin = processor.encode_text("🐧")
    end = processor.end_token_ids[0]
    logits = np.full(1506, -np.inf, np.float32)
    logits[[*penguin, end]] = 0.0
    for token in (*penguin, end, 7):
        log.record(processor, token, logits)
    assert len(penguin) > 1 and log.take("") == []
    entries = log.take("🐧")
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "🐧"
    [ended, impossible] = log.take_rest()
    assert (ended["token"], ended["bytes"]) == ("<|im_end|>", None) and impossible["logprob"] == -9999.0
    likely = sorted({*penguin, end})
    assert ended["logprob"] == pytest.approx(-np.log(len(likely)), abs=1e-6)
    assert [top["logprob"] for top in ended["top_logprobs"]] == [ended["logprob"]] * 3
    texts = [processor.tokenizer.decode([token], skip_special_tokens=False) for token in likely]
    assert [top["token"] for top in ended["top_logprobs"]] == texts[:3]
