"""The contract of `Runtime` and `KVCache`, tested on every available runtime in float32 and float16."""

import gc
import importlib.util
import json
import shutil
import weakref
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tensorrt import write_plans
from safetensors.numpy import load_file

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.bench.parity import prepare_case
from penguin_engine.export.checkpoint_to_onnx import ExportOptions
from penguin_engine.export.checkpoint_to_onnx import export as export_checkpoint
from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import Generation, Sampling, generate
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.checkpoint import load_pretrained
from penguin_models.errors import ContextLengthError, DeviceMemoryError, NonFiniteError
from penguin_models.images import patch_image
from penguin_models.media import load_image
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame, Size

TOLERANCE = 2e-4
RUNTIMES = [
    "torch",
    "torch recorded",  # decoding steps in the fixed shapes that CUDA graphs need, without recording
    *(f"onnx {profile}" for profile in ("portable", "onnxruntime")),
    "tensorrt portable",
    # Our code of the tensorrt runtime on stand-ins for TensorRT and CUDA, see tests/support.
    "stand-in portable",
]
MAX_TOKENS = 3072
SHIPPED = Path(__file__).parents[3] / "models" / "penguin-tiny"


@pytest.fixture(scope="module")
def opener(stand_in, tmp_path_factory):
    """Returns a function that opens a checkpoint on a named runtime; `export` returns an exported folder."""
    real_tensorrt = importlib.util.find_spec("tensorrt") is not None

    def make(checkpoint, export, name, dtype="float32"):
        kind, _, profile = name.partition(" ")
        if kind == "tensorrt" and not real_tensorrt:
            pytest.skip("needs tensorrt and a GPU")
        if kind == "torch":
            record = (lambda work: work) if profile == "recorded" else None
            model, processor = load_pretrained(checkpoint, dtype)
            return TorchRuntime(model, record), processor
        if kind == "onnx":
            return open_runtime("onnx", export(profile, dtype))
        folder = shutil.copytree(export(profile, dtype), tmp_path_factory.mktemp("built") / "model")
        if kind == "stand-in":
            stand_in()
            write_plans(folder, PlanLimits(MAX_TOKENS))
        else:
            from penguin_engine.runtimes.tensorrt.build import build

            build(folder, flavour.load("tensorrt"), limits=PlanLimits(MAX_TOKENS))
        return open_runtime("tensorrt", folder, "cuda")

    return make


@pytest.fixture(scope="module")
def open_any(opener, checkpoint, exported):
    def export(profile, dtype):
        return exported(profile=profile, dtype=dtype)

    return lambda name, dtype="float32": opener(checkpoint, export, name, dtype)[0]


@pytest.fixture(scope="module")
def open_shipped(opener, tmp_path_factory):
    @lru_cache
    def export(profile, dtype):
        folder = tmp_path_factory.mktemp("shipped") / "model"
        export_checkpoint(SHIPPED, folder, ExportOptions(profile, dtype, samples=drawn_samples(4)))
        return folder

    return lambda name: opener(SHIPPED, export, name)


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request, open_any):
    return open_any(request.param)


@pytest.fixture(scope="module")
def torch_runtime(open_any):
    return open_any("torch")


@pytest.fixture(scope="module")
def images(processor):
    random = np.random.default_rng(0)
    shapes = ((56, 84, 2), (70, 42, 1), (112, 112, 2), (84, 56, 2))
    return [
        patch_image(random.integers(0, 256, (h, w, 3), dtype=np.uint8), Size(h, w), m, processor.images)
        for h, w, m in shapes
    ]


TEXTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15]]


@pytest.fixture
def cache(runtime):
    cache = runtime.open_cache(200)
    yield cache
    cache.close()


def test_info_describes_the_model(runtime):
    info = runtime.info
    length, device = (MAX_TOKENS, "cuda:0") if info.name == "tensorrt" else (40_960, "cpu")
    assert (info.context_length, info.vocab_size) == (length, 1536)
    assert (info.dtype, info.device) == ("float32", device)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(runtime, images, cache, value):
    cache.append([[5, 6]])
    (tokens,) = runtime.encode([replace(images[0], patches=np.full_like(images[0].patches, value))])
    with pytest.raises(NonFiniteError, match=r"not finite in float32: check its weights .* bfloat16 or float32"):
        cache.append([tokens, [7]])
    assert cache.length == 2


def test_logits_match_torch(runtime, torch_runtime, images, cache):
    expected = torch_runtime.open_cache(200).append(interleave(TEXTS, torch_runtime.encode(images)))
    logits = cache.append(interleave(TEXTS, runtime.encode(images)))
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["image_tabletop", "image_portrait", "video_compressed"])
def test_logits_and_tokens_match_the_authors(runtime, processor, reference, name):
    case = json.loads((reference / "expected.json").read_text())[name]
    expected = load_file(reference / "expected.safetensors")
    images, conversation, _ = prepare_case(processor, reference / "media", case)
    tokens = expected[f"{name}.generated"][0].tolist()
    texts = processor.prompt_segments(conversation)
    cache = runtime.open_cache(sum(map(len, texts)) + sum(image.tokens for image in images) + len(tokens))
    logits = cache.append(interleave(texts, runtime.encode(images)))
    np.testing.assert_allclose(logits, expected[f"{name}.logits_last8"][0, -1], atol=TOLERANCE, rtol=0)
    assert greedy(cache, logits, processor, len(tokens)) == tokens


def greedy(cache, logits, processor, steps):
    generation = Generation()
    list(generate(cache, logits, processor, Sampling(max_new_tokens=steps), generation))
    return generation.ids + [processor.end_token_ids[0]] * (generation.ended_by == "end")


def test_next_32_tokens_match_torch(runtime, torch_runtime, images, processor):
    answers = []
    for each in (runtime, torch_runtime):
        cache = each.open_cache(200)
        logits = cache.append(interleave(TEXTS, each.encode(images)))
        tokens = []
        for _ in range(32):
            tokens.append(int(logits.argmax()))
            logits = cache.append([tokens[-1:]])
        answers.append(tokens)
        cache.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", RUNTIMES)
def test_next_32_tokens_of_the_shipped_checkpoint_match_torch(name, open_shipped, reference):
    """Compares float32 tokens about a picture, also beyond the end of the answer."""
    answers = []
    for each in ("torch", name):
        runtime, processor = open_shipped(each)
        content = [{"type": "image"}, {"type": "text", "text": "What is on the table?"}]
        texts = processor.prompt_segments([{"role": "user", "content": content}])
        picture = load_image(reference / "media" / "tabletop.png")
        image = patch_image(picture, Size(224, 224), 1, processor.images)
        cache = runtime.open_cache(400)
        logits, tokens = cache.append(interleave(texts, runtime.encode([image]))), []
        for _ in range(32):
            tokens.append(int(logits.argmax()))
            logits = cache.append([tokens[-1:]])
        answers.append(tokens)
        cache.close()
    assert answers[0] == answers[1]


def test_visual_tokens_do_not_depend_on_the_batch(runtime, images, cache):
    together = runtime.encode(images)
    assert [tokens.length for tokens in together] == [image.tokens for image in images]
    expected = cache.append(interleave(TEXTS, together))
    cache.truncate(0)
    alone = [runtime.encode([image])[0] for image in images]
    np.testing.assert_allclose(cache.append(interleave(TEXTS, alone)), expected, atol=TOLERANCE)


def test_encoding_no_images_returns_nothing(runtime):
    assert runtime.encode([]) == []


def test_logits_do_not_depend_on_how_the_prompt_is_appended(runtime, images, cache):
    segments = interleave(TEXTS, runtime.encode(images))
    expected = cache.append(segments)
    length = cache.length
    assert expected.shape == (1536,) and expected.dtype == np.float32
    cache.truncate(0)
    for segment in segments:
        logits = cache.append([segment])
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
    assert cache.length == length == 11 + sum(image.tokens for image in images)


def test_later_steps_do_not_overwrite_returned_logits(runtime, cache):
    first = cache.append([[1, 2, 3]])
    copy = first.copy()
    cache.append([[4]])
    np.testing.assert_array_equal(first, copy)


def test_prefix_is_reused_after_truncation(runtime, images, cache):
    segments = interleave(TEXTS, runtime.encode(images))
    cache.append(segments)
    prefix = cache.length
    answers = []
    for question in ([20, 21, 22], [30], [20, 21, 22]):
        answers.append(cache.append([question]))
        cache.truncate(prefix)
    np.testing.assert_array_equal(answers[0], answers[2])
    fresh = runtime.open_cache(200)
    np.testing.assert_allclose(fresh.append([*segments, [30]]), answers[1], atol=TOLERANCE)


def test_appending_several_chunks_at_once(runtime):
    """More tokens than one chunk give the same logits, on an empty cache and after a prefix."""
    ids = np.random.default_rng(0).integers(0, 1400, 1300).tolist()
    whole, halves = runtime.open_cache(1300), runtime.open_cache(1300)
    expected = whole.append([ids])
    halves.append([ids[:100]])
    np.testing.assert_allclose(halves.append([ids[100:]]), expected, atol=TOLERANCE)


def test_long_context_matches_torch(runtime, torch_runtime):
    ids = np.random.default_rng(1).integers(0, 1400, 3000).tolist()
    ours, theirs = runtime.open_cache(3002), torch_runtime.open_cache(3002)
    for segments in ([ids], [[7]], [[8]]):
        np.testing.assert_allclose(ours.append(segments), theirs.append(segments), atol=TOLERANCE)
    ours.close()


def test_overflow_is_an_error_and_appends_nothing(runtime, cache):
    cache.append([[1] * 150])
    before = cache.append([[2]])
    with pytest.raises(ContextLengthError, match="needs 211 tokens, 11 more than the 200"):
        cache.append([[3] * 60])
    assert cache.length == 151
    cache.truncate(150)
    np.testing.assert_array_equal(cache.append([[2]]), before)


def test_cache_can_be_filled_to_the_last_token(runtime, cache):
    cache.append([[1] * 199])
    cache.append([[2]])
    assert cache.length == 200
    with pytest.raises(ContextLengthError, match="1 more"):
        cache.append([[3]])


def test_cache_beyond_the_context_length_is_refused(runtime):
    longest = runtime.info.context_length
    with pytest.raises(ContextLengthError, match=f"needs {longest + 1} tokens, 1 more than the {longest}"):
        runtime.open_cache(longest + 1)


def test_two_caches_are_independent(runtime):
    first, second = runtime.open_cache(50), runtime.open_cache(50)
    a, b = first.append([[1, 2, 3]]), second.append([[4, 5, 6]])
    first.append([[7]])
    first.truncate(2)
    second.truncate(2)
    np.testing.assert_allclose(second.append([[6]]), b, atol=TOLERANCE)
    np.testing.assert_allclose(first.append([[3]]), a, atol=TOLERANCE)


def test_two_sessions_are_independent(runtime, processor, picture):
    """Each session answers about its own camera, and as it would alone."""
    config = MemoryConfig(token_budget=120)
    request = Request.prepare(processor, "what is there?", Sampling(max_new_tokens=8))

    def observe(session, camera):
        for number in range(3):
            session.observe(Frame(picture(84, 112, seed=10 * camera + number), number * 10**9))
            session.prefill_pending()

    def answer(session):
        return session.ask(request).raw

    sessions = [SceneSession(runtime, processor, NoveltyPolicy(), config) for _ in range(2)]
    for camera, session in enumerate(sessions):
        observe(session, camera)
    together = [answer(session) for session in sessions]
    for session in sessions:
        session.close()
    for camera in range(2):
        alone = SceneSession(runtime, processor, NoveltyPolicy(), config)
        observe(alone, camera)
        assert answer(alone) == together[camera]
        alone.close()


def test_closed_cache_can_be_replaced_but_not_used(runtime):
    cache = runtime.open_cache(10)
    expected = cache.append([[1, 2]])
    cache.close()
    cache.close()
    np.testing.assert_array_equal(runtime.open_cache(10).append([[1, 2]]), expected)
    with pytest.raises(AssertionError, match="the cache is closed"):
        cache.append([[1]])


@pytest.mark.parametrize("name", RUNTIMES)
def test_close_frees_the_model(name, open_any):
    runtime = open_any(name)
    cache = runtime.open_cache(10)
    cache.append([[1, 2]])
    model = weakref.ref(runtime._model if name.startswith("torch") else runtime._decoder)
    cache.close()
    runtime.close()
    runtime.close()
    gc.collect()
    assert model() is None
    assert runtime.info.vocab_size == 1536
    for use in (lambda: runtime.open_cache(10), lambda: runtime.encode([])):
        with pytest.raises(AssertionError, match="the runtime is closed"):
            use()


@pytest.mark.parametrize("name", RUNTIMES)
def test_float16_is_close_to_float32(name, open_any, torch_runtime, images):
    """Needs a cosine of 0.999 and a norm within 1 %, over a prompt with images and over a decoding step."""
    runtime = open_any(name, "float16")
    assert runtime.info.dtype == "float16"
    ours, theirs = runtime.open_cache(200), torch_runtime.open_cache(200)
    for segments in (None, [[3]]):
        a, b = (
            cache.append(segments or interleave(TEXTS, each.encode(images)))
            for cache, each in ((ours, runtime), (theirs, torch_runtime))
        )
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        assert a @ b / (lengths[0] * lengths[1]) > 0.999
        assert abs(lengths[0] / lengths[1] - 1) < 0.01


def test_append_without_memory_leaves_the_cache_unchanged(model, processor, picture):
    """Memory runs out in the second layer, when the first layer has already grown."""
    runtime, patched = TorchRuntime(model), patch_image(picture(28, 42), Size(28, 42), 1, processor.images)
    full = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has 2 GiB of which 0 is free. No."
    )

    def refuse(module, *args):
        raise full

    cache = runtime.open_cache(64)
    expected = cache.append([[5, 6, 7], [8]])
    cache.truncate(3)
    hook = model.language_model.model.layers[1].register_forward_pre_hook(refuse)
    with pytest.raises(
        DeviceMemoryError, match=r"cache of 64 tokens, 4 of them .* 0 is free\. Use fewer visual tokens"
    ):
        cache.append([[8]])
    hook.remove()
    assert cache.length == 3
    np.testing.assert_allclose(cache.append([[8]]), expected, atol=TOLERANCE)
    hook = model.vision_encoder.register_forward_pre_hook(refuse)
    with pytest.raises(
        DeviceMemoryError, match="encoding 6 patches on cpu does not fit into memory: CUDA out of memory"
    ):
        runtime.encode([patched])
    hook.remove()
