"""A question about several cameras gets one prompt with the frames that each camera holds."""

import numpy as np
import pytest

from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import ContextLengthError, NoFramesError
from penguin_models.images import patch_image
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame

SECOND = 10**9
FEW = Sampling(max_new_tokens=5)


@pytest.fixture
def runtime(model):
    return TorchRuntime(model)


@pytest.fixture
def sessions(runtime, processor):
    made = {
        name: SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(300)) for name in ("left", "right", "off")
    }
    yield made
    for session in made.values():
        session.close()


def observe(sessions, picture, **stamps_s):
    for name, stamps in stamps_s.items():
        for number, second in enumerate(stamps):
            sessions[name].observe(Frame(picture(84, 112, number + len(name)), round(second * SECOND), name))


def test_the_prompt_names_each_camera_and_ends_with_the_newest_frame(runtime, processor, sessions, picture):
    observe(sessions, picture, left=[1, 2.5], right=[1.5])
    answer = ask_cameras(runtime, processor, sessions, Request.prepare(processor, "What?", FEW))
    assert (answer.frames, answer.start_ns, answer.image_size) == (3, SECOND, (84, 112))

    held = [*sessions["right"].memory.frames, *sessions["left"].memory.frames]
    content = [
        {"type": "text", "text": "Camera right:\n"},
        {"type": "video", "num_frames": 1, "timestamps": [0.5]},
        {"type": "text", "text": "Camera left:\n"},
        {"type": "video", "num_frames": 2, "timestamps": [0.0, 1.5]},
        {"type": "text", "text": "What?"},
    ]
    parts = processor.prompt_segments([{"role": "user", "content": content}])
    encoded = runtime.encode([patch_image(f.pixels, f.size, 2, processor.images) for f in held])
    cache = runtime.open_cache(4096)
    logits, ids = cache.append(interleave(parts, encoded)), []
    assert cache.length == answer.prompt_tokens
    for _ in range(answer.generated_tokens):
        ids.append(int(np.argmax(logits)))
        logits = cache.append([ids[-1:]])
    assert processor.decode(ids) == answer.raw


def test_the_horizon_starts_at_the_newest_frame_of_any_camera(runtime, processor, sessions, picture):
    observe(sessions, picture, left=[1, 9], right=[8.5, 10])
    for horizon_s, frames in ((1.2, 2), (0.1, 1), (0.0, 4)):
        request = Request.prepare(processor, "What?", FEW, horizon_s=horizon_s)
        assert ask_cameras(runtime, processor, sessions, request).frames == frames


def test_the_sessions_are_not_changed_by_the_question(runtime, processor, sessions, picture):
    observe(sessions, picture, left=[1, 2], right=[1])
    before = sessions["left"].ask(Request.prepare(processor, "What?", FEW)).raw
    ask_cameras(runtime, processor, sessions, Request.prepare(processor, "What?", FEW))
    assert sessions["left"].ask(Request.prepare(processor, "What?", FEW)).raw == before


def test_a_question_without_frames_or_too_long_is_refused(runtime, processor, sessions, picture):
    with pytest.raises(NoFramesError, match="left, right, off"):
        ask_cameras(runtime, processor, sessions, Request.prepare(processor, "What?", FEW))
    observe(sessions, picture, left=[1], right=[2])
    with pytest.raises(ContextLengthError, match="2 cameras"):
        too_long = Request("What?", [1], Sampling(max_new_tokens=1_000_000))
        ask_cameras(runtime, processor, sessions, too_long)
