"""Penguin-VL in a real vLLM, in one process and in two that share the weights, and the reference values."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from penguin_models.chat import render
from penguin_models.media import load_image
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Visual
from penguin_models.types import Frame, FrameKind, Size

pytestmark = [pytest.mark.timeout(1500)]
PROGRAM = Path(__file__).with_name("offline_vllm.py")
CLIP_FRAME = str(Path(__file__).parents[2] / "data" / "reference" / "media" / "clip" / "000.png")
RULES = {"allocation": "reference", "policy": "reference"}
SETTINGS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_batched_tokens": 512,  # the longer prompts, and an image and a video of them, are prefilled in chunks
    "logprobs_mode": "raw_logits",
    "max_logprobs": -1,
}


@pytest.fixture(scope="module")
def run(vllm_python, vllm_environment, tmp_path_factory):
    """Returns a function that runs prompts in a vLLM and returns results and logits."""

    def start(model, prompts, processes=1):
        out = tmp_path_factory.mktemp("vllm") / "results.json"
        job = {"llm": SETTINGS | {"model": str(model), "tensor_parallel_size": processes}, "prompts": prompts}
        environment = vllm_environment | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes > 1))}
        command = [vllm_python, PROGRAM, out]
        done = subprocess.run(command, input=json.dumps(job), env=environment, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return json.loads(out.read_text()), np.load(out.with_suffix(".npz"))

    return start


@pytest.fixture(scope="module")
def cases(reference):
    """Prompts of the reference values, by name."""
    made = {}
    for name, values in json.loads((reference / "expected.json").read_text()).items():
        if not isinstance(values, dict):
            continue
        case, media = values["case"], reference / "media"
        prompt = {"text": values["text"], "tokens": 24, "options": RULES | {"max_tokens": values["max_tokens"]}}
        if case["kind"] == "image":
            prompt["images"] = [[str(media / file), case.get("crop")] for file in case["files"]]
        else:
            files = sorted((media / case["file"]).iterdir())[:: case.get("stride", 1)]
            prompt["videos"] = [{"files": [str(file) for file in files], "times": values["timestamps"]}]
            prompt["text"] = re.sub(r"Time 0\.0s:<image>.*<image>", "<video>", prompt["text"])
        made[name] = prompt
    return made


@pytest.fixture(scope="module")
def expected(reference):
    return load_file(reference / "expected.safetensors")


def check(results, logits, cases, expected):
    assert len(cases) == 5
    for number, (name, result) in enumerate(zip(cases, results, strict=False)):
        assert result["prompt"] == expected[f"{name}.input_ids"].flatten().tolist(), name
        assert result["generated"] == expected[f"{name}.generated"].flatten().tolist(), name
        last = expected[f"{name}.logits_last8"].reshape(8, -1)
        found = np.vstack([logits[f"{number}.prompt"], logits[f"{number}.last"]])
        np.testing.assert_allclose(found, last, atol=2e-3, rtol=0, err_msg=name)


def prepared(loaded, parts, max_tokens):
    """Returns a prompt for vLLM, its token ids by our processor, and the answer of our model.

    A part is a text, the file of an image, or the files and times of a video.
    """
    model, processor = loaded
    shown, visuals, content = [], [], []
    prompt = {"tokens": 24, "images": [], "videos": [], "options": {"max_tokens": max_tokens}}
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        video = part if isinstance(part, dict) else None
        frames = [load_image(file) for file in (video["files"] if video else [part])]
        kinds = [FrameKind.KEY]
        if video:
            policy = NoveltyPolicy()
            kinds = [policy.observe(Frame(rgb, round(t * 1e9))) for rgb, t in zip(frames, video["times"], strict=True)]
            prompt["videos"].append(video | {"files": [str(file) for file in video["files"]]})
            content.append({"type": "video", "num_frames": len(frames), "timestamps": video["times"]})
        else:
            prompt["images"].append([str(part)])
            content.append({"type": "image"})
        shown.append(frames)
        visuals.append(Visual(Size(*frames[0].shape[:2]), tuple(kinds), 2 if video else 1))
    allocations = processor.allocate(visuals, max_tokens)
    patched = [
        image
        for frames, visual, allocation in zip(shown, visuals, allocations, strict=True)
        for image in processor.patch(frames, visual.kinds, allocation)
    ]
    conversation = [{"role": "user", "content": content}]
    ids = processor.prompt_ids(conversation, [image.tokens for image in patched])
    answer = model.generate(torch.tensor(ids)[None], patched, max_new_tokens=24, do_sample=False, eos_token_id=None)
    prompt["text"] = re.sub(r"Time 0\.5s:.*Time 2\.0s:<image>", "<video>", render(conversation))
    return prompt, ids.tolist(), answer[0].tolist()


REFUSED = [  # what is wrong with a prompt, and the error
    ({"text": "What is it?"}, "the prompt has 0 <image> and 0 <video>, but 1 images and 0 videos were sent"),
    ({"options": {"max_tokens": 3}}, "one frame needs at least .* visual tokens .*, but the budget is 3"),
    (
        {"options": {"max_pixels": 3}},
        "mm_processor_kwargs has max_pixels; Penguin-VL knows max_tokens, allocation, policy",
    ),
    ({"options": {"policy": "none"}}, "policy is 'none', it must be one of novelty, reference"),
    ({"images": [], "videos": [{"files": [CLIP_FRAME], "times": []}]}, "0 timestamps for a video of 1 frames"),
]


def test_a_vllm_gives_the_reference_values_and_reuses_prefixes(run, cases, expected, checkpoint, loaded, reference):
    media, question = reference / "media", "What is it?"
    clip = {"files": [media / "clip" / f"{number:03}.png" for number in (0, 8, 20)], "times": [0.5, 1.25, 2.0]}
    image, words = media / "portrait.png", "Where is the red "
    made = [
        prepared(loaded, [image, words + "ball?"], 600),
        prepared(loaded, [image, words + "cube?"], 600),
        prepared(loaded, [image, words + "ball?"], 300),
        prepared(loaded, [media / "tabletop.png", "Look", clip, media / "manifest.png", "\n" + question], 700),
    ]
    prompts = [prompt for prompt, _, _ in made] + [made[0][0] | wrong for wrong, _ in REFUSED]
    results, logits = run(checkpoint, [*(prompt | {"logits": True} for prompt in cases.values()), *prompts])
    check(results, logits, cases, expected)
    answers, refused = results[5:9], results[9:]
    assert [(answer["prompt"], answer["generated"]) for answer in answers] == [(ids, ours) for _, ids, ours in made]
    first, other_question, other_size, _ = (answer["cached"] for answer in answers)
    assert first == 0 and other_question > 500  # tokens
    assert other_size < 16  # the same image at another size is another image
    for result, (_, sentence) in zip(refused, REFUSED, strict=True):
        assert re.search(sentence, result["error"]), result


def test_two_processes_share_the_weights_and_the_encoder_may_be_in_a_second_checkpoint(
    run, cases, expected, edit_checkpoint
):
    def split(tensors):
        encoder.update({name: tensors.pop(name) for name in list(tensors) if name.startswith("model.vision_encoder.")})
        decoder.update(tensors)

    encoder, decoder = {}, {}
    folder = edit_checkpoint(split, lambda config: config.update(vision_encoder="second"))
    second = folder / "second"
    second.mkdir()
    # A whole checkpoint in the training layout, whose other tensors must not be taken.
    tensors = {name.replace("encoder.", "encoder.vision_encoder.", 1): value for name, value in encoder.items()}
    save_file(tensors | {name: value * 0 for name, value in decoder.items()}, second / "model.safetensors")
    check(*run(folder, [prompt | {"logits": True} for prompt in cases.values()], processes=2), cases, expected)
