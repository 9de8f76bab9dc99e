"""Recordings yield the images of a bag in the order of their stamps."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.evaluation.bags.recording import open_recording
from penguin_ros.recording import bag_name

START_NS = 1_700_000_000_000_000_000
SECOND = 10**9
CAMERA = "/camera"


def numbers(images):
    return [round(image.load().rgb.mean()) for image in images]


def seconds(refs):
    return [(ref.stamp_ns - START_NS) / SECOND for ref in refs]


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        ("sqlite3", "none"),
        ("sqlite3", "file"),
        ("sqlite3", "message"),
        ("mcap", "none"),
        ("mcap", "file"),
        ("mcap", "message"),
        ("mcap", "storage"),
    ],
)
def test_images_are_read_with_their_stamps(picture_bag, storage, compression):
    bag = picture_bag({CAMERA: [(0, 5), (0.5, 6), (1, 7)]}, storage=storage, compression=compression)
    recording = open_recording(bag, [None])
    assert recording.cameras == (CAMERA,) and recording.name == "bag" and recording.unstamped == {}
    assert seconds(recording.images) == [0, 0.5, 1]
    frames = [image.load() for image in recording.read()]
    assert [frame.stamp_ns for frame in frames] == [ref.stamp_ns for ref in recording.images]
    assert [frame.camera for frame in frames] == [CAMERA] * 3
    assert numbers(recording.read()) == [5, 6, 7]
    assert recording.span_ns(CAMERA) == (START_NS, START_NS + SECOND)


def test_one_of_several_cameras_must_be_chosen(picture_bag):
    bag = picture_bag({"/a": [(0, 1)], "/b": [(0, 2)]})
    with pytest.raises(EvaluationError, match="has several image topics, choose one with --camera: /a, /b"):
        open_recording(bag, [None])


def test_images_of_several_cameras_are_ordered_by_stamp(picture_bag):
    bag = picture_bag({"/a": [(0, 1), (1, 3)], "/b": [(0.4, 2), (1.5, 4)], "/c": [(0.2, 9)]})
    recording = open_recording(bag, ["/b", "/a"])
    assert [ref.camera for ref in recording.images] == ["/a", "/b", "/a", "/b"]
    assert numbers(recording.read()) == [1, 2, 3, 4]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(delays=st.lists(st.floats(0, 0.9), min_size=1, max_size=12), selected=st.sets(st.integers(0, 11)))
def test_images_recorded_out_of_order_are_read_in_stamp_order(bags, tmp_path_factory, delays, selected):
    """Images stamped every 0.1 s are recorded up to 0.9 s late; all of them and a selection are read."""
    messages = []
    for number, delay in enumerate(delays):
        at = 0.1 * number
        messages.append((at + delay, bags.raw(_grey(number), stamp_ns=START_NS + round(at * SECOND))))
    name = str(tmp_path_factory.mktemp("bags").relative_to(tmp_path_factory.getbasetemp()))
    bag = bags.write({CAMERA: sorted(messages, key=lambda item: item[0])}, name=f"{name}-bag")
    recording = open_recording(bag, [CAMERA])
    assert numbers(recording.read()) == list(range(len(delays)))
    chosen = [ref for number, ref in enumerate(recording.images) if number in selected]
    assert numbers(recording.read(chosen)) == sorted(number for number in selected if number < len(delays))


def _grey(number):
    return np.full((8, 8, 3), number, np.uint8)


def test_images_without_a_stamp_count_at_their_recording_time(bags):
    bag = bags.write({CAMERA: [(0, bags.raw(_grey(1))), (2, bags.raw(_grey(2)))]})
    recording = open_recording(bag, [None])
    assert recording.unstamped == {CAMERA: 2}
    assert [ref.stamp_ns for ref in recording.images] == [ref.recorded_ns for ref in recording.images]


def test_messages_sorted_by_the_writer_are_accepted(picture_bag):
    bag = picture_bag({CAMERA: [(0, 1), (5, 2)]})
    assert len(open_recording(bag, [None]).images) == 2
    looped = picture_bag({CAMERA: [(0, 1), (5, 2), (6, 3), (0.5, 4)]}, name="looped", delay=0)
    assert len(open_recording(looped, [None]).images) == 4  # the writer sorted them


def test_a_jump_back_in_time_is_an_error(bags):
    messages = [(i, bags.raw(_grey(i), stamp_ns=START_NS + (i % 3) * SECOND)) for i in range(5)]
    bag = bags.write({CAMERA: messages})
    with pytest.raises(EvaluationError, match=r"time jumps back by 2.0 s at image 3 of /camera; split the bag there"):
        open_recording(bag, [None])


def test_a_damaged_image_raises_only_when_loaded(bags):
    messages = [(0, bags.jpeg(_grey(1), stamp_ns=START_NS)), (1, bags.jpeg(_grey(2), 0.5, START_NS + SECOND))]
    recording = open_recording(bags.write({CAMERA: messages}), [None])
    good, bad = recording.read()
    assert good.load().rgb.shape == (8, 8, 3)
    with pytest.raises(MediaError, match=r"an image of /camera with stamp 1700000001000000000: compressed image"):
        bad.load()


@pytest.mark.parametrize(
    ("topics", "error", "message"),
    [
        (["/none"], EvaluationError, "has no topic /none; its image topics: /a, /b"),
        ([None], EvaluationError, "several image topics"),
        (["/chat"], EvaluationError, "is std_msgs/msg/String, not an image"),
        (["/empty"], MediaError, "has no images on /empty"),
    ],
)
def test_an_invalid_topic_is_an_error(bags, topics, error, message):
    image = [(0, bags.raw(_grey(1)))]
    content = {"/a": image, "/b": image, "/chat": [(0, bags.text("hello"))], "/empty": "sensor_msgs/msg/Image"}
    bag = bags.write(content)
    with pytest.raises(error, match=message):
        open_recording(bag, topics)


def test_a_truncated_or_missing_bag_is_an_error(picture_bag, tmp_path):
    bag = picture_bag({CAMERA: [(i * 0.1, i) for i in range(40)]})
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(MediaError, match="cannot be read"):
        open_recording(bag, [None])
    with pytest.raises(MediaError, match="does not exist"):
        open_recording(tmp_path / "none", [None])


def test_bag_names(tmp_path):
    (tmp_path / "kitchen.d").mkdir()
    assert bag_name(tmp_path / "kitchen.d") == "kitchen.d"
    assert bag_name(tmp_path / "hall.mcap") == "hall"


@pytest.mark.parametrize(("storage", "compression"), [("mcap", "none"), ("sqlite3", "file"), ("mcap", "message")])
def test_a_bag_split_into_files_is_read_as_one(picture_bag, tmp_path, storage, compression):
    """Two files with one metadata.yaml, as written by `ros2 bag record --max-bag-size`."""
    options = {"storage": storage, "compression": compression}
    parts = [picture_bag({CAMERA: [(i, i + 1), (i + 1, i + 2)]}, name=f"part{i}", **options) for i in (0, 2)]
    whole = tmp_path / "whole"
    whole.mkdir()
    names = []
    for i, part in enumerate(parts):
        (file,) = part.glob(f"{part.name}.*")
        names.append(f"whole_{i}{''.join(file.suffixes)}")
        file.rename(whole / names[i])
    metadata = (parts[0] / "metadata.yaml").read_text()
    first = f"part0{names[0].removeprefix('whole_0')}"
    metadata = metadata.replace(f"- {first}", f"- {names[0]}\n  - {names[1]}").replace("count: 2", "count: 4")
    metadata = metadata.replace(f"path: {first}", f"path: {names[0]}").replace("1000000000\n", "3000000000\n")
    (whole / "metadata.yaml").write_text(metadata)
    recording = open_recording(whole, [None])
    assert numbers(recording.read()) == [1, 2, 3, 4]
    assert numbers(recording.read(recording.images[2:])) == [3, 4]


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x00\x00garbage"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_message_that_cannot_be_parsed_raises_only_when_loaded(bags, data, place):
    """It counts at its log time."""
    good = [(n, bags.raw(_grey(n), stamp_ns=START_NS + n * SECOND)) for n in range(3) if n != place]
    images = list(open_recording(bags.write({CAMERA: [*good, (place, data)]}), [None]).read())
    assert len(images) == 3
    with pytest.raises(MediaError, match="the message cannot be read"):
        images[place].load()
    assert [images[n].load().rgb.mean() for n in range(3) if n != place] == [n for n in range(3) if n != place]
