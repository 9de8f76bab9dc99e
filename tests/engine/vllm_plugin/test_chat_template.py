"""The chat template for vLLM, rendered as transformers does, and the prompt text of the rest of this package."""

import json
import re

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penguin_engine.vllm_plugin import CHAT_TEMPLATE


def refuse(sentence):
    raise jinja2.TemplateError(sentence)


@pytest.fixture(scope="module")
def template():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(CHAT_TEMPLATE.read_text())


def test_conversations_have_the_released_text(template, reference):
    cases = json.loads((reference / "chat_template.json").read_text())
    cases = [case for case in cases if '"time"' not in json.dumps(case["conversation"])]  # the OpenAI API has none
    assert len(cases) == 16
    for case in cases:
        text = template.render(
            messages=case["conversation"],
            add_generation_prompt=case["add_generation_prompt"],
            enable_thinking=case["add_think_prompt"],
        )
        if '"video"' in json.dumps(case["conversation"]):  # frames and times are inserted when its pixels are known
            case["text"] = re.sub(r"(Time [\d.]+s:)?<image>(,(Time [\d.]+s:)?<image>)+", "<video>", case["text"])
        assert text == case["text"]


@pytest.mark.parametrize("token", ["<image>", "<|im_start|>", "<|im_end|>"])
@pytest.mark.parametrize("as_parts", [False, True])
def test_texts_with_reserved_tokens_are_refused(template, token, as_parts):
    text = f"Look: {token}"
    content = [{"type": "image"}, {"type": "text", "text": text}] if as_parts else text
    with pytest.raises(jinja2.TemplateError, match=f"contains '{re.escape(token)}', which has a meaning of its own"):
        template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
