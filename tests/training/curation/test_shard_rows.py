import json

import numpy as np
import pytest
from curation_samples import encoded, picture, write_tar

from penguin_models.errors import DataError
from penguin_training.curation.inspection import decoded
from penguin_training.curation.shards import SAMPLES_PER_SHARD, find_shards

JPEG = encoded(picture(1))


def of_tar(folder):
    files = [("a/1.jpg", JPEG), ("a/1.json", b"{}"), ("a/2.png", b"no image"), ("3.txt", b"words"), ("4.0.jpg", JPEG)]
    write_tar(folder / "x.tar", [*files, ("4.1.webp", encoded(picture(2), "WEBP"))])
    return ["a/1", "a/2", "3", "4"], [1, "bytes are no image", "no image or video, only 3.txt", 2]


def of_broken_tar(folder):
    write_tar(folder / "x.tar", [("1.jpg", JPEG), ("2.jpg", JPEG)])
    whole = (folder / "x.tar").read_bytes()
    (folder / "x.tar").write_bytes(whole[: 512 + len(JPEG)])
    return ["x.tar, sample 1 from 0"], ["x.tar breaks off here"]


def of_table(folder):
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "p.jpg").write_bytes(JPEG)
    rows = [
        {"id": "1", "image": {"bytes": JPEG, "path": None}, "text": "one"},
        {"id": "2", "image": {"bytes": b"?", "path": None}, "text": "two"},
        {"id": None, "image": {"bytes": None, "path": "p.jpg"}, "text": None},
        {"id": "4", "image": None, "text": "four"},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "x.parquet", row_group_size=3)
    return ["1", "2", "x.parquet:3", "4"], [1, "bytes are no image", 1, "no image or video: columns id, image, text"]


def of_lines(folder):
    (folder / "p.jpg").write_bytes(JPEG)
    samples = [
        {"id": "1", "image": "p.jpg", "caption": "other forms have media, too"},
        {"id": 2, "image": "missing.jpg"},
        {"id": "3", "text": "words"},
        {"id": "4", "messages": [{"role": "user", "content": [{"type": "image", "image": "p.jpg"}]}]},
    ]
    lines = [json.dumps(sample) for sample in samples]
    (folder / "x.jsonl").write_text("\n\n".join([*lines, "{not JSON"]) + "\n")
    return ["1", "2", "3", "4", "x.jsonl, sample 5 from 0"], [1, "does not exist", "none of media", 1, "not JSON"]


def of_list(folder):
    (folder / "p.jpg").write_bytes(JPEG)
    (folder / "x.json").write_text(json.dumps([{"id": "1", "images": ["p.jpg", "p.jpg"]}, 5]))
    return ["1", "x.json:2"], [2, "must be an object, not 5"]


def of_pictures(folder):
    (folder / "below").mkdir()
    (folder / "below" / "1.jpg").write_bytes(JPEG)
    (folder / "2.png").write_bytes(b"")
    return ["2.png", "1.jpg"], ["is empty", 1]


@pytest.mark.parametrize("made", [of_tar, of_broken_tar, of_table, of_lines, of_list, of_pictures])
def test_a_bad_sample_is_named_and_the_others_are_read(made, tmp_path):
    names, expected = made(tmp_path)
    found = [item for shard in find_shards([tmp_path]) for item in decoded(shard)]
    assert [name for _, name, _ in found] == names
    for (_, _, views), outcome in zip(found, expected, strict=True):
        if isinstance(outcome, int):
            assert [rgb.shape for rgb in views.images] == [(96, 96, 3)] * outcome
        else:
            assert outcome in str(views)


def test_shards_of_lines_hold_every_sample_once(tmp_path):
    count = 2 * SAMPLES_PER_SHARD + 3
    (tmp_path / "p.jpg").write_bytes(JPEG)
    text = "".join(f'{{"id": "{number}", "image": "p.jpg"}}\n' + "\n" * (number % 2) for number in range(count))
    (tmp_path / "x.jsonl").write_text(text)
    shards = find_shards([tmp_path / "x.jsonl"])
    assert len(shards) == 3
    found = [name for shard in shards for _, name, _ in decoded(shard, {0, SAMPLES_PER_SHARD - 1})]
    assert found == ["0", "999", "1000", "1999", "2000"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none"], "none does not exist"),
        (["."], r"holds no .tar, .parquet, .jsonl, .json or image files"),
        (["x.zip"], r"ends with '.zip', but .tar"),
        (["x.parquet"], "is no Parquet file"),
        (["x.tar", "x.tar"], "twice"),
    ],
)
def test_inputs_that_cannot_be_used(names, message, tmp_path):
    for name in names:
        if "x." in name:
            (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=message):
        find_shards([tmp_path / name for name in names])


def test_a_clip_in_an_archive_is_read(tmp_path):
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 96
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(picture(number // 6), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_tar(tmp_path / "x.tar", [("1.mp4", (tmp_path / "clip.mp4").read_bytes()), ("2.mp4", b"no clip")])
    (_, _, clip), (_, _, fault) = decoded(find_shards([tmp_path / "x.tar"])[0])
    assert clip.clips == [len(clip.images)] and 4 <= len(clip.images) <= 8
    assert np.abs(clip.images[0].astype(int) - picture(0)).mean() < 20
    assert "2.mp4" not in str(clip) and "video" in str(fault)
