"""What is shown of images and videos in a prompt for vLLM, without vLLM."""

import re

import numpy as np
import pytest
from PIL import Image

from penguin_engine.vllm_plugin.plans import Options, check_places, plan_all
from penguin_models.errors import PenguinError
from penguin_models.processor import Visual
from penguin_models.types import FrameKind, Size


def clip(frames, height=240, width=320):
    return np.stack([np.full((height, width, 3), 40 * number, np.uint8) for number in range(frames)])


def test_images_and_videos_of_a_prompt_share_its_budget_and_have_the_text_of_the_processor(processor, picture):
    image, other = picture(300, 420), picture(480, 200)
    items = {"image": [Image.fromarray(image), other], "video": [(clip(3), {"timestamps": [0.5, 1.25, 2]})]}
    plans = plan_all(processor, items, Options(max_tokens=500, policy="reference"))
    kinds = plans["video"][0].kinds
    assert kinds[0] == FrameKind.KEY
    visuals = [Visual(Size(300, 420)), Visual(Size(480, 200)), Visual.video(Size(240, 320), kinds)]
    allocations = processor.allocate(visuals, 500)
    assert [plan.allocation for of_modality in plans.values() for plan in of_modality] == allocations
    parts = [{"type": "image"}, {"type": "image"}]
    parts.append({"type": "video", "num_frames": 3, "timestamps": [0.5, 1.25, 2]})
    tokens = [allocations[0].tokens(kinds[0]), allocations[1].tokens(kinds[0]), *map(allocations[2].tokens, kinds)]
    ids = processor.prompt_ids([{"role": "user", "content": parts}], tokens)
    text = "\n".join(plan.text for of_modality in plans.values() for plan in of_modality)
    ours = processor.encode_text(
        f"<|im_start|>user\n{text}\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert ids.tolist() == ours


def test_times_may_be_given_as_indices_at_a_rate(processor):
    metadata = {"fps": 2.0, "frames_indices": [1, 4]}
    [plan] = plan_all(processor, {"video": [(clip(2), metadata)]}, Options())["video"]
    assert plan.times_s == (0.5, 2.0)


def test_the_same_image_at_another_size_or_with_other_keyframes_has_another_name(processor):
    frames = np.full((4, 240, 320, 3), 120, np.uint8)
    frames[2:, 100:130, 100:130] = 200, 30, 30  # something small appears, which the released rule does not notice
    items = {"video": [(frames, {"timestamps": range(4)})]}
    options = [Options(), Options(max_tokens=200), Options(policy="reference")]
    names = {plan_all(processor, items, option)["video"][0].name for option in options}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("options", "items", "sentence"),
    [
        ({"max_tokens": 0}, {}, "max_tokens is 0, it must be a number of visual tokens above 0"),
        ({"max_tokens": True}, {}, "max_tokens is True, it must be"),
        ({"max_tokens": "5"}, {}, "max_tokens is '5', it must be"),
        ({"allocation": ["strict"]}, {}, "allocation is ['strict'], it must be one of strict, reference"),
        ({"policy": None}, {}, "policy is None, it must be one of novelty, reference"),
        (
            {"size": 1, "fps": 2},
            {},
            "mm_processor_kwargs has fps, size; Penguin-VL knows max_tokens, allocation, policy",
        ),
        ({"max_tokens": 5}, {"image": [clip(1)[0]]}, "but the budget is 5; raise it"),
        ({}, {"image": [None]}, "the image was not sent; its uuid is not enough"),
        ({}, {"image": [np.zeros((4, 5, 3))]}, "the image is float64 [4, 5, 3], it must be uint8 [H, W, 3]"),
        ({}, {"image": [np.zeros((4, 5), np.uint8)]}, "the image is uint8 [4, 5], it must be uint8 [H, W, 3]"),
        ({}, {"video": [(clip(2), {})]}, "no timestamps for a video of 2 frames"),
        ({}, {"video": [(clip(2), {"timestamps": [1]})]}, "1 timestamps for a video of 2 frames"),
        ({}, {"video": [(clip(1)[:0], {"timestamps": []})]}, "the video is uint8 [0, 240, 320, 3], it must be uint8"),
    ],
)
def test_bad_input_is_refused(processor, options, items, sentence):
    with pytest.raises(PenguinError, match=re.escape(sentence)):
        plan_all(processor, items, Options.from_dict(options))


@pytest.mark.parametrize(
    ("text", "sent", "fits"),
    [
        ("<image> <video> <image>", {"image": 2, "video": 1}, True),
        ("What does <video> mean? <image>", {"image": 1}, True),
        ("<image>", {"image": 2}, False),
        ("<image> <video>", {"video": 1}, False),
        ("<video> <video>", {"image": 0, "video": 1}, False),
        ("nothing", {"image": 1, "video": 0}, False),
    ],
)
def test_a_prompt_has_a_place_for_each_image_and_video(text, sent, fits):
    if fits:
        check_places(text, sent)
        return
    with pytest.raises(PenguinError, match=r"were sent; each must be in it once: --chat-template .*\.jinja"):
        check_places(text, sent)
