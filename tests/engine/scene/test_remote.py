"""A server as the brain of a worker: what it is sent, and what becomes of its failures. Real HTTP on loopback."""

import base64
import io
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openai", reason="needs the client of the OpenAI API: pip install 'penguin-vl[remote]'")

from openai_servers import Misbehaving, chunk, free_port, running
from PIL import Image
from scripted_runtime import ScriptedRuntime

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.captioning import caption_request
from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import open_episodes
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.json_answers import grammar_of
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.offline import ask_conversations
from penguin_engine.scene.remote import brain as brain_module
from penguin_engine.scene.remote.breaker import CircuitBreaker
from penguin_engine.scene.remote.no_model import NoModel, processor_without_tokens
from penguin_engine.scene.remote.opening import KEY_VARIABLE, open_brain
from penguin_engine.scene.requests import Request, RequestQueue
from penguin_engine.scene.session import SceneSession
from penguin_engine.scene.watches import WatchRequest
from penguin_engine.scene.worker import SceneWorker
from penguin_engine.server.answering import ModelAnswerer
from penguin_models.errors import (
    BrokenAnswerError,
    ContextLengthError,
    NoLogprobsError,
    PenguinError,
    PromptError,
    RemoteServerError,
    SettingError,
)
from penguin_models.judge import yes_probability
from penguin_models.media import load_image
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor
from penguin_models.types import Frame, Size

SECOND = 10**9
SHIPPED = Path(__file__).parents[3] / "models" / "penguin-tiny"
NO_CAPTIONS = CaptionConfig(on_keyframe=False)


class Listener:
    def __init__(self):
        self.captions, self.failures = [], []

    def on_caption(self, outcome):
        self.captions.append(outcome)

    def on_failure(self, doing, error):
        self.failures.append(error)

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint)  # without the model and its runtime


@pytest.fixture
def make(processor):
    """Returns a function that builds a worker, whose `step` the tests call."""
    workers = []

    def build(url="", cameras=("a",), local=True, caption=NO_CAPTIONS, model="m", **script):
        remote = open_brain(url, model, "", local)[0] if url else None
        runtime = ScriptedRuntime(processor, **script) if local else NoModel(url, None)
        used = processor if local else processor_without_tokens()
        config = MemoryConfig(300)
        states = [
            CameraState(name, SceneSession(runtime, used, NoveltyPolicy(), config), Mailbox(0.0)) for name in cameras
        ]
        worker = SceneWorker(runtime, used, states, caption, RequestQueue(4), Listener(), remote=remote)
        worker.queue.open()
        worker.watches.open()
        worker.used = used
        workers.append(worker)
        return worker

    yield build
    for worker in workers:
        worker.queue.close("the test is over")
        worker.stop()
        if worker.remote is not None:
            worker.remote.close()


def show(worker, picture, *seconds, camera="a"):
    for second in seconds:
        worker.camera_states[camera].observe(Frame(picture(84, 112, int(second)), round(second * SECOND), camera))


def ask(worker, on_text=lambda piece, tokens: None, question="What?", **options):
    pending = worker.submit(Request.prepare(worker.used, question, **options), on_text)
    assert worker.step()
    return pending.outcome.result(0)


def test_earlier_turns_the_system_prompt_and_a_schema_are_sent(make, picture):
    box = '{"n": "[cup](100,200,300,400)"}'
    replies = ("a cup", "stop"), (box, "stop"), ("[]", "stop"), ('{"n":', "length")
    with Misbehaving(*([chunk(*reply)] for reply in replies)) as server:
        captions = CaptionConfig(response_schema="objects")
        worker = make(server.url, local=False, caption=captions)
        assert caption_request(worker.runtime, worker.used, captions, None).sampling == captions.sampling
        worker.remote.system_prompt = "You are a robot."
        show(worker, picture, 1)
        assert ask(worker, question="What?", conversation_id="c").answer.turns_used == 0
        sampling = Sampling(8, grammar=grammar_of('{"type": "object"}'))
        answer = ask(worker, question="How many?", conversation_id="c", sampling=sampling).answer
        assert (answer.grounding.text, answer.turns_used, answer.turns_forgotten) == (box, 1, 0)
        assert worker.step() and len(worker.listener.captions) == 1 and not worker.listener.failures
        with pytest.raises(PromptError, match="sent an answer that is not whole JSON: raise max_new_tokens"):
            ask(worker, sampling=sampling)
    first, second, caption, _ = server.bodies
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    system, shown, earlier, last = second["messages"]
    assert system["content"] == "You are a robot." and shown == first["messages"][1] and earlier["content"] == "a cup"
    assert last["content"] == [{"type": "text", "text": "How many?"}]
    assert second["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "objects" in caption["response_format"]["json_schema"]["schema"]["properties"]


class Recorded:
    """An answerer that remembers what it was asked, and the images."""

    def __init__(self, answerer):
        self._answerer, self.asked, self.images = answerer, [], []

    def answer(self, conversation, sampling, hooks, log=None):
        self.asked.append((conversation.messages, sampling))
        self.images.append([load_image(file.path, 10**6) for file in conversation.files])
        return self._answerer.answer(conversation, sampling, hooks, log)

    def close(self):
        self._answerer.close()


def texts(messages):
    [turn] = messages
    return [part["text"] for part in turn["content"] if part["type"] == "text"]


def test_a_server_with_the_same_model_gives_the_same_answers(make, processor, picture):
    answerer = Recorded(ModelAnswerer(ScriptedRuntime(processor), processor, 10**6))
    with running(answerer) as server:
        for cameras, expected_texts in (
            (("a",), ["Time 0.0s: ", "Time 1.5s: ", "What?"]),
            (("a", "b"), ["Camera a:\nTime 0.0s: ", "Time 1.5s: ", "Camera b:\nTime 3.0s: ", "What?"]),
        ):
            local = make(cameras=cameras)
            remote = make(f"{server.address}/v1", cameras, local=False, model="tiny")
            streamed = []

            def answered(worker, cameras=cameras, streamed=streamed):
                show(worker, picture, 1, 2.5)
                if len(cameras) > 1:
                    show(worker, picture, 4, camera="b")
                return ask(worker, lambda piece, tokens: streamed.append(piece))

            answers = [answered(worker) for worker in (local, remote)]
            here, there = (outcome.answer for outcome in answers)
            for name in ("raw", "grounding", "ended_by", "frames", "keyframes", "start_ns", "image_size"):
                assert getattr(here, name) == getattr(there, name), name
            assert there.scores == pytest.approx(here.scores, rel=0.05)
            assert there.generated_tokens == here.generated_tokens and there.prompt_tokens > there.visual_tokens > 0
            assert "".join(streamed) == 2 * here.raw and answers[0].camera == answers[1].camera == cameras[-1]
            assert 0 < there.first_token_s <= there.total_s
            messages, sampling = answerer.asked[-1]
            held = [f.size for state in remote.camera_states.values() for f in state.session.memory.frames]
            assert texts(messages) == expected_texts and sampling.max_new_tokens == 256
            assert [Size(*rgb.shape[:2]) for rgb in answerer.images[-1]] == held
            assert not remote.step()  # nothing is encoded here
        assert remote.remote.counts == {"answered": 1} and remote.remote.has_logprobs


@pytest.mark.parametrize(
    ("steps", "error", "message", "counts"),
    [
        ([(429, {"retry-after": "0.3"}, "busy"), 503], None, "", {"answered": 1, "retries": 2}),
        ([(429, {"retry-after": "90"}, "busy")], RemoteServerError, "is busy .busy.; tried 1 times", {"busy": 1}),
        ([[chunk("fi"), "cut"]], BrokenAnswerError, "in the middle of an answer .*; ask again", {"broken": 1}),
        ([[chunk("fi")]], BrokenAnswerError, "ended an answer before it was complete", {"broken": 1}),
        ([[chunk("fi"), '{"error": {"message": "boom"}}']], BrokenAnswerError, "an error .boom", {"broken": 1}),
        ([[chunk("fi"), '{"choices": [1]}']], BrokenAnswerError, "what is not of the OpenAI API", {"broken": 1}),
        ([[chunk("fi"), "{"]], BrokenAnswerError, "broke off in the middle", {"broken": 1}),
        ([["cut"]], None, "", {"answered": 1, "retries": 1}),
        ([[chunk("fi"), "hang"]], BrokenAnswerError, "sent nothing for 0 s in the middle of an answer", {"late": 1}),
        ([["hang"]], RemoteServerError, r"sent no token within \d+\.\d s", {"late": 1}),
        ([[chunk(""), "hang"]], RemoteServerError, r"sent no token within \d+\.\d s", {"late": 1}),
        ([(400, {"code": "context_length_exceeded"}, "long")], ContextLengthError, "refuses .*: long", {"refused": 1}),
        ([(400, {}, "no")], PromptError, "refuses the request: no", {"refused": 1}),
        ([(400, {}, "logprobs: no")], None, "", {"answered": 1}),
        ([(401, {}, "bad sesame")], RemoteServerError, "refuses the API key .bad ....; set", {"refused": 1}),
        ([(307, {"location": "http://x/"}, "")], RemoteServerError, "redirects to http://x/; set base", {"refused": 1}),
    ],
)
def test_failures_are_retried_in_time_or_reported(make, picture, monkeypatch, steps, error, message, counts):
    monkeypatch.setattr(brain_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(brain_module, "_STALL_S", 0.2 if len(steps[0]) == 2 else 20.0)
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    pieces = []
    with Misbehaving(*steps) as server:
        worker = make(server.url, local=False)
        show(worker, picture, 1)
        deadline_s = 0.2 if "no token" in message else 60.0
        if error is None:
            assert ask(worker, deadline_s=deadline_s).answer.raw == "fine"
        else:
            with pytest.raises(error, match=message):
                ask(worker, lambda piece, tokens: pieces.append(piece), deadline_s=deadline_s)
            assert "".join(pieces) in ("", "fi") and "sesame" not in str(worker.remote.breaker.reason)
            assert ask(worker, deadline_s=0.0).answer.raw == "fine"  # the next question is not affected
            counts = counts | {"answered": 1}
    assert worker.remote.counts == counts and len(worker.camera_states["a"].session.memory.frames) == 1


def test_a_server_that_writes_without_end_is_cut_off(make, picture):
    with Misbehaving([chunk("x" * 300)] * 50) as server:
        worker = make(server.url, local=False)
        show(worker, picture, 1)
        with pytest.raises(BrokenAnswerError, match="wrote much more than the 3 tokens it was asked for"):
            ask(worker, sampling=Sampling(max_new_tokens=3))


def test_episodes_are_shown_but_not_judged(make, picture, tmp_path):
    with Misbehaving() as server, open_episodes(tmp_path / "episodes.db") as store:
        store.add(Episode("a", 10 * SECOND, caption="a red cup"), picture(84, 112, 5))
        store.flush(20)
        worker = make(server.url, local=False)
        worker.episodes = store
        show(worker, picture, 1000)
        answer = ask(worker, question="Where is the red cup?", since_ns=5 * SECOND).answer
        assert (answer.raw, answer.frames, answer.candidates_judged, answer.candidates_left_out) == ("fine", 2, 0, 1)
        assert [item.episode.stamp_ns for item in answer.evidence] == [10 * SECOND]
        assert texts(server.bodies[0]["messages"]) == ["Time 0.0s: ", "Time 990.0s: ", "Where is the red cup?"]


def test_a_cancelled_question_closes_its_request_while_frames_arrive(make, picture):
    with Misbehaving([chunk("fi"), "hang"]) as server:
        worker = make(server.url, local=False)
        show(worker, picture, 1)
        begun = threading.Event()
        pending = worker.submit(Request.prepare(worker.used, "What?"), lambda piece, tokens: begun.set())
        working = threading.Thread(target=worker.step)
        working.start()
        assert begun.wait(20)
        taken = threading.Event()
        worker.change_frames(taken.set)
        assert taken.wait(20)
        worker.queue.cancel(pending)
        assert server.gone.wait(20)
        working.join()
        answer = pending.outcome.result(0).answer
        assert (answer.raw, answer.ended_by) == ("fi", "cancelled") and worker.remote.counts == {"cancelled": 1}


def test_the_local_model_answers_while_the_circuit_is_open(make, picture):
    with Misbehaving(*[(503, {"retry-after": "90"}, "down")] * 3) as server:
        worker = make(server.url, text="local")
        show(worker, picture, 1)
        now = [100.0]
        worker.remote.breaker.clock = lambda: now[0]
        for asked in range(1, 5):
            assert ask(worker, deadline_s=60.0).answer.raw == "local"
            assert worker.remote.in_charge == (asked < 3) and len(server.bodies) == min(asked, 3)
        assert worker.remote.counts == {"failed": 3, "fallbacks": 4}
        assert worker.camera_states["a"].session.up_to_date  # what was asked for is prefilled
        show(worker, picture, 2)
        assert worker.step() and worker.camera_states["a"].session.up_to_date and not worker.step()
        now[0] += 10
        assert worker.remote.breaker.state == "half-open"
        assert ask(worker).answer.raw == "fine" and worker.remote.breaker.state == "closed"
        show(worker, picture, 3)
        assert not worker.step() and worker.remote.breaker.opened == 1


def test_captions_come_from_the_server_and_rest_after_a_failure(make, picture):
    captions = CaptionConfig(max_age_s=60.0)
    with Misbehaving([chunk("a cup", "stop")], (400, {}, "no")) as server:
        worker = make(server.url, local=False, caption=captions)
        show(worker, picture, 1)
        assert worker.step() and not worker.step() and worker.idle_s() is None
        assert worker.listener.captions[0].answer.raw == "a cup"
        assert server.bodies[0]["messages"][0]["content"][-1]["text"] == captions.prompt
        show(worker, picture, 50)
        worker.remote.breaker.clock = lambda: 100.0
        assert worker.step() and not worker.step()  # nothing is tried again at once
        assert worker.idle_s() == 1 and [str(err) for err in worker.listener.failures]
        assert len(worker.camera_states["a"].session.memory.frames) == 2


def test_our_server_judges_conditions_as_the_model_does(make, picture):
    """By the probabilities of yes and no, of which the node gets those of the 20 likeliest tokens."""
    runtime, processor = open_runtime("torch", SHIPPED, "cpu", "float32")
    answerer = Recorded(ModelAnswerer(runtime, processor, 10**6))
    with running(answerer) as server:
        worker = make(f"{server.address}/v1", local=False, model="tiny")
        judged, conditions = [], ("there is a red cube", "two mugs are on the table")
        for condition in conditions:
            request = WatchRequest.prepare(worker.used, condition, ["a"], str, threshold=1.0)
            worker.watch(request, judged.append)
        show(worker, picture, 1, 3)
        while len(judged) < len(conditions):
            assert worker.step()
        assert worker.remote.has_logprobs and not worker.listener.failures
        for (messages, sampling), images, judgement in zip(answerer.asked, answerer.images, judged, strict=True):
            logits, one = [], Sampling(max_new_tokens=1)
            hooks = AnswerHooks(on_choice=lambda token, found, logits=logits: logits.append(found))
            ask_conversations(runtime, processor, [messages], images, sampling=one, hooks=hooks)
            assert judgement.condition in texts(messages)[-1] and len(images) == 2 and sampling.max_new_tokens == 1
            assert judgement.probability == pytest.approx(yes_probability(processor, logits[0]), abs=1e-3)


def test_what_cannot_judge_says_why(make, picture, processor):
    model = ModelAnswerer(ScriptedRuntime(processor, text="maybe"), processor, 10**6)
    with running(model) as server:
        worker = make(f"{server.address}/v1", local=False, model="tiny")
        worker.watch(WatchRequest.prepare(worker.used, "a cup", ["a"], str), lambda judgement: None)
        show(worker, picture, 1)
        assert worker.step()
        assert "neither yes nor no is among the 20 likeliest tokens" in str(worker.listener.failures[0])
    with Misbehaving([chunk("", "stop")]) as server:
        worker = make(server.url, local=False)
        worker.watch(WatchRequest.prepare(worker.used, "a cup", ["a"], str), lambda judgement: None)
        show(worker, picture, 1)
        assert worker.step() and worker.remote.has_logprobs is None
        assert "ended its judgement before the first word" in str(worker.listener.failures[0])
    with Misbehaving((400, {}, "logprobs are not supported"), models=["m"]) as server:
        for local in (False, True):
            server.steps[:] = [(400, {}, "logprobs are not supported")]
            worker = make(server.url, local=local, text="yes")
            show(worker, picture, 1)
            request = WatchRequest.prepare(worker.used, "a cup", ["a"], str, threshold=0.001)
            watch = worker.watch(request, lambda judgement: None)
            assert worker.step()
            if local:
                assert not watch.result.done() and worker.step() and watch.result.result(0).holds
                continue
            with pytest.raises(NoLogprobsError, match=r"not supported.*with penguin-vl serve or vLLM, or set fallback"):
                watch.result.result(0)
            with pytest.raises(NoLogprobsError, match="watching needs"):
                worker.watch(request, lambda judgement: None)


def test_the_circuit_opens_after_failures_in_a_row_and_tries_again_ever_later():
    now = [0.0]
    breaker = CircuitBreaker(lambda: now[0])
    for replied, state, rest_s in (
        (False, "closed", 1), (True, "closed", 2), (False, "closed", 4), (False, "closed", 8), (False, "open", 16),
        (False, "open", 30), (True, "closed", 30),
    ):  # fmt: skip
        breaker.failed("why", replied)
        assert (breaker.state, breaker.rest_s, breaker.reason) == (state, rest_s, "why")
    for _ in range(3):
        breaker.failed("why", False)
    now[0] = 29.9
    assert (breaker.state, breaker.opened) == ("open", 2)
    now[0] = 30.0
    assert breaker.state == "half-open"
    breaker.succeeded()
    assert (breaker.state, breaker.rest_s, breaker.reason) == ("closed", 0, "")


def test_all_settings_of_the_sampling_are_sent(make, picture):
    with Misbehaving() as server:
        worker = make(server.url, local=False)
        show(worker, picture, 1)
        ask(worker, sampling=Sampling(7, 0.5, 0.9, 3, ("x",)))
        [body] = server.bodies
        sent = {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p", "seed", "stop", "stream")}
        assert list(sent.values()) == ["m", 7, 0.5, 0.9, 3, ["x"], True]
        uri = body["messages"][0]["content"][1]["image_url"]["url"]
        jpeg = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
        assert np.abs(np.asarray(jpeg, np.int16) - picture(84, 112, 1)).mean() < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": ""}, "base_url is empty"),
        ({"model": ""}, "model is empty"),
        ({"base_url": "127.0.0.1:8000"}, "base_url is '127.0.0.1:8000'; use one such as http"),
        ({"base_url": "ftp://a/v1"}, "use one such as http"),
        ({"base_url": "http://a:b/v1"}, "Port could not be cast"),
        ({"base_url": "http://me:secret@a/v1"}, "everyone on the ROS network could read; put the key into"),
        ({"base_url": "http://a/v1?key=secret"}, "everyone on the ROS network could read"),
        ({"base_url": f"http://127.0.0.1:{free_port()}/v1"}, "cannot be reached .*; is it running"),
        ({"model": "x"}, "has no model 'x'; its models are: m"),
        ({"api_key_file": "/nowhere/key"}, "api_key_file /nowhere/key cannot be read: No such file"),
    ],
)
def test_what_cannot_be_opened_says_why(options, message):
    with Misbehaving() as server, pytest.raises(PenguinError, match=message) as raised:
        open_brain(**{"base_url": server.url, "model": "m", "api_key_file": "", "has_local": False} | options)
    assert "secret" not in str(raised.value)


def test_the_key_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch, make):
    file = tmp_path / "key"
    file.write_text("0123456789abcdef\n")
    answerer = ModelAnswerer(None, None, 1)
    answerer.close = lambda: None
    with running(answerer, api_key="0123456789abcdef") as server:
        url = f"{server.address}/v1"
        with pytest.raises(RemoteServerError, match=r"refuses the API key .*PENGUIN_VL_API_KEY, or api_key_file"):
            open_brain(url, "tiny", "", True)
        with pytest.raises(RemoteServerError, match="does not speak the OpenAI API; should base_url end in /v1"):
            open_brain(server.address, "tiny", str(file), True)
        open_brain(url, "tiny", str(file), False)[0].close()
        monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
        open_brain(url, "tiny", "", False)[0].close()
    for content in ("", "two words", "ü", "a\nb", "x" * 5000):
        file.write_text(content)
        with pytest.raises(SettingError, match=r"is empty|does not hold a key"):
            open_brain(url, "tiny", str(file), False)
    brain, _ = open_brain(url, "tiny", "", True)  # the server is gone, and a local model answers meanwhile
    assert brain.counts == {"unreachable": 1} and "cannot be reached" in brain.breaker.reason
    brain.close()
