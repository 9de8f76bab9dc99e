"""Clips through a robot's memory: the sequence that is learnt is the one that a session asks the model about."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scripted_runtime import ScriptedCache, ScriptedRuntime, ScriptedTokens

from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.chat import TURN_END
from penguin_models.errors import DataError, SettingError
from penguin_models.images import resize
from penguin_models.media import ClipFrame
from penguin_models.types import Frame, Size
from penguin_training.data.annotations import AnnotationFile, parse_annotation
from penguin_training.data.length_index import build_index, index_path, load_index
from penguin_training.data.media_reference import MediaReference
from penguin_training.data.memory_clips import POLICIES, draw_memory
from penguin_training.data.memory_turns import as_asked
from penguin_training.data.sample_reader import SampleReader
from penguin_training.settings.data import DataFile, DataSettings, MemorySettings

MEMORY = MemorySettings(
    token_budget=[150, 900],
    rate_hz=[0.7, 4.0],
    side=[120, 336],
    policies=["novelty", "reference"],
    arrivals=["full_size", "by_kind"],
)
START_S = 3.0


class SeenImage(ScriptedTokens):
    """The visual tokens of an image, which keep it."""

    def __init__(self, image):
        super().__init__(image.tokens)
        object.__setattr__(self, "image", image)


class RecordingCache(ScriptedCache):
    """Holds what the model would see: an id or an image for each token."""

    def __init__(self, runtime, max_length):
        super().__init__(runtime, max_length)
        self.content = []

    def truncate(self, length):
        super().truncate(length)
        del self.content[length:]

    def _extend(self, segments, new):
        for segment in segments:
            self.content += [segment.image] * segment.length if isinstance(segment, SeenImage) else segment
        if not isinstance(segments[-1], SeenImage) and new > 1:
            self._runtime.prompt = list(self.content)
        return super()._extend(segments, new)


class RecordingRuntime(ScriptedRuntime):
    """Remembers the last prompt."""

    def encode(self, images):
        return [SeenImage(image) for image in images]

    def open_cache(self, max_length):
        self.open_caches += 1
        return RecordingCache(self, max_length)


@pytest.fixture
def reader(processor):
    data = DataSettings(files=[DataFile("x")], memory=MEMORY)
    return SampleReader(processor, data, max_tokens=2048, max_visual_tokens=900, seed=4)


def moving(picture, seconds=14.0, rate_hz=4.0):
    """A clip of 170 x 230 pixels that changes now and then, with a gap of three seconds in it."""
    times = START_S + np.arange(0, seconds, 1 / rate_hz)
    return tuple(
        ClipFrame(float(t), picture(170, 230, seed=int(t * 0.7) + (t % 3 < 1))) for t in times if not 8 <= t < 11
    )


def about(clip, conversation, name="moving", independent=True):
    raw = {"video": "a clip", "independent_turns": independent, "conversations": conversation}
    annotation = parse_annotation(raw, Path(), name)
    return replace(annotation, media=(MediaReference(Path("a clip"), True, clip),))


def session_after(clip, drawn, processor, runtime):
    """A session that saw a clip as a camera shows it, and prefilled now and then."""
    session = SceneSession(runtime, processor, POLICIES[drawn.policy](), drawn.config)
    last = -1
    for time_s, rgb in clip:
        if (slot := int((time_s - START_S) * drawn.rate_hz + 1e-6)) == last:
            continue
        last = slot
        size = Size(*(round(side * drawn.side / 170) for side in rgb.shape[:2]))
        session.observe(Frame(resize(rgb, size), round(time_s * 1e9)))
        if slot % 3 == 0:
            session.prefill_pending()
    return session


def test_the_sequence_is_the_one_that_a_session_asks_about(reader, processor, picture, conversation):
    clip = moving(picture)
    turns = conversation(
        "<video>\nWhat is it?", "A red cube.", "Where does it\nstand?", "[it](1,2,30,40)", "So?", "No."
    )
    mixed = evicted = gaps = 0
    for number in range(9):
        sample = about(clip, turns, f"sample {number}")
        measured = reader.measure(sample)
        encoded = reader.encode(sample, measured)
        assert (len(encoded.ids), sum(image.tokens for image in encoded.images)) == (
            measured.tokens,
            measured.visual_tokens,
        )
        drawn = draw_memory(MEMORY, processor.images, sample.id, reader.seed)
        runtime = RecordingRuntime(processor)
        session = session_after(clip, drawn, processor, runtime)
        held = session.memory.frames
        mixed += len({frame.size for frame in held}) > 1
        evicted += held[0].seq > 0
        gaps += any(b.seq - a.seq > 1 for a, b in pairwise(held))
        at = shared = len(encoded.ids) - sum(encoded.turns)
        for question, answer, length in zip(turns[::2], turns[1::2], encoded.turns, strict=True):
            ids = [*encoded.ids[:shared], *encoded.ids[at : at + length]]
            learnt = encoded.labels[at : at + length]
            runtime.text = answer["value"]
            session.ask(Request.prepare(processor, question["value"].removeprefix("<video>\n")))
            asked = runtime.prompt
            assert [t if isinstance(t, int) else processor.image_token_id for t in asked] == ids[: len(asked)]
            end = processor.tokenizer.token_to_id(TURN_END)
            assert (
                learnt[learnt >= 0].tolist() == ids[len(asked) : -1] == [*processor.encode_text(answer["value"]), end]
            )
            seen = dict.fromkeys(t for t in asked if not isinstance(t, int))
            for ours, theirs in zip(encoded.images, seen, strict=True):
                assert (ours.grid, ours.merge_size) == (theirs.grid, theirs.merge_size)
                np.testing.assert_array_equal(ours.patches, theirs.patches)
            at += length
        session.close()
    assert mixed >= 3 and evicted >= 3 and gaps >= 3  # or the comparison says little


RANGE = "During the period {:.2f} - {:.2f} seconds."


@pytest.mark.parametrize(
    ("independent", "left", "dropped"), [(True, ["Late?", RANGE.format(0.5, 2), "Last?", "yes"], 3), (False, [], 5)]
)
def test_times_count_from_the_first_frame_held(conversation, independent, left, dropped):
    turns = conversation(
        *("When?<video>", RANGE.format(1, 7), "At 0:12?", "no", "Late?", RANGE.format(4.5, 6)),
        *("Last?", "yes", "And then?", "After 2 seconds it fell."),
    )
    messages = parse_annotation({"video": "x", "conversations": turns}, Path(), "x").messages
    shifted, count = as_asked(messages, 4.0, independent)
    texts = [m["content"] if m["role"] == "assistant" else m["content"][-1]["text"] for m in shifted]
    assert (texts, count) == (left, dropped)
    assert [part["type"] for m in shifted[::2] for part in m["content"]] == ["video", "text", "text"][: bool(left) * 3]
    unchanged, none = as_asked(messages, 0.0, independent)
    assert none == 0 and unchanged[0]["content"] == [{"type": "video"}, {"type": "text", "text": "When?"}]


def test_turns_left_out_are_counted_and_a_sample_without_turns_is_refused(reader, picture, conversation):
    clip = moving(picture)
    few = replace(reader, data=replace(reader.data, memory=replace(MEMORY, token_budget=[60, 60], side=[170, 170])))
    early = ("Before?", RANGE.format(3, 4))
    sample = few.through_memory(about(clip, conversation("<video>\nWhat?", "A cube.", *early)))
    assert sample.dropped_turns == few.encode(sample, few.measure(sample)).dropped_turns == 1
    assert few.through_memory(sample) is sample  # what a memory holds goes through none again
    with pytest.raises(DataError, match=r"all its questions name times before \d+\.\d s, .* raise data.memory.token_b"):
        few.measure(about(clip, conversation(f"<video>\n{early[0]}", early[1])))


def test_what_is_drawn_depends_on_the_sample_and_the_seed(reader, picture, conversation):
    def held(reader, name):
        sample = reader.through_memory(about(clip, conversation("<video>\nWhat?", "A cube."), name))
        return [(frame.time_s, frame.rgb.tobytes()) for frame in sample.media[0].frames]

    clip = moving(picture)
    first = held(reader, "a")
    assert held(reader, "a") == first
    assert held(reader, "b") != first and held(replace(reader, seed=5), "a") != first
    assert all(
        150 <= draw_memory(MEMORY, reader.processor.images, str(n), 0).config.token_budget <= 900 for n in range(50)
    )


def test_a_length_index_belongs_to_what_is_drawn(processor, drawn, jsonl, tmp_path, reader):
    for name in ("clips", "images"):
        (tmp_path / name).symlink_to(drawn / name)
    path = tmp_path / "few.jsonl"
    path.write_bytes((drawn / "few.jsonl").read_bytes())  # images, and a clip
    file = AnnotationFile(path)
    build_index(file, reader)
    index = load_index(file, reader)
    assert not index.unusable
    for row in range(len(file)):
        assert index[row] == reader.measure(file[row])
        again = reader.encode(file[row], index[row])
        assert len(again.ids) == index[row].tokens
    others = [
        replace(reader, seed=5),
        replace(reader, data=replace(reader.data, memory=None)),
        replace(reader, data=replace(reader.data, memory=replace(MEMORY, rate_hz=[1.0, 2.0]))),
    ]
    assert len({index_path(file, other) for other in (reader, *others)}) == 4
    for other in others:
        with pytest.raises(DataError, match="has no length index for these settings"):
            load_index(file, other)


def held_sample(conversation, sizes, more=()):
    frames = tuple(ClipFrame(0.5 * i, np.full((*size, 3), 40 * i, np.uint8)) for i, size in enumerate(sizes))
    sample = about((), conversation("<video>\nWhat?", "A cube."))
    return replace(sample, media=(MediaReference(Path("rendered"), True, frames, held=True), *more))


@pytest.mark.parametrize("memory", [None, MEMORY])
def test_frames_that_are_held_already_are_encoded_as_they_are(reader, processor, conversation, memory):
    reader = replace(reader, data=replace(reader.data, memory=memory))
    sample = held_sample(conversation, [(56, 84), (168, 196), (28, 28)])
    measured = reader.measure(sample)
    assert [image.tokens for image in reader.encode(sample, measured).images] == [6, 42, 1]
    assert (measured.visual_tokens, measured.patches, measured.media[0].times_s) == (49, 196, (0.0, 0.5, 1.0))
    with pytest.raises(DataError, match="a held frame has 60x56 pixels, but its sides must be multiples of 28"):
        reader.measure(held_sample(conversation, [(56, 84), (56, 60)]))
    with pytest.raises(DataError, match=r"have 961 visual tokens, the limit is 900: raise budgets.visual_tokens"):
        reader.measure(held_sample(conversation, [(868, 868)]))
    with pytest.raises(DataError, match="shows 2 images and videos; held frames must be shown alone"):
        reader.measure(held_sample(conversation, [(56, 84)], [MediaReference(Path("x.png"), False)]))


def test_samples_that_no_robot_would_be_asked_are_refused(reader, picture, conversation):
    clip = moving(picture)
    sample = about(clip, conversation("<video>\nWhat?", "A cube."))
    with pytest.raises(DataError, match=r"shows 2 images and videos, but data.memory shows one video alone"):
        reader.measure(replace(sample, media=sample.media * 2))
    system = ({"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *sample.messages)
    with pytest.raises(
        DataError, match="its first message is of the system, which a robot's prompt does not have; remove it"
    ):
        reader.measure(replace(sample, messages=system))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("rate_hz", [2.0, 1.0], r"rate_hz \[2.0, 1.0\] must be \[lowest, highest\]"),
        ("token_budget", [64, 129], r"data.memory.token_budget \[64, 129\] must not exceed budgets.visual_tokens 128"),
        ("side", [168], "data.memory.side"),
        ("arrivals", [], "data.memory.arrivals"),
    ],
)
def test_bad_settings_are_refused(values, parse, setting, value, message):
    memory = {"token_budget": [64, 128], "rate_hz": [1.0, 2.0], "policies": ["novelty"], "arrivals": ["full_size"]}
    values["data"]["memory"] = memory
    parse(values)
    with pytest.raises(SettingError, match=message):
        memory[setting] = value
        parse(values)
