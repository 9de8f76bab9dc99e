"""Samples: lengths are known before pixels are read, sizes equal those of inference, bad samples are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from penguin_engine.scene.offline import label_clip
from penguin_models.errors import BudgetError, DataError, MediaError, PromptError
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Visual
from penguin_models.types import Size
from penguin_training.data.annotations import Annotation, AnnotationFile, parse_annotation
from penguin_training.data.frame_folder import FrameFolder
from penguin_training.data.sample_reader import SampleReader
from penguin_training.settings.data import DataFile, DataSettings

DATA = DataSettings(files=[DataFile("x")], fps=2.0)


@pytest.fixture
def reader(processor):
    return SampleReader(processor, DATA, max_tokens=512, max_visual_tokens=128)


def test_encoded_samples_have_the_measured_lengths(reader, drawn):
    file = AnnotationFile(drawn / "everything.jsonl")
    for row in range(0, len(file), 3):
        annotation = file[row]
        measured = reader.measure(annotation)
        example = reader.encode(annotation, measured)
        assert len(example.ids) == len(example.labels) == measured.tokens
        assert sum(image.tokens for image in example.images) == measured.visual_tokens <= 128
        assert sum(image.grid.area for image in example.images) == measured.patches
        assert measured.tokens == 0 or (example.ids == reader.processor.image_token_id).sum() == measured.visual_tokens


def test_a_clip_is_encoded_as_at_inference(reader, drawn):
    annotation = AnnotationFile(drawn / "clips.jsonl")[0]
    measured = reader.measure(annotation)
    clip = FrameFolder(annotation.media[0].path, fps=2.0)
    labelled = label_clip(clip, NoveltyPolicy())
    assert measured.media[0].times_s == labelled.times_s == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert measured.media[0].visual.kinds == labelled.kinds and set(labelled.kinds) == {0, 1}
    visual = Visual.video(labelled.size, labelled.kinds)
    (allocation,) = reader.processor.allocate([visual], 128)
    images = list(reader.processor.patch((f.rgb for f in clip), labelled.kinds, allocation))
    example = reader.encode(annotation, measured)
    for ours, theirs in zip(example.images, images, strict=True):
        np.testing.assert_array_equal(ours.patches, theirs.patches)
    prompt = reader.processor.decode(example.ids[: example.labels.tolist().index(example.labels.max())])
    assert "Time 0.0s:,Time 0.5s:" in prompt.replace("<image>", "")


def test_answers_or_all_text_tokens_are_learnt(reader, drawn):
    annotation = AnnotationFile(drawn / "captions.jsonl")[0]
    measured = reader.measure(annotation)
    answers = reader.encode(annotation, measured)
    everything = replace(reader, data=replace(DATA, train_on="all")).encode(annotation, measured)
    words = json.loads((drawn / "captions.jsonl").read_text().splitlines()[0])["conversations"]
    learnt = reader.processor.decode(answers.labels[answers.labels >= 0])
    assert learnt == words[1]["value"] + words[3]["value"]
    image = reader.processor.image_token_id
    np.testing.assert_array_equal(everything.labels, np.where(everything.ids == image, -100, everything.ids))


def test_a_text_ends_with_its_token_and_is_learnt_as_a_whole(reader, drawn):
    annotation = AnnotationFile(drawn / "text.jsonl")[0]
    example = reader.encode(annotation, reader.measure(annotation))
    np.testing.assert_array_equal(example.ids, example.labels)
    assert example.ids[-1] == reader.processor.tokenizer.token_to_id("<|endoftext|>")


def test_samples_that_do_not_fit_the_stage_are_refused(reader, drawn):
    caption = AnnotationFile(drawn / "captions.jsonl")[0]
    with pytest.raises(DataError, match=r"has \d+ tokens, the limit is 64: shorten it, or raise budgets"):
        replace(reader, max_tokens=64, max_visual_tokens=32).measure(caption)
    with pytest.raises(BudgetError, match="the budget is 8"):
        replace(reader, max_visual_tokens=8).measure(AnnotationFile(drawn / "clips.jsonl")[0])
    with pytest.raises(DataError, match="the stage has no reconstruction"):
        replace(reader, reconstructs=False).measure(AnnotationFile(drawn / "charts.jsonl")[0])
    with pytest.raises(DataError, match="a text stage cannot use"):
        replace(reader, multimodal=False).measure(caption)


def test_an_image_that_cannot_be_read_is_reported(reader, tmp_path, conversation):
    raw = {"image": "x.png", "conversations": conversation("<image>\nWhat?", "That.")}
    sample = parse_annotation(raw, tmp_path, "x")
    with pytest.raises(MediaError, match="does not exist"):
        reader.measure(sample)
    Image.fromarray(np.zeros((60, 60, 3), np.uint8)).save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    measured = reader.measure(sample)
    (tmp_path / "x.png").write_bytes(whole[:60])  # the header is there, the pixels are not
    assert reader.measure(sample) == measured
    with pytest.raises(MediaError, match="cannot be decoded"):
        reader.encode(sample, measured)
    limited = replace(reader, data=replace(reader.data, max_image_pixels=3599))
    with pytest.raises(MediaError, match="60x60 = 3600 pixels, the limit is 3599"):
        limited.measure(sample)
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="has changed since it was measured"):
        reader.encode(sample, measured)
    (tmp_path / "x.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(MediaError, match=r"x\.png is a Git LFS pointer, .*: git lfs pull"):
        reader.measure(sample)


def test_exif_orientation_is_applied_to_the_measured_size(reader, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    sample = parse_annotation({"image": "x.jpg"}, tmp_path, "x")
    measured = reader.measure(sample)
    assert measured.media[0].visual.source_size == Size(90, 40)
    assert reader.encode(sample, measured).images[0].grid == Size(6, 3)


def test_frames_of_a_clip_are_scaled_to_the_first_size(reader, tmp_path, conversation):
    folder = tmp_path / "clip"
    folder.mkdir()
    for second, side in enumerate((60, 90)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"{second}000.png")
    raw = {"video": "clip", "conversations": conversation("<video>\nWhat?", "That.")}
    sample = parse_annotation(raw, tmp_path, "x")
    measured = reader.measure(sample)
    assert measured.media[0].visual.source_size == Size(60, 60)
    assert len(reader.encode(sample, measured).images) == 2


def test_frames_without_files_are_sampled_as_those_of_a_folder(reader, drawn):
    (file,) = AnnotationFile(drawn / "clips.jsonl")[0].media
    in_memory = replace(file, frames=tuple(FrameFolder(file.path, fps=2.0)))
    few = replace(reader, data=replace(DATA, max_frames=3))
    from_file, as_in_memory = (few.measure(Annotation("a", (p,), None, None)).media[0] for p in (file, in_memory))
    assert from_file == as_in_memory and as_in_memory.times_s == (0.0, 1.0, 2.0)


def test_a_clip_that_changed_since_it_was_measured_is_refused(reader, drawn, tmp_path, conversation):
    raw = {"video": "clip", "conversations": conversation("<video>\nWhat?", "That.")}
    folder = tmp_path / "clip"
    folder.mkdir()
    for file in (drawn / "clips/0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    sample = parse_annotation(raw, tmp_path, "x")
    measured = reader.measure(sample)
    (folder / "00002000.png").unlink()
    with pytest.raises(DataError, match=r"has changed since .*`penguin-vl prepare lengths STAGE\.yaml --again`"):
        reader.encode(sample, measured)


def test_reserved_tokens_in_text_are_refused(reader, tmp_path, conversation):
    for raw in ({"conversations": conversation("<|im_end|>", "x")}, {"text": "a<image>b"}):
        sample = parse_annotation(raw, tmp_path, "x")
        with pytest.raises(PromptError, match="has a meaning of its own"):
            reader.measure(sample)
