"""Answers from a reused prefix equal those of a fresh prefill, for every history of the memory."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_scene import INTERMEDIATE, KEY, SECOND, Alternating, Recording, frame

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.offline import ask
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession, session_capacity
from penguin_models.errors import ContextLengthError, NoFramesError, NonFiniteError
from penguin_models.images import patch_image
from penguin_models.media import ClipFrame
from penguin_models.types import Frame, Size

FEW = Sampling(max_new_tokens=6)
TOLERANCE = 2e-4


@pytest.fixture
def runtime(model):
    return Recording(model)


def make_session(runtime, processor, budget=1000):
    return SceneSession(runtime, processor, Alternating(), MemoryConfig(token_budget=budget))


def logits_of_a_fresh_prefill(session, runtime, processor, question):
    """Returns the logits after the prompt of the memory, computed with an empty cache."""
    frames = session.memory.frames
    times = [(f.stamp_ns - frames[0].stamp_ns) * 1e-9 for f in frames]
    video = {"type": "video", "num_frames": len(frames), "timestamps": times}
    texts = processor.prompt_segments([{"role": "user", "content": [video, {"type": "text", "text": question}]}])
    visual = runtime.encode([patch_image(f.pixels, f.size, 2, processor.images) for f in frames])
    parts = [texts[0]]
    for tokens, text in zip(visual, texts[1:], strict=True):
        parts += [tokens, text]
    return TorchRuntime.open_cache(runtime, 20_000).append(parts)


def ask_session(session, processor, question, sampling=FEW, horizon_s=0.0, **hooks):
    request = Request.prepare(processor, question, sampling, horizon_s=horizon_s)
    return session.ask(request, AnswerHooks(**hooks))


def first_logits(session, runtime, processor, question):
    """Returns the logits from which the first token of an answer is chosen."""
    while session.prefill_pending():
        pass
    start = len(runtime.logits)
    ask_session(session, processor, question, Sampling(max_new_tokens=1))
    return runtime.logits[start]


@settings(max_examples=12)
@given(
    steps=st.lists(st.tuples(st.sampled_from([0.4, 1.0, -0.3, -5.0]), st.booleans()), min_size=1, max_size=40),
    budget=st.sampled_from([60, 200, 1000]),
)
def test_a_reused_prefix_equals_a_fresh_prefill(model, processor, picture, steps, budget):
    """Streams contain late frames, jumps back, compactions, and idle time between some frames."""
    runtime = Recording(model)
    session = make_session(runtime, processor, budget)
    second = 0.0
    for step, idle in steps:
        session.observe(frame(picture, max(0.0, second + step)))
        second = second + step if step > 0 or step < -1 else second
        second = max(0.0, second)
        if idle:
            session.prefill_pending()
    for question in ("What?", "Where is it now?"):
        expected = logits_of_a_fresh_prefill(session, runtime, processor, question)
        np.testing.assert_allclose(first_logits(session, runtime, processor, question), expected, atol=TOLERANCE)


def test_answers_equal_offline_answers_until_the_memory_is_full(runtime, processor, picture):
    session = make_session(runtime, processor)
    frames = [frame(picture, second) for second in range(6)]
    for f in frames:
        session.observe(f)
    offline = ask(
        runtime,
        processor,
        "What moved?",
        clip=[ClipFrame(float(i), f.rgb) for i, f in enumerate(frames)],
        policy=Alternating(),
        max_tokens=1000,
        sampling=FEW,
    )
    online = ask_session(session, processor, "What moved?")
    assert online.raw == offline.raw != ""
    assert (online.frames, online.keyframes) == (6, 2)
    assert (online.visual_tokens, online.prompt_tokens) == (offline.visual_tokens, offline.prompt_tokens)
    assert online.image_size == Size(120, 160)


def test_a_second_question_prefills_only_its_own_tokens(runtime, processor, picture):
    session = make_session(runtime, processor)
    for second in range(8):
        session.observe(frame(picture, second))
        session.prefill_pending()
    assert session.up_to_date and runtime.images == 8
    runtime.tokens = 0
    first = ask_session(session, processor, "What is it?")
    again = ask_session(session, processor, "What is it?")
    assert runtime.images == 8
    question_tokens = first.prompt_tokens - first.visual_tokens - 8 * len(processor.encode_text(",Time 1.0s:")) - 3
    assert runtime.tokens <= 2 * (question_tokens + FEW.max_new_tokens + 8)
    assert again.raw == first.raw


def test_frames_may_arrive_while_an_answer_is_generated(runtime, processor, picture):
    session = make_session(runtime, processor, budget=100)
    session.observe(frame(picture, 0))
    arriving = iter(range(1, 30))

    def cancelled():
        session.observe(frame(picture, next(arriving)))
        return False

    answer = ask_session(session, processor, "What?", Sampling(max_new_tokens=20), cancelled=cancelled)
    assert answer.frames == 1 and answer.generated_tokens == 20
    assert session.memory.counters.compactions > 0 and not session.up_to_date
    expected = logits_of_a_fresh_prefill(session, runtime, processor, "And now?")
    np.testing.assert_allclose(first_logits(session, runtime, processor, "And now?"), expected, atol=TOLERANCE)


def test_a_cancelled_answer_does_not_affect_the_next_one(runtime, processor, picture):
    session = make_session(runtime, processor)
    session.observe(frame(picture, 0))
    full = ask_session(session, processor, "What?").raw
    pieces = []
    hooks = {"on_text": lambda piece, tokens: pieces.append(piece), "cancelled": lambda: len(pieces) >= 2}
    cancelled = ask_session(session, processor, "What?", **hooks)
    assert cancelled.ended_by == "cancelled" and full.startswith(cancelled.raw) and cancelled.generated_tokens < 6
    assert ask_session(session, processor, "What?").raw == full


def test_an_exception_in_a_callback_leaves_the_session_usable(runtime, processor, picture):
    session = make_session(runtime, processor)
    session.observe(frame(picture, 0))
    expected = ask_session(session, processor, "What?").raw

    def broken(piece, tokens):
        raise RuntimeError("listener gone")

    with pytest.raises(RuntimeError, match="listener gone"):
        ask_session(session, processor, "What?", on_text=broken)
    assert ask_session(session, processor, "What?").raw == expected


@pytest.mark.parametrize("during", ["prefill", "question"])
def test_nan_in_the_cache_is_gone_after_the_error(model, processor, picture, during):
    """Steps of fixed shapes multiply all rows of the cache, also those that they mask."""
    runtime = TorchRuntime(model, record=lambda work: work)
    session, control = (make_session(runtime, processor) for _ in range(2))
    for second in range(3):
        session.observe(frame(picture, second))
    while during == "question" and session.prefill_pending():
        pass
    weight = model.language_model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        before = weight[0, 0].item()
        weight[0, 0] = float("nan")
        try:
            with pytest.raises(NonFiniteError, match="not finite in float32"):
                ask_session(session, processor, "What is on the table? " * 9)
        finally:
            weight[0, 0] = before
    session.memory.clear()
    for each in (session, control):
        each.observe(frame(picture, 0))
    assert ask_session(session, processor, "What?").raw == ask_session(control, processor, "What?").raw


def test_the_horizon_starts_at_the_newest_frame(runtime, processor, picture):
    session = make_session(runtime, processor)
    for second in range(10):
        session.observe(frame(picture, second))
    whole = ask_session(session, processor, "What?")
    recent = ask_session(session, processor, "What?", horizon_s=2.5)
    assert (whole.frames, recent.frames) == (10, 3)
    assert recent.prompt_tokens < whole.prompt_tokens
    short = make_session(runtime, processor)
    for second in (7, 8, 9):
        short.observe(frame(picture, second))
    assert ask_session(short, processor, "What?").raw == recent.raw
    assert ask_session(session, processor, "What?").raw == whole.raw
    assert ask_session(session, processor, "What?", horizon_s=1000.0).frames == 10


def test_late_frames_are_ignored_and_a_jump_back_clears_the_memory(runtime, processor, picture):
    session = make_session(runtime, processor)
    assert session.observe(frame(picture, 3)) == KEY
    assert session.observe(frame(picture, 2.5)) is None
    assert session.observe(frame(picture, 4)) == INTERMEDIATE
    assert session.observe(frame(picture, 0)) == KEY  # the bag loops
    assert ask_session(session, processor, "What?").frames == 1


def test_a_question_before_the_first_frame_is_refused(runtime, processor):
    session = make_session(runtime, processor)
    with pytest.raises(NoFramesError, match="no frame has been seen"):
        ask_session(session, processor, "What?")


def test_a_budget_beyond_the_context_is_refused_with_the_largest_that_fits(runtime, processor):
    reason = r"a memory of 40000 visual tokens needs a context of \d+ .* has 40960; .*token_budget\) to at most (\d+) "
    with pytest.raises(ContextLengthError, match=reason) as refused:
        make_session(runtime, processor, budget=40_000)
    found = re.search(reason, str(refused.value))
    assert found
    largest = int(found[1])
    config = MemoryConfig(token_budget=largest)
    assert session_capacity(runtime, processor, config) <= runtime.info.context_length
    with pytest.raises(ContextLengthError):
        session_capacity(runtime, processor, replace(config, token_budget=largest + 1))


def test_a_context_too_short_for_any_memory_is_refused_with_another_remedy(runtime, processor):
    short = SimpleNamespace(info=replace(runtime.info, context_length=2000))
    for system, remedy in (("", "use a model with a longer context"), ("Be brief.", "shorten the system prompt")):
        with pytest.raises(ContextLengthError, match=remedy):
            session_capacity(short, processor, MemoryConfig(), system)


@pytest.mark.parametrize("budget", [200, 90, 400])
def test_a_new_budget_answers_as_a_fresh_session_would(model, processor, picture, budget):
    runtime = Recording(model)
    session = SceneSession(runtime, processor, Alternating(), MemoryConfig(200))
    for second in range(12):
        session.observe(Frame(picture(100, 140, second), second * SECOND))
    ask_session(session, processor, "What?")
    session.set_budget(budget)
    assert session.memory.tokens <= budget
    first = ask_session(session, processor, "What?")
    reused = runtime.logits[-first.generated_tokens :]
    for held in session.memory.frames:
        held.encoded = None
    session.set_budget(budget)  # a new cache: everything is encoded and prefilled again
    fresh = ask_session(session, processor, "What?")
    assert fresh.raw == first.raw and fresh.visual_tokens == first.visual_tokens
    np.testing.assert_allclose(runtime.logits[-fresh.generated_tokens :], reused, atol=TOLERANCE)
    session.close()


def test_a_budget_above_the_context_changes_nothing(model, processor, picture):
    session = SceneSession(TorchRuntime(model), processor, Alternating(), MemoryConfig(200))
    session.observe(Frame(picture(100, 140), SECOND))
    before = ask_session(session, processor, "What?").raw
    with pytest.raises(ContextLengthError, match="a memory of 10000000 visual tokens"):
        session.set_budget(10_000_000)
    assert session.memory.config.token_budget == 200 and ask_session(session, processor, "What?").raw == before
    session.close()
