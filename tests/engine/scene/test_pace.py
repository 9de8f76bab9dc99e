"""The pace: limits hold on machines of any speed; only the work of a runtime without a model advances the clock."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_runtime import ScriptedTokens
from timed_runtime import Clock, TimedRuntime

from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.first_costs import LIMIT_S, measure
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.pace import Pace, PaceConfig
from penguin_engine.scene.paced_cache import chunks
from penguin_engine.scene.requests import Request, RequestQueue
from penguin_engine.scene.session import SceneSession
from penguin_engine.scene.step_cost import StepCost
from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import EngineError, MediaError, SettingError
from penguin_models.types import Frame, FrameKind, PatchedImage, Size

BASE = {"fixed_s": 0.002, "patch_s": 2e-5, "token_s": 1e-4}
"""Costs of a small GPU; others are multiples."""


class EveryFourthIsKey:
    def __init__(self):
        self._count = 0

    def observe(self, frame):
        self._count += 1
        return FrameKind.KEY if self._count % 4 == 1 else FrameKind.INTERMEDIATE

    def reset(self):
        self._count = 0


@dataclass
class Run:
    """What happened in a simulated run."""

    outcomes: list = field(default_factory=list)
    taken_s: list = field(default_factory=list)
    looking: list = field(default_factory=list)  # (when it ended, seconds) of work while no question waited
    steps: list = field(default_factory=list)  # seconds of single operations
    pace: Pace = None
    worker: SceneWorker = None

    def load(self, after_s):
        end_s, start_s = self.looking[-1][0], self.pace_start_s + after_s
        return sum(seconds for ended_s, seconds in self.looking if ended_s > start_s) / (end_s - start_s)


class Listener:
    def on_failure(self, doing, error):
        raise error

    def __getattr__(self, name):
        return lambda *args: None


def simulate(processor, costs, config=None, rate_hz=10.0, size=(240, 320), questions=(), seconds=60.0, **options):
    """Runs the worker of one camera."""
    clock = Clock()
    runtime = TimedRuntime(processor, clock, **costs)
    runtime.answer = runtime.answer[:1] * options.get("answer_tokens", 1) + runtime.answer[1:]
    memory = MemoryConfig(token_budget=options.get("budget", 1024))
    pace = Pace(config or PaceConfig(), clock)
    measure(runtime, processor, pace, memory)
    runtime.steps.clear()
    session = SceneSession(runtime, processor, EveryFourthIsKey(), memory, pace)
    state = CameraState("a", session, Mailbox(options.get("sample_rate_hz", 2.0)), clock)
    queue = RequestQueue(100)
    queue.open()
    caption = options.get("caption", CaptionConfig(on_keyframe=False))
    worker = SceneWorker(runtime, processor, [state], caption, queue, Listener(), clock, pace)
    run = Run(pace=pace, worker=worker, steps=runtime.steps)
    request = replace(Request.prepare(processor, "What is it?"), deadline_s=options.get("deadline_s", 2.0))
    run.pace_start_s = start_s = clock()
    pixels = np.zeros((*size, 3), np.uint8)

    def load(stamp_s):
        run.taken_s.append(clock() - start_s)
        return Frame(pixels, round(stamp_s * 1e9), "a")

    pending = []
    frame_s, waiting = start_s, [start_s + at for at in questions]
    while clock() < start_s + seconds:
        while frame_s <= clock():
            worker.offer("a", round(frame_s * 1e9), partial(load, frame_s))
            frame_s += 1 / rate_hz
        while waiting and waiting[0] <= clock():
            pending.append(worker.submit(request))
            pending[-1].submitted_s = waiting.pop(0)
        begun_s, asked = clock(), len(queue) > 0
        busy = worker.step()
        if not asked:
            run.looking.append((clock(), clock() - begun_s))
        check_memory(session.memory)
        if not busy:
            rest_s = worker.idle_s()
            coming = [frame_s, *waiting[:1]] + ([clock() + max(rest_s, 1e-3)] if rest_s is not None else [])
            clock.now_s = max(clock.now_s, min(coming))
    run.outcomes = [item.outcome.result() for item in pending if item.outcome.done()]
    return run


@pytest.fixture(autouse=True, scope="module")
def no_pixels():
    """Resizing and cutting pictures takes longer than the rest of a simulation."""

    def patched(rgb, size, merge_size, config):
        grid = Size(size.height // 14, size.width // 14)
        return PatchedImage(np.broadcast_to(np.float32(0), (grid.area, 588)), grid, merge_size)

    with (
        mock.patch("penguin_engine.scene.frame_encoder.patch_image", patched),
        mock.patch("penguin_engine.scene.memory.resize", lambda rgb, size: np.broadcast_to(rgb[:1, :1], (*size, 3))),
    ):
        yield


def check_memory(memory):
    assert memory.tokens == sum(frame.tokens for frame in memory.frames) <= memory.config.token_budget
    stamps = [frame.stamp_ns for frame in memory.frames]
    assert stamps == sorted(stamps)


@settings(max_examples=30)
@given(
    times=st.sampled_from([0.1, 1, 10, 100]),
    ratio=st.floats(0.2, 5),
    rate_hz=st.sampled_from([1.0, 10.0, 60.0]),
    sample_rate_hz=st.sampled_from([0.0, 2.0, 30.0]),
    size=st.sampled_from([(120, 160), (240, 320), (480, 640)]),
    budget=st.sampled_from([512, 2048]),
    gaps=st.lists(st.floats(0.5, 15), min_size=4, max_size=10),
)
def test_first_tokens_come_in_time_and_looking_keeps_its_share(
    processor, times, ratio, rate_hz, sample_rate_hz, size, budget, gaps
):
    costs = {name: value * times for name, value in BASE.items()}
    costs["patch_s"] *= ratio
    config = PaceConfig()
    run = simulate(
        processor, costs, config, rate_hz, size, np.cumsum(gaps), 90.0, budget=budget, sample_rate_hz=sample_rate_hz
    )
    floor = 24
    least_s = 3 * costs["fixed_s"] + costs["patch_s"] * 4 * floor + costs["token_s"] * (floor + 50)
    assert run.load(30.0) <= config.load
    if least_s <= 1.0:
        late_s = sorted(o.queue_s + o.answer.first_token_s for o in run.outcomes)
        assert len(late_s) == len(gaps)
        assert late_s[int(0.95 * (len(late_s) - 1))] <= 2.0 + max(run.steps)
        assert all(outcome.answer.frames >= 1 for outcome in run.outcomes)
    if not run.pace.reason:
        assert all(outcome.answer.frames_pending == 0 for outcome in run.outcomes)


def test_a_fast_machine_is_not_limited(processor):
    run = simulate(processor, {name: value / 10 for name, value in BASE.items()}, questions=(10.0, 20.0))
    assert run.pace.arrival_tokens is None and run.pace.period_s == 0 and run.pace.reason == ""
    assert np.diff(run.taken_s).max() < 0.6  # at the sampling rate


def test_a_slow_machine_sees_small_frames_seldom_and_says_so(processor):
    run = simulate(processor, {name: value * 50 for name, value in BASE.items()}, questions=(20.0,), size=(480, 640))
    assert run.pace.arrival_tokens < 100 and 0.5 < run.pace.period_s <= 5
    assert (
        f"at most {run.pace.arrival_tokens} visual tokens each, one every {run.pace.period_s:.2f} s" in run.pace.reason
    )
    assert np.diff(run.taken_s).max() < 6


def test_sizes_grow_again_when_the_machine_has_time_again(processor):
    costs = {name: value * 50 for name, value in BASE.items()}
    run = simulate(processor, costs, size=(336, 448), seconds=20.0)
    small, runtime = run.pace.arrival_tokens, run.worker.runtime
    runtime.fixed_s, runtime.patch_s, runtime.token_s = BASE.values()
    clock, state = run.pace.clock, run.worker.camera_states["a"]
    for _ in range(200):
        clock.now_s += 0.5
        run.worker.offer(
            "a", round(clock() * 1e9), lambda: Frame(np.zeros((336, 448, 3), np.uint8), round(clock() * 1e9))
        )
        while run.worker.step():
            pass
    assert small < 100 and run.pace.arrival_tokens is None
    assert state.newest.size == (336, 448)


def test_captions_share_the_load_and_are_cut(processor):
    costs = {name: value * 20 for name, value in BASE.items()}
    caption = CaptionConfig(period_s=1.0, max_age_s=30.0, max_new_tokens=400)
    run = simulate(processor, costs, caption=caption, seconds=330.0, answer_tokens=1000)
    state = run.worker.camera_states["a"]
    assert state.captions > 3
    assert run.load(30.0) <= 0.6
    assert run.pace.caption_tokens(400, 20) < 120
    assert np.diff(run.taken_s).max() < 6


def test_a_deadline_that_cannot_be_met_still_gets_an_answer_about_the_newest_frame(processor):
    costs = {name: value * 500 for name, value in BASE.items()}
    run = simulate(processor, costs, questions=(30.0,), seconds=120.0)
    [outcome] = run.outcomes
    assert run.pace.missed == 1 and run.pace.needed_s > 2
    assert outcome.answer.frames >= 1 and outcome.answer.predicted_s == pytest.approx(run.pace.needed_s)


def test_the_prefix_survives_an_answer_about_part_of_the_memory(processor):
    costs = {name: value * 10 for name, value in BASE.items()}
    run = simulate(processor, costs, seconds=20.0, budget=8192)
    session, request = run.worker.camera_states["a"].session, Request.prepare(processor, "What is it?")
    while session.prefill_pending():
        pass
    length = session._cache.length
    clock = run.pace.clock
    for number in range(6):
        session.observe(Frame(np.zeros((240, 320, 3), np.uint8), round((clock() + 5 + number) * 1e9), "a"))
    answer = session.ask(request, due_s=clock() + 0.5)
    assert answer.frames_pending > 0 and session._cache.length == length
    assert answer.frames + answer.frames_pending == len(session.memory.frames)
    assert session.ask(request).frames_pending == 0 and session._cache.length > length


def test_measuring_takes_at_most_its_limit_and_knows_single_tokens(processor):
    for times in (1, 30, 300):
        clock = Clock()
        costs = {name: value * times for name, value in BASE.items()}
        pace, start_s = Pace(PaceConfig(), clock), clock()
        measure(TimedRuntime(processor, clock, **costs), processor, pace, MemoryConfig())
        assert clock() - start_s <= LIMIT_S + 0.2
        assert pace.append.seconds(1) == pytest.approx(costs["fixed_s"] + costs["token_s"], rel=0.01)
        assert pace.encode.seconds(96) == pytest.approx(costs["fixed_s"] + 96 * costs["patch_s"], rel=0.01)


def test_an_image_that_the_runtime_does_not_support_ends_the_measurement(processor):
    clock = Clock()
    runtime, pace = TimedRuntime(processor, clock, **BASE), Pace(PaceConfig(), clock)
    encode = runtime.encode

    def limited(images):
        if images[0].grid.area > 100:
            raise EngineError("an image of 384 patches exceeds the plan's limit of 100")
        return encode(images)

    runtime.encode = limited
    measure(runtime, processor, pace, MemoryConfig())
    assert pace.encode.seconds(96) == pytest.approx(BASE["fixed_s"] + 96 * BASE["patch_s"])
    runtime.encode = mock.Mock(side_effect=EngineError("broken"))
    with pytest.raises(EngineError, match="broken"):
        measure(runtime, processor, pace, MemoryConfig())


def test_images_that_cannot_be_read_are_paced_too(processor):
    run = simulate(processor, {name: value * 50 for name, value in BASE.items()}, seconds=20.0)
    clock, worker, tried = run.pace.clock, run.worker, []

    def bomb():
        tried.append(clock())
        clock.now_s += 0.5
        raise MediaError("it has 4294836225 pixels")

    start_s = clock()
    while clock() < start_s + 60:
        worker.offer("a", round(clock() * 1e9), bomb)
        if not worker.step():
            clock.now_s += 0.1
    assert len(tried) < 60 and min(np.diff(tried)) >= run.pace.period_s > 0.5


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    fixed_s=st.floats(0, 1),
    unit_s=st.floats(1e-6, 1e-2),
    limit_s=st.floats(0.01, 10),
)
def test_costs_are_learnt_and_never_fall(sizes, fixed_s, unit_s, limit_s):
    cost = StepCost()
    for size in sizes * 10:
        cost.observe(size, fixed_s + unit_s * size)
    curve = [cost.seconds(size) for size in range(1, 6000, 50)]
    assert curve == sorted(curve)
    largest = cost.largest(limit_s)
    assert largest >= 1
    if len({size.bit_length() for size in sizes}) > 1 and largest <= max(sizes):
        assert cost.seconds(largest) <= limit_s or largest == 1


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 50))
def test_chunks_hold_every_token_once(lengths, size):
    segments = [list(range(100 * i, 100 * i + n)) if i % 2 else ScriptedTokens(n) for i, n in enumerate(lengths)]
    cut = list(chunks(segments, size))
    counts = [sum(len(s) if isinstance(s, list) else s.length for s in chunk) for chunk in cut]
    assert all(count == size for count in counts[:-1]) and sum(counts) == sum(lengths)
    texts = [token for chunk in cut for s in chunk if isinstance(s, list) for token in s]
    assert texts == [token for s in segments if isinstance(s, list) for token in s]


@pytest.mark.parametrize("wrong", [{"max_step_s": 0.0}, {"load": 0.0}, {"load": 1.1}, {"max_step_s": math.nan}])
def test_limits_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        PaceConfig(**wrong)
