"""`vllm serve` with the model that ships, and the official client of the OpenAI API."""

import base64
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image
from real_vllm import SHIPPED

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_models import load_pretrained
from penguin_models.media import VideoFile, load_image
from penguin_models.novelty_policy import NoveltyPolicy

pytestmark = [pytest.mark.timeout(1500)]
VIDEO = Path(__file__).parents[2] / "data" / "clip.mp4"
QUESTIONS = [
    "Describe this image.",
    "What is on the table?",
    "Where is the red cube?",
    "How many objects are on the table?",
    "What colour is the table?",
    "Is there a blue ball?",
    "Which object is on the left?",
    "List the objects.",
    "Where is the mug?",
]
ABOUT_VIDEO = ["What happens in this video?", "When does an object move?", "How many objects are there at the end?"]


def data_uri(file, kind):
    return f"data:{kind}/{file.suffix[1:]};base64,{base64.b64encode(file.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def client(vllm_serving):
    with vllm_serving() as server:
        yield openai.OpenAI(base_url=server.url, api_key="none", timeout=600, max_retries=0)


def answer(client, question, images=(), video=None, **options):
    parts = [{"type": "image_url", "image_url": {"url": data_uri(file, "image")}} for file in images]
    parts += [{"type": "video_url", "video_url": {"url": data_uri(video, "video")}}] if video else []
    return client.chat.completions.create(
        model="penguin-tiny",
        messages=[{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
        max_tokens=32,
        temperature=0,
        extra_body={"mm_processor_kwargs": options} if options else {},
    )


def test_sixteen_clients_get_our_answers_to_fifty_questions(client, reference, tmp_path):
    media = reference / "media"
    files = [media / "tabletop.png", tmp_path / "turned.jpg", tmp_path / "grey.png", media / "clip" / "000.png"]
    files.append(media / "clip" / "020.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(media / "portrait.png").save(files[1], exif=exif)
    grey = np.asarray(Image.open(media / "manifest.png").convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(files[2])  # 16 bits
    asked = [{"question": question, "images": [file]} for question, file in product(QUESTIONS, files)]
    asked += [{"question": question, "video": VIDEO, "max_tokens": 700} for question in ABOUT_VIDEO]
    asked += [
        {"question": question, "images": files[3:], "max_tokens": 288} for question in ("What changed?", "Describe.")
    ]
    assert len(asked) == 50
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda request: answer(client, **request), asked))
    model, processor = load_pretrained(SHIPPED, dtype="float32")
    runtime, sampling = TorchRuntime(model), Sampling(max_new_tokens=32)
    for request, found in zip(asked, answers, strict=True):
        ours = ask(
            runtime,
            processor,
            request["question"],
            images=[load_image(file) for file in request.get("images", ())],
            clip=VideoFile(request["video"]) if "video" in request else None,
            policy=NoveltyPolicy(),
            max_tokens=request.get("max_tokens", 144),
            sampling=sampling,
        )
        assert found.choices[0].message.content == ours.raw, request
        assert found.usage.prompt_tokens == ours.prompt_tokens, request


@pytest.mark.parametrize(
    ("question", "options", "sentence"),
    [
        ("What is it?", {"max_tokens": 3}, "but the budget is 3; raise it"),
        ("What is it?", {"size": 3}, "mm_processor_kwargs has size; Penguin-VL knows max_tokens, allocation, policy"),
        ("What is <image>?", {}, "the text contains '<image>', which has a meaning of its own to the model"),
    ],
)
def test_bad_requests_get_one_sentence(client, reference, question, options, sentence):
    with pytest.raises(openai.BadRequestError) as refused:
        answer(client, question, [reference / "media" / "portrait.png"], **options)
    assert sentence in refused.value.body["message"]
    assert "Traceback" not in refused.value.body["message"]
