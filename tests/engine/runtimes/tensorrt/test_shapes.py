"""Shapes of plans: they match the graphs' inputs, and decide which images are encoded together."""

import inspect

import numpy as np
import onnx
import pytest

from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.tensorrt.shapes import (
    BUCKET_TOKENS,
    PlanLimits,
    check_patches,
    decoder_profiles,
    fits_vision_plan,
    plan_shapes,
    vision_profiles,
)
from penguin_engine.scene.memory import FrameMemory, MemoryConfig
from penguin_models.errors import EngineError
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame, PatchedImage, Size
from penguin_ros.cli.build import build


@pytest.fixture
def folder(exported):
    return exported(profile="portable", dtype="float16")


def test_plan_shapes_are_plain_lists(folder):
    shapes = plan_shapes(Manifest.read(folder), PlanLimits(1024))
    assert [len(profiles) for profiles in shapes.values()] == [2, 2]
    assert shapes["decoder.onnx"][1]["embeddings"] == [[1, 96]] * 3
    assert shapes["decoder.onnx"][0]["past_mask"] == [[256], [512], [1024]]


def test_decoder_shapes_match_the_graph(folder):
    prefill, decode = decoder_profiles(Manifest.read(folder), PlanLimits(1024))
    graph = onnx.load(folder / "decoder.onnx", load_external_data=False).graph
    assert prefill.keys() == decode.keys() == {i.name for i in graph.input}
    assert prefill["embeddings"].maximum == (512, 96) and decode["embeddings"].maximum == (1, 96)
    past = decode["past_key_2"]
    assert past.minimum == (BUCKET_TOKENS, 2, 32) and past.maximum == (1024, 2, 32)
    assert decode["past_mask"].maximum == (1024,)
    for shapes in (prefill, decode):
        for size in shapes.values():
            assert all(a <= b <= c for a, b, c in zip(size.minimum, size.optimum, size.maximum, strict=True))


def test_vision_shapes_cover_one_large_or_several_small_frames(folder):
    single, batch = vision_profiles(Manifest.read(folder), PlanLimits(1024, max_patches=2000))
    assert single["slots"].maximum == (1, 2000) and single["patches"].maximum == (2000, 588)
    assert batch["slots"].minimum[0] == 2 and batch["slots"].maximum == (8, 512)
    assert batch["patches"].maximum == (8 * 512, 588)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, it must be a multiple of 256 from 256 to 1048576"),
        ({"max_tokens": 1000}, "max_tokens is 1000"),
        ({"max_tokens": 2**40}, "max_tokens is 1099511627776, it must be"),
        ({"max_patches": 2**40}, "max_patches is 1099511627776, it must be from 512 to 1048576"),
        ({"max_patches": 10}, "max_patches is 10, it must be from 512 to 1048576"),
    ],
)
def test_impossible_limits_are_refused(limits, message):
    with pytest.raises(EngineError, match=message):
        PlanLimits(**limits)


def image(patches):
    return PatchedImage(np.zeros((patches, 588), np.float32), Size(1, patches), 1)


def test_small_images_are_encoded_together():
    assert fits_vision_plan([image(4000)])
    assert fits_vision_plan([image(512)] * 8)
    assert not fits_vision_plan([image(512)] * 9)
    assert not fits_vision_plan([image(100), image(513)])


def test_image_beyond_the_limit_is_refused_with_the_command_to_rebuild():
    limits = PlanLimits(1024, 2000)
    command = "penguin-vl build X --max-patches {}".format
    check_patches([], limits, command)
    check_patches([image(2000)], limits, command)
    with pytest.raises(
        EngineError, match=r"an image of 2002 patches exceeds the plan's limit of 2000; .* --max-patches 2002 - or"
    ):
        check_patches([image(2001), image(2002), image(5)], limits, command)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (1080, 1920)])
def test_default_limits_fit_frames_of_common_cameras(height, width):
    memory = FrameMemory(MemoryConfig(), NoveltyPolicy())
    memory.add(Frame(np.zeros((height, width, 3), np.uint8), 0))
    (held,) = memory.frames
    assert held.size.area // 14**2 <= PlanLimits().max_patches


def test_command_has_the_same_default_limits():
    defaults = {name: option.default for name, option in inspect.signature(build).parameters.items()}
    assert PlanLimits() == PlanLimits(defaults["max_tokens"], defaults["max_patches"])
