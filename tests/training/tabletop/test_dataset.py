"""Samples by number: reproducible, in the annotation format, with masks that agree with the boxes."""

import pickle
from collections import Counter

import numpy as np
import pytest

from penguin_models.errors import TabletopError
from penguin_models.grounding import Box
from penguin_models.types import Size
from penguin_tabletop.dataset import CLASSES, Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.seeds import Split

SIZE = Size(112, 112)
ONLY = {
    family: Mixture(**{**dict.fromkeys(("image", "pair", "clip", "chart", "text"), 0.0), family: 1.0})
    for family in ("image", "pair", "clip", "chart", "text")
}


def settings(**changes):
    return TabletopSettings(**{"size": SIZE, "fps": 1.0, "seconds": 8.0, **changes})


@pytest.fixture
def dataset():
    return TabletopDataset(settings())


def content(sample):
    return sample.id, sample.conversations, sample.truth(), [frame.tobytes() for frame in sample.frames]


def test_a_number_gives_the_same_sample_in_any_order_and_process(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    numbers = [0, 9, 4, 0]
    assert [content(dataset[n]) for n in numbers] == [content(copy[n]) for n in numbers]


def test_splits_and_bases_have_different_samples():
    samples = [
        TabletopDataset(settings(split=split, base=base, mixture=ONLY["chart"]))[0]
        for split in Split
        for base in (0, 1)
    ]
    assert len({sample.id for sample in samples}) == len({sample.frames[0].tobytes() for sample in samples}) == 6
    assert [sample.seed & 3 for sample in samples] == [split for split in Split for _ in range(2)]


@pytest.mark.parametrize(
    ("family", "opening", "frames"),
    [("image", "<image>\n", 1), ("pair", "<image>\n<image>\n", 2), ("clip", "<video>\n", 8), ("text", "", 0)],
)
def test_conversations_are_in_the_annotation_format(family, opening, frames):
    dataset = TabletopDataset(settings(mixture=ONLY[family], turns=3))
    for sample in map(dataset.__getitem__, range(3)):
        said = sample.conversations
        assert len(sample.frames) == frames and len(sample.truths) == (0 if family == "text" else frames)
        assert [message["from"] for message in said] == ["human", "gpt"] * len(sample.turns)
        assert 1 <= len(sample.turns) <= 3
        texts = [message["value"] for message in said]
        assert texts[0].startswith(opening) and "<" not in "".join(texts).removeprefix(opening)
        assert all(text == text.strip() and text for text in texts)
        assert len(sample.annotation()["expected"]) == len(sample.turns)


def test_charts_have_no_conversation():
    sample = TabletopDataset(settings(mixture=ONLY["chart"]))[0]
    assert sample.frames[0].shape == (112, 112, 3) and sample.conversations == [] and not sample.classes


def test_masks_show_the_classes_of_the_objects():
    dataset = TabletopDataset(settings(mixture=ONLY["image"]))
    for sample in map(dataset.__getitem__, range(4)):
        (truth,), (classes,) = sample.truths, sample.classes
        shown = {CLASSES[index] for index in np.unique(classes)} - {"nothing"}
        assert shown == {f"{item.colour or 'any'} {item.kind}" for item in truth.objects}
        for item in truth.objects:
            if sum((o.colour, o.kind) == (item.colour, item.kind) for o in truth.objects) > 1:
                continue
            rows, columns = np.nonzero(classes == CLASSES.index(f"{item.colour or 'any'} {item.kind}"))
            box = Box.from_pixels(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, SIZE)
            assert all(abs(getattr(box, side) - getattr(item.box, side)) < 25 for side in ("x1", "y1", "x2", "y2"))
    assert len(CLASSES) < 256


def test_families_occur_as_often_as_the_mixture_says():
    mixture = Mixture(image=0, pair=0, clip=0, chart=1, text=3)
    dataset = TabletopDataset(settings(mixture=mixture))
    families = Counter(dataset[number].family for number in range(120))
    assert set(families) == {"chart", "text"} and 65 < families["text"] < 110


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": -1}, "base -1 must not be negative"),
        ({"size": Size(10, 10)}, "10x10 must be between"),
        ({"fps": 0.1}, "fps 0.1 must be from 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(TabletopError, match=message):
        settings(**changes)


@pytest.mark.parametrize("weights", [{"image": -1.0}, dict.fromkeys(ONLY, 0.0)])
def test_mixtures_without_positive_weights_are_refused(weights):
    with pytest.raises(TabletopError, match="must not be negative"):
        Mixture(**weights)
