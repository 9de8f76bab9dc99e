"""Conversations: what is prefilled for a further turn, what is forgotten, and the system prompt."""

from itertools import pairwise

import numpy as np
import pytest
from recorded_scene import Alternating, Recording, frame

from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.conversations import MAX_CONVERSATIONS, MAX_TURNS, Conversations, fits_scene
from penguin_engine.scene.file_chat import FileChat
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.offline import ask
from penguin_engine.scene.pace import Pace, PaceConfig
from penguin_engine.scene.requests import RESERVED_TOKENS, Request
from penguin_engine.scene.session import SceneSession
from penguin_models.chat import NO_THINKING, TURN_END, TURN_START, USER_TURN
from penguin_models.errors import ContextLengthError, PromptError
from penguin_models.images import patch_image

FEW = Sampling(max_new_tokens=5)
TOLERANCE = 2e-4


class Talk:
    """A conversation with a session."""

    def __init__(self, session, processor, name="a"):
        self.session, self.processor, self.name = session, processor, name
        self.conversations = Conversations(processor)

    def ask(self, question, sampling=FEW, **hooks):
        request = Request.prepare(self.processor, question, sampling, conversation_id=self.name)
        fits = fits_scene({"camera": self.session}, None, 0.0)
        return self.conversations.answer(request, fits, lambda r: self.session.ask(r, AnswerHooks(**hooks)))


def fresh_logits(session, runtime, processor, turns, question):
    """Returns the logits after a whole conversation, in the form in which conversations are trained."""
    frames = session.memory.frames
    times = [(f.stamp_ns - frames[0].stamp_ns) * 1e-9 for f in frames]
    video = {"type": "video", "num_frames": len(frames), "timestamps": times}
    system = [{"role": "system", "content": session.system}] if session.system else []
    first, *others = [*(asked for asked, _ in turns), question]
    user = {"role": "user", "content": [video, {"type": "text", "text": first}]}
    visual = runtime.encode([patch_image(f.pixels, f.size, 2, processor.images) for f in frames])
    segments = interleave(processor.prompt_segments([*system, user]), visual)
    for (_, answer), text in zip(turns, others, strict=True):
        between = f"{TURN_END}\n{USER_TURN}{text}{TURN_END}\n{TURN_START}assistant\n{NO_THINKING}"
        segments += [answer.token_ids, processor.encode_text(between)]
    return TorchRuntime.open_cache(runtime, 20_000).append(segments)


@pytest.mark.parametrize("system", ["", "You are a careful robot."])
def test_a_further_turn_prefills_only_what_is_new_until_a_frame_comes(model, processor, picture, system):
    runtime = Recording(model)
    session = SceneSession(runtime, processor, Alternating(), MemoryConfig(400), system=system)
    talk, turns = Talk(session, processor), []
    for second in range(3):
        session.observe(frame(picture, second))
    while session.prefill_pending():
        pass
    for number, question in enumerate(("What is there?", "What colour?", "Is it new?")):
        if number == 2:
            session.observe(frame(picture, 3))
            while session.prefill_pending():
                pass
        tokens, appends = runtime.tokens, len(runtime.logits)
        answer = talk.ask(question)
        expected = fresh_logits(session, runtime, processor, turns, question)
        np.testing.assert_allclose(runtime.logits[appends], expected, atol=TOLERANCE)
        own = len(processor.encode_text(f"{TURN_END}\n{USER_TURN}{question}{TURN_END}\n{TURN_START}assistant\n"))
        new = runtime.tokens - tokens - FEW.max_new_tokens
        assert (answer.turns_used, answer.turns_forgotten, answer.frames_pending) == (number, 0, 0)
        assert (new < own + 10) == (number != 2), "a new frame comes before the turns, and nothing else does"
        turns.append((question, answer))
    session.close()


def test_turns_are_forgotten_in_order_and_counted(processor):
    conversations = Conversations(processor)

    def say(name, question="What?", fits=lambda request: True, ended_by="end", length=4):
        seen = []

        def answer(request):
            seen.append([turn.question for turn in request.turns])
            return Answer(raw="x", token_ids=(1,) * length, ended_by=ended_by)

        request = Request.prepare(processor, question, FEW, conversation_id=name)
        result = conversations.answer(request, fits, answer)
        return seen[0], (result.turns_used, result.turns_forgotten)

    assert say("") == ([], (0, 0)) == say("")
    for number in range(MAX_TURNS + 2):
        say("many", str(number))
    assert say("many") == ([str(number) for number in range(2, MAX_TURNS + 2)], (MAX_TURNS, 2))

    for number in range(3):
        say("long", str(number), length=RESERVED_TOKENS // 2 - 50)
    assert say("long") == (["1", "2"], (2, 1))
    short = lambda request: len(request.turns) < 2  # noqa: E731
    assert say("long", fits=short)[1] == (1, 3)

    say("cancelled", "1")
    say("cancelled", "2", ended_by="cancelled")
    assert say("cancelled") == (["1"], (1, 0))

    for number in range(MAX_CONVERSATIONS - 1):
        say(f"other {number}")
    assert say("cancelled")[1] == (2, 0)
    assert say("many")[1] == (0, MAX_TURNS + 3)
    conversations.clear()
    assert say("cancelled")[1] == (0, 3)


def test_no_time_forgets_all_turns_but_the_last_and_what_is_cached_costs_none(model, processor, picture):
    now = [0.0]
    pace = Pace(PaceConfig(), lambda: now[0])
    for tokens in (1, 64, 256):
        pace.append.observe(tokens, 0.01 * tokens)
    session = SceneSession(TorchRuntime(model), processor, Alternating(), MemoryConfig(400), pace)
    session.observe(frame(picture, 0))
    while session.prefill_pending():
        pass
    talk = Talk(session, processor)
    for question in ("One?", "Two?", "Three?"):
        talk.ask(question)
    conversations, request = talk.conversations, Request.prepare(processor, "Four?", FEW, conversation_id="a")
    asked = []

    def used(due_s):
        request_fits = fits_scene({"camera": session}, pace, due_s)
        conversations.answer(
            request, request_fits, lambda r: asked.append(len(r.turns)) or Answer(ended_by="cancelled")
        )
        return asked[-1]

    whole = conversations._by_id["a"].turns
    cached = pace.append_s(len(request.token_ids) + 8)
    assert pace.append_s(sum(len(turn.token_ids) for turn in whole)) > 2 * cached
    assert used(2 * cached) == 3, "the cache holds the turns"
    session.observe(frame(picture, 1))
    assert used(2 * cached) == 1 == used(-1.0)
    assert used(1e9) == 3
    session.close()


def test_the_system_prompt_can_change_and_other_cameras_see_it(model, processor, picture):
    runtime = Recording(model)
    session = SceneSession(runtime, processor, Alternating(), MemoryConfig(400))
    session.observe(frame(picture, 0))
    request = Request.prepare(processor, "What?", FEW)
    plain = session.ask(request)
    images = runtime.images
    session.set_system("Be brief.")
    told = session.ask(request)
    assert runtime.images == images, "frames are not encoded again"
    rgb = session.memory.frames[0].pixels
    before = len(processor.encode_text(f"{TURN_START}system\nBe brief.<|im_end|>\n"))
    assert told.prompt_tokens - plain.prompt_tokens == before
    assert ask(runtime, processor, "What?", [rgb], sampling=FEW, system="Be brief.").prompt_tokens - before == (
        ask(runtime, processor, "What?", [rgb], sampling=FEW).prompt_tokens
    )
    several = dict.fromkeys(("left", "right"), session)
    answers = []
    for system in ("Be brief.", ""):
        session.set_system(system)
        answers.append(ask_cameras(runtime, processor, several, request).prompt_tokens)
    assert answers[0] - answers[1] == before
    for system, error in (("<|im_end|>", PromptError), ("long " * runtime.info.context_length, ContextLengthError)):
        with pytest.raises(error):
            session.set_system(system)
    assert session.ask(request).raw == plain.raw
    session.close()


@pytest.mark.parametrize("shown", [0, 2])
def test_a_chat_about_files_prefills_them_once(model, processor, picture, shown):
    runtime = Recording(model)
    images = [picture(56, 84), picture(84, 56, seed=2)][:shown]
    chat = FileChat(runtime, processor, images, sampling=FEW, system="Be brief.")
    assert runtime.images == shown
    costs, answers = [runtime.tokens], []
    for question in ("What is there?", "And then?", "And then?"):
        answers.append(chat.ask(question))
        costs.append(runtime.tokens)
    single = ask(runtime, processor, "What is there?", images, sampling=FEW, system="Be brief.")
    assert answers[0].raw == single.raw and answers[0].prompt_tokens == single.prompt_tokens
    assert [answer.turns_used for answer in answers] == [0, 1, 2]
    assert all(after - before < 60 for before, after in pairwise(costs))
    for question, error in (("", PromptError), ("<image>", PromptError), ("word " * 2040, ContextLengthError)):
        with pytest.raises(error):
            chat.ask(question)
    assert chat.ask("And then?").turns_used == 3
    chat.close()
