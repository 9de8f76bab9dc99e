"""Fixtures for evaluation tests: bags with numbered images, and a scripted model that reads the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from report_example import make

from penguin_engine.runtimes.base import RuntimeInfo, check_fits, segment_length
from penguin_ros.evaluation.report.page import render

START_NS = 1_700_000_000_000_000_000
SECOND = 10**9


def numbered(number, height=56, width=84):
    """Returns an image whose pixels all have the value of its number, from which `ScriptedRuntime` recognises it."""
    return np.full((height, width, 3), number, np.uint8)


@pytest.fixture
def picture_bag(bags):
    """Returns a function that writes a bag of numbered images from {topic: [(stamp in seconds, number), ...]}.

    Messages are recorded a short delay after their stamps.
    """

    def write(topics, name="bag", delay=0.02, **options):
        messages = {
            topic: [(at + delay, bags.raw(numbered(n), stamp_ns=START_NS + round(at * SECOND))) for at, n in pictures]
            for topic, pictures in topics.items()
        }
        return bags.write(messages, name=name, **options)

    return write


@dataclass
class ScriptedRuntime:
    """A runtime that recognises numbered images and computes its answer from the question and the numbers."""

    processor: object  # tokenizes answers
    answer: object  # function of the question and the numbers of the images in the prompt
    asked: list = field(default_factory=list)  # questions so far, each with the numbers in its prompt
    prompt: str = ""  # text of the prompt that is being answered
    encoded: int = 0  # number of images encoded so far
    work: object = lambda kind: None  # called with "encode" for each image, and with "append" for each append

    @property
    def info(self):
        return RuntimeInfo("scripted", "none", "float32", 40_960, self.processor.tokenizer.get_vocab_size())

    def encode(self, images):
        for _ in images:
            self.encoded += 1
            self.work("encode")
        return [_EncodedImage(image.tokens, round((float(image.patches.mean()) + 1) * 127.5)) for image in images]

    def open_cache(self, max_length):
        check_fits(max_length, 40_960, "the cache")
        return _ScriptedCache(self)

    def synchronize(self):
        pass


@dataclass(frozen=True)
class _EncodedImage:
    length: int
    number: int

    def part(self, start, stop):
        return _EncodedImage(stop - start, self.number)


class _ScriptedCache:
    def __init__(self, runtime):
        self._runtime = runtime
        self._items = []  # token ids and encoded images, each with its length in tokens
        self._answer_ids = None

    @property
    def length(self):
        return sum(tokens for _, tokens in self._items)

    def append(self, parts):
        self._runtime.work("append")
        for part in parts:
            if isinstance(part, _EncodedImage):
                self._items.append((part, part.length))
            else:
                self._items += [(token, 1) for token in part]
        ids = [item for item, _ in self._items if isinstance(item, int)]
        generating = len(parts) == 1 and segment_length(parts[0]) == 1 and self._answer_ids is not None
        if not generating:
            self._answer_ids = self._answer(ids)
        token = self._answer_ids.pop(0) if self._answer_ids else self._runtime.processor.end_token_ids[0]
        logits = np.zeros(self._runtime.info.vocab_size, np.float32)
        logits[token] = 1
        return logits

    def _answer(self, ids):
        text = self._runtime.processor.tokenizer.decode(ids, skip_special_tokens=False)
        if "<|im_end|>" not in text:
            return None  # the prompt has no question yet
        question = text.rsplit("<|im_end|>", 1)[0].rsplit("\n", 1)[-1]
        numbers = [item.number for item, _ in self._items if isinstance(item, _EncodedImage)]
        self._runtime.asked.append((question, numbers))
        self._runtime.prompt = text
        return self._runtime.processor.encode_text(self._runtime.answer(question, numbers))

    def truncate(self, length):
        while self.length > length:
            self._items.pop()
        assert self.length == length
        self._answer_ids = None

    def close(self):
        self._items = []


@pytest.fixture(scope="session")
def scripted(processor):
    """Returns a function that makes a `ScriptedRuntime`, which answers with the numbers it sees by default."""

    def make(answer=lambda question, numbers: " ".join(map(str, numbers))):
        return ScriptedRuntime(processor, answer)

    return make


def write_frames(folder):
    """Writes one frame of each camera to a results folder, and returns the folder."""
    (folder / "frames").mkdir()
    for name, colour in (("front", "tan"), ("rear", "gray")):
        Image.new("RGB", (320, 240), colour).save(folder / "frames" / f"{name}.jpg")
    return folder


@pytest.fixture
def result_folder(tmp_path):
    """Returns a results folder that contains one frame of each camera."""
    return write_frames(tmp_path)


@pytest.fixture(scope="session")
def two_methods(tmp_path_factory):
    """Returns the HTML report of a run with two methods and different verdicts."""
    return render([make({"memory": "rrwr", "last-4": "wrwr"})], [write_frames(tmp_path_factory.mktemp("results"))])
