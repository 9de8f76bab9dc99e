"""Questions beyond the memory: which episodes are found, judged and shown, from a real store."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scripted_runtime import ScriptedRuntime
from timed_runtime import Clock, TimedRuntime

from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene import recall
from penguin_engine.scene.episode import Episode, EpisodeFilter
from penguin_engine.scene.episodes import open_episodes
from penguin_engine.scene.first_costs import measure
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.pace import Pace, PaceConfig
from penguin_engine.scene.recall import MAX_JUDGED, MAX_RECENT, MAX_SHOWN, ask_recall
from penguin_engine.scene.recall_candidates import find_candidates, spread
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import CancelledError, EpisodeError, NoFramesError, PromptError
from penguin_models.images import patch_image
from penguin_models.judge import judge_segments, yes_probability
from penguin_models.media import load_image
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame, FrameKind, Size

S = 10**9
NOW = 1_700_000_000 * S
FEW = Sampling(max_new_tokens=5)
PERIOD_S = 30
COUNT = 120
"""Episodes of an hour, the last of them PERIOD_S before NOW."""


@pytest.fixture(scope="module")
def store(tmp_path_factory, picture):
    """An hour of two cameras; the red cup is captioned only between 50 and 55 minutes ago."""
    with open_episodes(tmp_path_factory.mktemp("store") / "episodes.db") as store:
        for number in range(COUNT):
            age_s = (COUNT - number) * PERIOD_S
            caption = "a red cup on the table" if 50 <= age_s / 60 <= 55 else "" if number % 2 else "an empty table"
            for camera in ("a", "b"):
                episode = Episode(camera, NOW - age_s * S, f"optical_{camera}", caption if camera == "a" else "")
                store.add(episode, None if number == 60 else picture(168, 224, number))
            assert store.flush(20)
        store.add(Episode("a", NOW - 2395 * S, caption="a red cup, broken", jpeg=b"\xff\xd8 no picture"))
        assert store.flush(20)
        yield store


@pytest.fixture
def make_session(processor):
    sessions = []

    def make(runtime, stamps_s=(), seed=0, pace=None, budget=600, policy=None):
        session = SceneSession(runtime, processor, policy or NoveltyPolicy(), MemoryConfig(budget), pace)
        sessions.append(session)
        for second in stamps_s:
            rgb = np.random.default_rng(abs(seed + round(second))).integers(0, 256, (84, 112, 3), np.uint8)
            session.observe(Frame(rgb, NOW + round(second * S), header=second))
        return session

    yield make
    for session in sessions:
        session.close()


def window(processor, since_s=None, until_s=None, question="Where is the red cup?", sampling=FEW):
    since_ns, until_ns = (None if s is None else NOW + round(s * S) for s in (since_s, until_s))
    return Request.prepare(processor, question, sampling, since_ns=since_ns, until_ns=until_ns)


def ages_s(episodes):
    return [(NOW - episode.stamp_ns) / S for episode in episodes]


def test_candidates_are_found_by_words_and_spread_over_the_time_of_the_question(store):
    where = EpisodeFilter(("a",), NOW - 3000 * S, NOW)
    found = find_candidates(store, "Where is the red cup?", where, 12).episodes
    with_cup = [episode for episode in found if "red cup" in episode.caption]
    assert len(found) == len({episode.id for episode in found}) == 12
    assert with_cup[:2] == found[:2] and len(with_cup) == 2, "the window leaves out all but two captions with a cup"
    assert all(0 < age <= 3000 for age in ages_s(found)) and all(episode.jpeg for episode in found)
    everything = find_candidates(store, "zebra", EpisodeFilter(("a",)), 1000).episodes
    assert len(everything) == COUNT, "all with a picture, whatever the captions say"

    ages = ages_s(episode for episode, _ in zip(spread(store, EpisodeFilter(("b",))), range(17), strict=False))
    assert ages[:2] == [PERIOD_S, COUNT * PERIOD_S]
    assert np.diff(sorted(ages)).max() <= 2 * COUNT * PERIOD_S / 16
    assert list(spread(store, EpisodeFilter(("b",), NOW))) == []


def test_the_prompt_shows_the_episodes_that_the_model_judges_best_and_then_the_newest_frames(
    model, processor, store, make_session, tmp_path
):
    runtime = TorchRuntime(model)
    sessions = {"a": make_session(runtime, range(0, 12, 2))}
    request = window(processor, -3600, 60)
    answer = ask_recall(runtime, processor, sessions, store, request)

    found = find_candidates(store, request.question, EpisodeFilter(("a",), NOW - 3600 * S, NOW + 60 * S), MAX_JUDGED)
    readable = [episode for episode in found.episodes if "broken" not in episode.caption]
    assert answer.candidates_judged == len(readable) == MAX_JUDGED - 1 and answer.candidates_left_out == 1
    before, after = judge_segments(processor, request.question)

    def probability(episode, tmp=tmp_path / "picture.jpg"):
        tmp.write_bytes(episode.jpeg)
        image = patch_image(load_image(tmp), Size(112, 168), 2, processor.images)
        cache = runtime.open_cache(400)
        return yes_probability(processor, cache.append([before, *runtime.encode([image]), after])), load_image(tmp)

    judged = {episode.id: probability(episode) for episode in readable}
    everything = [episode for episode in store.range(EpisodeFilter(("a",))) if episode.jpeg]
    cups = [episode for episode in everything if "red cup" in episode.caption and episode.id in judged]
    best = max(judged[episode.id][0] for episode in cups)
    helping = [episode for episode in cups if judged[episode.id][0] >= best / 2]
    assert len(helping) > 1
    last, first = (everything.index(episode) for episode in (helping[-1], helping[0]))
    likely = sorted(readable, key=lambda episode: -judged[episode.id][0])
    order = [everything[index] for index in (last, first, last + 1, first - 1, last + 2, first - 2)] + likely
    best = list({item.id: item for item in order if "broken" not in item.caption}.values())[:MAX_SHOWN]
    best.sort(key=lambda episode: episode.stamp_ns)
    assert [item.episode for item in answer.evidence] == best
    expected = [judged.get(episode.id, (np.nan,))[0] for episode in best]
    assert [item.probability for item in answer.evidence] == pytest.approx(expected, abs=1e-4, nan_ok=True)

    recent = sessions["a"].memory.frames[-MAX_RECENT:]
    shown = [(episode.stamp_ns, probability(episode)[1]) for episode in best] + [(f.stamp_ns, f.pixels) for f in recent]
    assert (answer.frames, answer.start_ns) == (len(shown), shown[0][0])
    assert answer.newest == ("a", recent[-1])
    times = [(stamp_ns - answer.start_ns) / S for stamp_ns, _ in shown]
    content = [{"type": "video", "num_frames": len(shown), "timestamps": times}]
    content.append({"type": "text", "text": request.question})
    texts = processor.prompt_segments([{"role": "user", "content": content}])
    encoded = runtime.encode([patch_image(rgb, Size(*rgb.shape[:2]), 2, processor.images) for _, rgb in shown])
    cache, ids = runtime.open_cache(4096), []
    logits = cache.append(interleave(texts, encoded))
    assert cache.length == answer.prompt_tokens
    for _ in range(answer.generated_tokens):
        ids.append(int(np.argmax(logits)))
        logits = cache.append([ids[-1:]])
    assert processor.decode(ids) == answer.raw


def test_several_cameras_are_named_and_the_newest_frame_comes_last(processor, store, make_session):
    runtime = ScriptedRuntime(processor)
    sessions = {"b": make_session(runtime, [1, 5]), "a": make_session(runtime, [2, 3]), "c": make_session(runtime)}
    answer = ask_recall(runtime, processor, sessions, store, window(processor, -3600))
    assert answer.newest[0] == "b" and answer.frames == MAX_SHOWN + 4
    assert {item.episode.camera for item in answer.evidence} <= {"a", "b"}
    assert [item.episode.stamp_ns for item in answer.evidence] == sorted(
        item.episode.stamp_ns for item in answer.evidence
    )
    past = ask_recall(runtime, processor, sessions, store, window(processor, -3600, -1800))
    assert past.frames == MAX_SHOWN == len(past.evidence), "no frame of the memory lies in the window"
    last = past.evidence[-1].episode
    assert (past.newest[1].stamp_ns, past.image_size) == (last.stamp_ns, (168, 224))


def test_the_budget_bounds_the_sizes_of_what_is_shown(processor, store, make_session):
    runtime = ScriptedRuntime(processor)
    for budget, most in ((600, MAX_SHOWN), (48, 1), (24, 1)):
        session = make_session(runtime, [1, 2], budget=budget)
        answer = ask_recall(runtime, processor, {"a": session}, store, window(processor, -3600))
        assert 0 < len(answer.evidence) <= most
        assert answer.visual_tokens <= max(budget, 2 * session.memory.config.floor_tokens)


@pytest.mark.parametrize("has_store", [True, False])
def test_a_window_within_the_memory_shows_its_frames_and_needs_no_episodes(
    model, processor, store, make_session, has_store
):
    runtime, reader = TorchRuntime(model), store if has_store else None
    sessions = {"a": make_session(runtime, range(0, 12, 2))}
    answer = ask_recall(runtime, processor, sessions, reader, window(processor, 1, 8.5))
    assert (answer.frames, answer.start_ns, answer.evidence) == (4, NOW + 2 * S, ())
    assert answer.newest[1].stamp_ns == NOW + 8 * S and answer.candidates_judged == 0
    alone = make_session(runtime)
    for frame in sessions["a"].memory.frames[1:5]:
        alone.observe(Frame(frame.pixels, frame.stamp_ns))
    assert answer.raw == alone.ask(Request.prepare(processor, "Where is the red cup?", FEW)).raw
    with pytest.raises(NoFramesError, match=r"no frame and no episode of a since 1700000002.500 s until 1700000003.0"):
        ask_recall(runtime, processor, sessions, reader, window(processor, 2.5, 3))


def test_without_episodes_only_a_window_before_the_memory_is_refused(processor, make_session):
    runtime = ScriptedRuntime(processor)
    sessions = {"a": make_session(runtime, [10, 12])}
    with pytest.raises(
        EpisodeError, match=r"since is 1700000009.000 s, but the memory reaches back to 1700000010.000 s"
    ):
        ask_recall(runtime, processor, sessions, None, window(processor, 9))
    assert ask_recall(runtime, processor, sessions, None, window(processor, None, 11)).frames == 1
    long = Request.prepare(processor, "What?", FEW, horizon_s=3600)
    assert ask_recall(runtime, processor, sessions, None, long).frames == 2
    with pytest.raises(NoFramesError):
        ask_recall(runtime, processor, {"a": make_session(runtime)}, None, window(processor, 9))


def test_a_horizon_looks_beyond_the_memory_only_if_there_are_older_episodes(processor, store, make_session):
    runtime = ScriptedRuntime(processor)
    sessions = {"a": make_session(runtime, range(0, 12, 2))}

    def answer(horizon_s):
        request = Request.prepare(processor, "What?", FEW, horizon_s=horizon_s)
        return ask_recall(runtime, processor, sessions, store, request), ask_cameras(
            runtime, processor, sessions, request
        )

    for horizon_s in (0, 5, 10, 30):  # the newest episode is 40 s older than the newest frame
        got, plain = answer(horizon_s)
        assert (got.frames, got.evidence, got.newest) == (plain.frames, (), None)
        assert got.prompt_tokens == plain.prompt_tokens
    got, _ = answer(100)
    assert 0 < len(got.evidence) <= 3 and got.frames == len(got.evidence) + MAX_RECENT
    assert all(0 < age <= 90 for age in ages_s(item.episode for item in got.evidence))


def test_a_past_that_the_memory_has_thinned_out_is_looked_up_in_episodes(processor, store, make_session):
    class Motion(NoveltyPolicy):  # ten seconds of each minute
        def observe(self, frame):
            return FrameKind.KEY if (frame.stamp_ns - NOW) // S % 60 < 10 else FrameKind.INTERMEDIATE

    runtime = ScriptedRuntime(processor)
    session = make_session(runtime, range(-480, 0), policy=Motion())
    start_s = (session.memory.frames[0].stamp_ns - NOW) / S
    for since_s, is_thinned in ((-5, False), (start_s, True)):
        assert (session.memory.held_share(NOW + round(since_s * S)) < 0.25) == is_thinned
        for request in (window(processor, since_s), Request.prepare(processor, "What?", FEW, horizon_s=-1 - since_s)):
            answer = ask_recall(runtime, processor, {"a": session}, store, request)
            assert bool(answer.evidence) == is_thinned, (since_s, request)


def test_keyframes_that_are_still_in_memory_are_shown_once(processor, store, make_session):
    runtime = ScriptedRuntime(processor)
    session = make_session(runtime, [-90, -60, -30])
    answer = ask_recall(runtime, processor, {"a": session}, store, window(processor, -120, 0))
    assert answer.frames == 4 and [item.episode.stamp_ns for item in answer.evidence] == [NOW - 120 * S]


def test_a_deadline_reduces_what_is_judged_and_then_what_is_shown(processor, store, make_session):
    outcomes = []
    for deadline_s in (0.04, 0.1, 0.15, 0.2, 0.3, math.inf):
        clock = Clock()
        runtime = TimedRuntime(processor, clock, 0.002, 2e-5, 1e-4)
        pace = Pace(PaceConfig(), clock)
        measure(runtime, processor, pace, MemoryConfig(600))
        session, due_s = make_session(runtime, range(0, 12, 2), pace=pace), clock.now_s + deadline_s
        request = window(processor, -3600)
        answer = ask_recall(runtime, processor, {"a": session}, store, request, None, pace, due_s)
        assert answer.first_token_s <= min(deadline_s, 1.1 * answer.predicted_s)
        assert answer.candidates_judged + answer.candidates_left_out == MAX_JUDGED
        assert answer.frames - len(answer.evidence) == MAX_RECENT - answer.frames_pending >= 1
        assert any(item.probability >= 0 for item in answer.evidence) == bool(answer.candidates_judged)
        outcomes.append((answer.candidates_judged, len(answer.evidence), MAX_RECENT - answer.frames_pending))
    assert outcomes == sorted(outcomes) and outcomes[-1] == (MAX_JUDGED - 1, MAX_SHOWN, MAX_RECENT), outcomes
    assert outcomes[0][:2] < (0, MAX_SHOWN) and (0, MAX_SHOWN) in [outcome[:2] for outcome in outcomes], outcomes
    assert MAX_SHOWN < outcomes[-2][0] < MAX_JUDGED - 1 and outcomes[-2][1:] == outcomes[-1][1:], outcomes


def test_frames_arrive_and_the_question_can_be_cancelled_while_episodes_are_judged(processor, store, make_session):
    runtime = ScriptedRuntime(processor)
    session, calls = make_session(runtime, [0]), Counter()

    def on_token():
        calls["token"] += 1
        session.observe(Frame(np.full((84, 112, 3), calls["token"] % 2 * 255, np.uint8), NOW + calls["token"] * S))

    hooks = AnswerHooks(on_token=on_token, cancelled=lambda: calls["token"] > 100)
    answer = ask_recall(runtime, processor, {"a": session}, store, window(processor, -3600), hooks)
    assert answer.newest[1].stamp_ns > NOW + 25 * S, "the newest frame when judging was complete"
    with pytest.raises(CancelledError):
        ask_recall(
            runtime, processor, {"a": session}, store, window(processor, -3600), replace(hooks, cancelled=lambda: True)
        )
    assert runtime.open_caches == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"since_ns": 2 * S, "until_ns": S}, r"until is 1.000 s, before since, which is 2.000 s"),
        ({"since_ns": -1}, r"since is -1 ns, it must be"),
        ({"until_ns": 2**63}, r"until is 9223372036854775808 ns, it must be"),
        ({"since_ns": S, "horizon_s": 3.0}, r"has a horizon_s of 3.0 and a window; leave out"),
    ],
)
def test_a_window_that_contradicts_itself_is_refused(processor, fields, message):
    with pytest.raises(PromptError, match=message):
        Request.prepare(processor, "What?", **fields)
    assert not recall.reaches_beyond(Request.prepare(processor, "What?"), {}, True)
