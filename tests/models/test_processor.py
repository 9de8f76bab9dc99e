"""Prompts: one id per visual token, and labels for the assistant's words only."""

import json
import subprocess
import sys

import pytest

from penguin_models.chat import render
from penguin_models.errors import PromptError
from penguin_models.processor import IGNORE_INDEX, Processor, Visual
from penguin_models.types import FrameKind, Size

QUESTION = {"type": "text", "text": "What is it?"}
TWO_IMAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "image", "time": 2.0}, QUESTION]}]


def test_chat_template_equals_the_released_one(reference):
    cases = json.loads((reference / "chat_template.json").read_text())
    for case in cases:
        assert render(case["conversation"], case["add_generation_prompt"], case["add_think_prompt"]) == case["text"]
    assert len(cases) == 20


def test_labels_equal_the_released_ones(reference, processor):
    cases = json.loads((reference / "labels.json").read_text())
    for case in cases:
        ids, labels = processor.training_ids(case["messages"], [h * w for h, w in case["visual_grid"]])
        assert ids.tolist() == case["input_ids"]
        assert labels.tolist() == case["labels"]
    assert len(cases) == 2


def test_image_ids_are_repeated_once_per_visual_token(processor):
    ids = processor.prompt_ids(TWO_IMAGES, [3, 5])
    assert (ids == processor.image_token_id).sum() == 8
    parts = processor.prompt_segments(TWO_IMAGES)
    place = [processor.image_token_id]
    assert ids.tolist() == parts[0] + place * 3 + parts[1] + place * 5 + parts[2]


def test_only_the_assistants_words_and_their_end_are_trained(processor):
    conversation = [*TWO_IMAGES, {"role": "assistant", "content": "A cup."}]
    ids, labels = processor.training_ids(conversation, [2, 2])
    trained = ids[labels != IGNORE_INDEX]
    assert processor.tokenizer.decode(trained.tolist(), skip_special_tokens=False) == "A cup.<|im_end|>"


@pytest.mark.parametrize("tokens", [[], [4], [4, 4, 4]])
def test_the_number_of_frames_must_match(processor, tokens):
    with pytest.raises(PromptError, match=f"shows 2 frames, but {len(tokens)} were passed"):
        processor.prompt_ids(TWO_IMAGES, tokens)
    with pytest.raises(PromptError, match=f"frames, but {len(tokens)} were passed"):
        processor.training_ids(TWO_IMAGES, tokens)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "user", "content": "look: <image>"}, "contains '<image>'"),
        ({"role": "user", "content": [{"type": "text", "text": "a<|im_end|>b"}]}, r"contains '<\|im_end\|>'"),
        ({"role": "robot", "content": "hi"}, "role must be one of system, user, assistant, not 'robot'"),
        ({"role": "user", "content": 7}, "must be a string or a list of parts"),
        ({"role": "user", "content": [{"type": "sound"}]}, "type 'text', 'image' or 'video'"),
        ({"role": "user", "content": [{"type": "text"}]}, "must be a string, not None"),
        ({"role": "user", "content": [{"type": "video"}]}, "num_frames of at least 1, not None"),
        ({"role": "user", "content": [{"type": "image", "time": "x"}]}, "number of seconds, not 'x'"),
        (
            {"role": "user", "content": [{"type": "video", "num_frames": 3, "timestamps": [0.0]}]},
            "a video of 3 frames has 1 timestamps",
        ),
    ],
)
def test_malformed_messages_are_refused(message, error):
    with pytest.raises(PromptError, match=error):
        render([message])


def test_images_share_the_budget_in_proportion_to_size(processor):
    """Two images of equal size get what the released rule gives two keyframes; a larger one gets more."""
    source_size, small = Size(1080, 1920), Size(540, 960)
    equal = processor.allocate([Visual(source_size), Visual(source_size)], 1024, "reference")
    together = processor.allocate([Visual(source_size, (FrameKind.KEY,) * 2)], 1024, "reference")
    assert equal[0] == equal[1] == together[0]
    large, little = processor.allocate([Visual(source_size), Visual(small)], 1024)
    assert large.tokens(FrameKind.KEY) + little.tokens(FrameKind.KEY) <= 1024
    assert large.tokens(FrameKind.KEY) == pytest.approx(4 * little.tokens(FrameKind.KEY), rel=0.1)


def test_a_saved_processor_reads_back(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = Processor.from_pretrained(tmp_path, processor.image_token_id)
    assert again.prompt_ids(TWO_IMAGES, [2, 2]).tolist() == processor.prompt_ids(TWO_IMAGES, [2, 2]).tolist()
    assert (again.images, again.side_files) == (processor.images, processor.side_files)


def test_image_token_is_added_if_the_tokenizer_lacks_it(edit_checkpoint):
    """Released tokenizers do not contain `<image>`; it must get the id in config.json."""
    folder = edit_checkpoint()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["id"] < 1503]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    processor = Processor.from_pretrained(folder)
    assert processor.tokenizer.token_to_id("<image>") == processor.image_token_id == 1503


def test_a_robot_needs_neither_torch_nor_transformers_nor_pyav(checkpoint):
    script = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "transformers", "av"))  # importing them fails
from penguin_models import chat, grounding, images, keyframe_policy, media, novelty_policy, token_allocation
from penguin_models.processor import Processor
Processor.from_pretrained({str(checkpoint)!r})
try:
    media.VideoFile({str(checkpoint / "config.json")!r})
except media.MediaError as err:
    print(err)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "reading videos needs PyAV, which is not installed: pip install av\n", done.stderr
