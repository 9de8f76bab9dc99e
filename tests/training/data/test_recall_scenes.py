"""Recordings as training samples: what the memory holds, what an answer from episodes shows, and what helps."""

import pickle
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from penguin_models.grounding import parse
from penguin_models.judge import judge_segments
from penguin_models.types import Frame, FrameKind
from penguin_models.watch import watch_question
from penguin_tabletop.clips.events import Event
from penguin_training.data.memory_clips import draw_memory
from penguin_training.data.recall_scenes import EventPolicy, RecallScenes
from penguin_training.data.sample_reader import SampleReader
from penguin_training.data.tabletop_source import SceneSource
from penguin_training.settings.data import DataFile, DataSettings, MemorySettings, TabletopScenes

pytest.importorskip("pybullet", reason="PyBullet is not installed: pip install pybullet")

MEMORY = MemorySettings(
    token_budget=[500, 500], rate_hz=[1.0, 1.0], policies=["novelty"], arrivals=["full_size"], side=[168, 168]
)
SCENES = TabletopScenes(scenes=9, mixture={"recall": 1, "shown": 1, "judge": 1}, turns=6, seconds=[30, 60])


@pytest.fixture(scope="module")
def processor(processor):
    """Frames of 36 visual tokens shrink to 16, as with penguin-tiny."""
    return replace(processor, images=replace(processor.images, min_tokens=8))


@pytest.fixture(scope="module")
def scenes(processor):
    def draw(sample):
        return draw_memory(MEMORY, processor.images, sample, 0)

    return RecallScenes(0, (30.0, 60.0), 6, draw, conditions=3)


@pytest.fixture(scope="module")
def reader(processor):
    data = DataSettings(files=[DataFile(tabletop=SCENES)], streamed=True, memory=MEMORY)
    return SampleReader(processor, data, 2048, 1024)


def question_and_answers(sample):
    texts = [next(part["text"] for part in m["content"] if part["type"] == "text") for m in sample.messages[::2]]
    return list(zip(texts, [message["content"] for message in sample.messages[1::2]], strict=True))


def test_a_recording_is_shown_as_the_memory_holds_it(scenes, reader):
    sizes, times, judged = Counter(), 0, Counter()
    for number in range(5):
        sample = scenes.read(number, "recall")
        frames = sample.media[0].frames
        measured = reader.measure(sample)
        assert measured.visual_tokens <= 500 and frames[0].time_s == 0.0
        sizes.update(frame.rgb.shape[:2] for frame in frames)
        assert reader.encode(sample, measured).turns
        for question, answer in question_and_answers(sample):
            judged.update([str(answer)] if question == watch_question(question.split("\n")[0]) else [])
            for span in parse(str(answer)).time_ranges:
                times += 1
                assert 0 <= span.start_s < span.end_s <= 60, question
                assert any(span.start_s - 1 <= frame.time_s <= span.end_s + 1 for frame in frames)
    assert set(sizes) == {(168, 168), (112, 112)} and times
    assert set(judged) == {"yes", "no"}


def test_episodes_are_shown_before_the_newest_frames_of_hours(scenes, reader):
    gaps = []
    for number in range(4):
        sample = scenes.read(number, "shown")
        stamps = [frame.time_s for frame in sample.media[0].frames]
        assert stamps == sorted(stamps) and len(stamps) <= 12
        assert reader.measure(sample).visual_tokens <= 500
        gaps.append(max((b - a for a, b in pairwise(stamps)), default=0.0))
    assert max(gaps) > 60


def test_a_picture_is_judged_with_the_prompt_of_inference(scenes, reader, processor):
    answers = Counter()
    for number in range(12):
        sample = scenes.read(number, "judge")
        (text, answer), encoded = question_and_answers(sample)[0], reader.encode(sample, reader.measure(sample))
        question = text.removesuffix("\nDoes this picture help to answer the question? Answer yes or no.")
        before, after = judge_segments(processor, question)
        (image,) = encoded.images
        ids = encoded.ids.tolist()
        assert question != text and image.tokens == 16
        assert ids[: len(before) + 16 + len(after)] == [*before, *[processor.image_token_id] * 16, *after]
        answers.update([str(answer)])
    assert set(answers) == {"yes", "no"}


def test_samples_are_drawn_by_number_in_any_process(processor):
    source = SceneSource(SCENES, 2.0, MEMORY, processor.images, 0)
    again = pickle.loads(pickle.dumps(source))
    families = Counter()
    for number in range(5):
        ours, theirs = source.read(number), again.read(number)
        families.update([re.match(r"[a-z]+", ours.id)[0]])
        assert (ours.id, ours.messages) == (theirs.id, theirs.messages)
        assert all((a.rgb == b.rgb).all() for a, b in zip(ours.media[0].frames, theirs.media[0].frames, strict=True))
    assert len(families) > 1


def test_recordings_need_a_memory():
    with pytest.raises(ValueError, match="the families recall, shown, judge need memory"):
        DataSettings(files=[DataFile(tabletop=SCENES)], streamed=True)


@pytest.mark.parametrize("seconds", [[5, 60], [900, 10], [10, 90_000]])
def test_impossible_lengths_of_recordings_are_refused(seconds):
    with pytest.raises(ValueError, match=r"must be \[shortest, longest\] from 10 to 14400"):
        TabletopScenes(scenes=9, seconds=seconds)


def test_keyframes_are_those_in_which_something_moves_or_has_come_to_rest():
    policy = EventPolicy([Event("moved", 2.2, 3.4, 0, "red cube")])
    kinds = [policy.observe(Frame(np.zeros((1, 1, 3), np.uint8), second * 10**9)) for second in range(7)]
    assert [second for second, kind in enumerate(kinds) if kind == FrameKind.KEY] == [0, 3, 4]
