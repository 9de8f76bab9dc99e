"""Answers that follow a JSON schema: every budget gives a whole document or a refusal, and bad schemas are refused."""

import json

import numpy as np
import pytest

pytest.importorskip("llguidance", reason="needs the extra json")

from penguin_engine.scene.generation import Sampler, Sampling
from penguin_engine.scene.grammar_state import GrammarState
from penguin_engine.scene.json_answers import MAX_SCHEMA_CHARS, grammar_of, json_grammar, schema_of
from penguin_models.errors import PromptError

NODE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
VERDICT = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "answer": {"type": "boolean"}},
    "required": ["reason", "answer"],
    "additionalProperties": False,
}
SCHEMAS = [
    ({"type": "object"}, dict),
    ({}, object),
    ({"type": "integer"}, int),
    ({"type": "string", "minLength": 5}, str),
    ({"type": "string", "pattern": "^(ab)*c$"}, str),
    ({"type": "array", "items": {"type": "string"}, "minItems": 2}, list),
    ({"enum": ["red cube", "green ball"]}, str),
    ({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}}, dict),
    ({"$defs": {"n": {**NODE, "required": ["next"], "additionalProperties": False}}, "$ref": "#/$defs/n"}, dict),
    (schema_of(grammar_of("objects")), dict),
    (VERDICT, dict),
]


def generated(processor, schema, budget, logits_after):
    """Returns the text of an answer, and its state; `logits_after` gives the logits after some text."""
    size = processor.tokenizer.get_vocab_size() + 3  # the logits may be longer than the vocabulary
    state = GrammarState(processor, size, json_grammar(schema), budget)
    sampler, ids = Sampler(Sampling(budget, temperature=0.5), state), []
    while len(ids) < budget and not state.complete:
        token, _ = sampler.choose(logits_after(processor.decode(ids), size))
        if token in processor.end_token_ids:
            break
        ids.append(token)
    return processor.decode(ids), state


@pytest.mark.parametrize(("schema", "kind"), SCHEMAS, ids=lambda value: str(value)[:40])
def test_a_document_is_whole_whenever_its_tokens_run_out(processor, schema, kind):
    random = np.random.default_rng(0)
    whole = 0
    for budget in (1, 5, 12, 24, 48, 96):
        try:
            text, _ = generated(processor, schema, budget, lambda _, size: random.normal(size=size).astype("f4") * 6)
        except PromptError as err:
            assert f"max_new_tokens, which is {budget}" in str(err)
        else:
            whole += 1
            assert isinstance(json.loads(text), kind), text
    assert whole >= 2


def test_the_model_still_chooses_the_values_that_follow_a_reason_that_is_cut(processor):
    def logits_after(text, size):
        logits = np.zeros(size, np.float32)
        wanted = "a" if text.endswith(('n":"', "a")) else "true"
        for preferred, logit in (('"', 25), (wanted, 50)):
            logits[processor.encode_text(preferred)[0]] = logit
        return logits

    text, state = generated(processor, VERDICT, 60, logits_after)
    answer = json.loads(text)
    assert answer["answer"] is True and set(answer["reason"]) == {"a"} and state.is_cut
    text, state = generated(processor, {"const": {"a": 1}}, 60, logits_after)
    assert json.loads(text) == {"a": 1} and not state.is_cut


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("objekts", r"is not JSON: .*; write one as .*, or objects"),
        ("[1]", "must be an object"),
        ("[" * 50_000, "nested too deeply"),
        ("x" * (MAX_SCHEMA_CHARS + 1), f"{MAX_SCHEMA_CHARS + 1} characters, the limit is {MAX_SCHEMA_CHARS}"),
        ('{"type": "colour"}', "cannot be followed: Invalid type: colour"),
        ('{"pattern": "("}', "unclosed group"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_what_is_wrong(text, message):
    with pytest.raises(PromptError, match=message) as error:
        grammar_of(text)
    assert len(str(error.value)) < 700 and "\n" not in str(error.value)


def test_a_grammar_holds_its_schema_and_goes_without_stop_strings():
    with pytest.raises(PromptError, match="leave out one of them"):
        Sampling(stop=("}",), grammar=grammar_of("objects"))
    assert grammar_of(" ") is None
    assert schema_of(grammar_of(json.dumps(VERDICT))) == VERDICT
