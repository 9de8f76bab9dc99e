"""A question about several cameras is the offline prompt of what each of them holds."""

import numpy as np
import pytest

from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import ContextLengthError, NoFramesError, PromptError
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


def see(sessions, picture, **stamps_s):
    for name, stamps in stamps_s.items():
        for number, second in enumerate(stamps):
            sessions[name].observe(Frame(picture(84, 112, number + len(name)), round(second * SECOND), name))


def test_it_is_the_prompt_that_names_each_camera_the_one_that_saw_last_at_the_end(
    runtime, processor, sessions, picture
):
    see(sessions, picture, left=[1, 2.5], right=[1.5])
    answer = ask_cameras(runtime, processor, sessions, "What?", FEW)
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


def test_the_horizon_counts_from_the_newest_frame_of_any_camera(runtime, processor, sessions, picture):
    see(sessions, picture, left=[1, 9], right=[8.5, 10])
    assert ask_cameras(runtime, processor, sessions, "What?", FEW, horizon_s=1.2).frames == 2
    assert ask_cameras(runtime, processor, sessions, "What?", FEW, horizon_s=0.1).frames == 1
    assert ask_cameras(runtime, processor, sessions, "What?", FEW).frames == 4


def test_sessions_are_as_before(runtime, processor, sessions, picture):
    see(sessions, picture, left=[1, 2], right=[1])
    before = sessions["left"].ask("What?", FEW).raw
    ask_cameras(runtime, processor, sessions, "What?", FEW)
    assert sessions["left"].ask("What?", FEW).raw == before


def test_bad_questions(runtime, processor, sessions, picture):
    with pytest.raises(NoFramesError, match="left, right, off"):
        ask_cameras(runtime, processor, sessions, "What?", FEW)
    see(sessions, picture, left=[1], right=[2])
    with pytest.raises(PromptError, match="empty"):
        ask_cameras(runtime, processor, sessions, "", FEW)
    with pytest.raises(PromptError, match="horizon is -1"):
        ask_cameras(runtime, processor, sessions, "What?", FEW, horizon_s=-1.0)
    with pytest.raises(ContextLengthError, match="2 cameras"):
        ask_cameras(runtime, processor, sessions, "What?", Sampling(max_new_tokens=1_000_000))
