"""Clips of real bags: which messages are sampled, their pixels, and errors for bags that cannot be read."""

from __future__ import annotations

import re
import sqlite3

import numpy as np
import pytest
from mcap_writer import Channel, write_mcap
from rosbags.rosbag1 import Writer

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.bags import BagClip
from penguin_ros.evaluation.bags.recording import open_recording

STORAGE = [
    ("sqlite3", "none"), ("sqlite3", "message"), ("sqlite3", "file"),
    ("mcap", "none"), ("mcap", "storage"), ("mcap", "message"), ("mcap", "file"),
]  # fmt: skip
SECOND = 10**9
NOW = 1_700_000_000 * SECOND
# Recording times: at one frame per second, the intervals [0, 1), [1, 2) and [3, 4) have images.
SECONDS = (0.0, 0.4, 0.99, 1.0, 1.5, 3.2)


def frame(number):
    """Returns an image with its number in red and a ramp in blue."""
    rgb = np.full((16, 24, 3), (20 * number, 100, 0), np.uint8)
    rgb[..., 2] = 5 * np.arange(24)
    return rgb


def raw_frames(bags, seconds=SECONDS):
    return [(time, bags.raw(frame(number))) for number, time in enumerate(seconds)]


def sampled(clip):
    """Returns the (seconds, number) of each frame of a clip."""
    return [(time_s, round(rgb[..., 0].mean() / 20)) for time_s, rgb in clip]


def error_of(path, **options):
    """Returns the error of opening and reading a bag, which is one line."""
    with pytest.raises(MediaError) as raised:
        list(BagClip(path, **options))
    message = str(raised.value)
    assert "\n" not in message
    return message


def storage_file(bag):
    (file,) = [file for file in bag.iterdir() if file.name != "metadata.yaml"]
    return file


@pytest.mark.parametrize(("storage", "compression"), STORAGE)
def test_raw_images_keep_their_pixels(bags, storage, compression):
    chat = [(time + 0.1, bags.text("hello")) for time in SECONDS]
    bag = bags.write({"/camera": raw_frames(bags), "/chat": chat}, storage=storage, compression=compression)
    clip = BagClip(bag)
    assert clip.topic == "/camera"
    frames = list(clip)
    assert [time_s for time_s, _ in frames] == [0, 1, 3]
    for (_, rgb), number in zip(frames, (2, 4, 5), strict=True):
        np.testing.assert_array_equal(rgb, frame(number))


@pytest.mark.parametrize(("storage", "compression"), STORAGE)
def test_compressed_images_keep_their_pixels_approximately(bags, storage, compression):
    jpegs = [(time, bags.jpeg(frame(number))) for number, time in enumerate(SECONDS)]
    clip = BagClip(bags.write({"/camera/compressed": jpegs}, storage=storage, compression=compression))
    assert sampled(clip) == [(0, 2), (1, 4), (3, 5)]
    for (_, rgb), number in zip(clip, (2, 4, 5), strict=True):
        assert np.abs(rgb.astype(int) - frame(number)).mean() < 3


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_single_file_without_metadata_is_read(bags, storage):
    file = storage_file(bags.write({"/camera": raw_frames(bags)}, storage=storage))
    (file.parent / "metadata.yaml").unlink()
    assert sampled(BagClip(file)) == [(0, 2), (1, 4), (3, 5)]


def test_a_bag_without_message_definitions_is_read(bags):
    bag = bags.write({"/camera": raw_frames(bags)}, storage="sqlite3")
    with sqlite3.connect(storage_file(bag)) as database:
        database.execute("DELETE FROM message_definitions")
    database.close()
    assert sampled(BagClip(bag)) == [(0, 2), (1, 4), (3, 5)]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (0.5, [(0, 4), (2, 5)]),
        (1, [(0, 2), (1, 4), (3, 5)]),
        (2, [(0, 1), (0.5, 2), (1, 3), (1.5, 4), (3, 5)]),
        (1000, [(0, 0), (0.4, 1), (0.99, 2), (1, 3), (1.5, 4), (3.2, 5)]),
    ],
)
def test_the_last_image_of_each_interval_is_sampled(bags, fps, expected):
    assert sampled(BagClip(bags.write({"/camera": raw_frames(bags)}), fps=fps)) == expected


@pytest.mark.parametrize(
    ("max_frames", "expected"),
    [(1, [0]), (2, [0, 9]), (3, [0, 4, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))],
)
def test_more_than_max_frames_are_thinned_out_evenly(bags, max_frames, expected):
    bag = bags.write({"/camera": raw_frames(bags, range(10))})
    assert sampled(BagClip(bag, max_frames=max_frames)) == [(number, number) for number in expected]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_images_are_read_in_order_of_recording_time(bags, storage):
    messages = raw_frames(bags, range(4))
    bag = bags.write({"/camera": [messages[2], messages[0], messages[3], messages[1]]}, storage=storage)
    assert sampled(BagClip(bag)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    ("back_s", "order", "reason"),
    [
        (3600, [4, 5, 6, 7, 0, 1, 2, 3], "images were not written in the order of their header stamps, by which they"),
        (50 * 31_557_600, range(8), "back by 50.0 years at image 4: was the clock set while recording? Images are"),
    ],
)
@pytest.mark.parametrize("storage", ["sqlite3", "ros1", "chunks of 1", "chunks of 3", "no index", "no chunks"])
def test_a_clock_that_was_set_back_is_noticed_in_every_storage(bags, tmp_path, storage, back_s, order, reason):
    stamps = [NOW + (n - back_s * (n > 3)) * SECOND for n in range(8)]
    path = tmp_path / "a"
    if storage == "sqlite3":
        images = [bags.jpeg(frame(n), stamp_ns=ns) for n, ns in enumerate(stamps)]
        bags.write({"/camera": [((ns - NOW) / SECOND, m) for ns, m in zip(stamps, images, strict=True)]}, "a", storage)
    elif storage == "ros1":
        path = tmp_path / "a.bag"
        with Writer(path) as writer:
            camera = writer.add_connection("/camera", "sensor_msgs/msg/CompressedImage", msgdef="x", md5sum="8f7a")
            for number, ns in enumerate(stamps):
                writer.write(camera, ns, bags.ros1_jpeg(frame(number), ns))
    else:
        options = {"no index": {"indexed": False, "summary": False}, "no chunks": {"chunk_size": 0}}
        options = options.get(storage) or {"chunk_size": int(storage[-1])}
        images = [bags.serialize(bags.jpeg(frame(n), stamp_ns=ns)) for n, ns in enumerate(stamps)]
        messages = [(0, ns, data) for ns, data in zip(stamps, images, strict=True)]
        write_mcap(path, [Channel("/camera")], messages, **options)
    clip = BagClip(path)
    assert [number for _, number in sampled(clip)] == list(order)
    (note,) = clip.notes
    assert reason in note


def test_iterating_again_gives_the_same_frames(bags):
    clip = BagClip(bags.write({"/camera": raw_frames(bags)}))
    next(iter(clip))  # an abandoned iteration
    pairs = list(zip(clip, clip, strict=True))  # and two at the same time
    assert len(pairs) == 3
    for first, second in pairs:
        assert first.time_s == second.time_s
        np.testing.assert_array_equal(first.rgb, second.rgb)


def test_frames_of_another_size_are_scaled_to_the_first_and_noted(bags):
    messages = [(n, bags.raw(frame(n)[:8, :8] if n else frame(n))) for n in range(3)]
    clip = BagClip(bags.write({"/camera": messages}))
    assert clip.notes == []
    for _ in range(2):
        assert {rgb.shape for _, rgb in clip} == {(16, 24, 3)} and sampled(clip) == [(n, n) for n in range(3)]
        (note,) = clip.notes
        assert re.fullmatch(
            r"/camera of bag .*/bag changes from 24x16 to 8x8 pixels; all its frames are scaled .*", note
        )


@pytest.fixture
def several(bags):
    """A bag with two image topics of different length and one of text."""
    front, rear = raw_frames(bags, range(3)), [(time, bags.jpeg(frame(4))) for time in range(2)]
    return bags.write({"/rear": rear, "/front": front, "/chat": [(0, bags.text("hello"))]})


@pytest.mark.parametrize(("topic", "expected"), [("/front", [0, 1, 2]), ("/rear", [4, 4])])
def test_the_requested_topic_is_read(several, topic, expected):
    clip = BagClip(several, topic)
    assert clip.topic == topic
    assert [number for _, number in sampled(clip)] == expected


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (None, "has several image topics, choose one with --topic: /front, /rear"),
        ("/left", "has no topic /left; its image topics: /front, /rear"),
        ("/chat", "/chat of bag .* is std_msgs/msg/String, not an image; image topics: /front, /rear"),
    ],
)
def test_an_invalid_topic_is_an_error(several, topic, message):
    with pytest.raises(MediaError, match=message):
        BagClip(several, topic)


@pytest.mark.parametrize("topic", [None, "/chat"])
def test_a_bag_without_image_topics_is_an_error_that_lists_its_topics(bags, topic):
    bag = bags.write({"/odom": "nav_msgs/msg/Odometry", "/chat": [(0, bags.text("hello"))]})
    listing = r"its topics: /chat \(std_msgs/msg/String\), /odom \(nav_msgs/msg/Odometry\)"
    with pytest.raises(MediaError, match=f"has no image topic; {listing}"):
        BagClip(bag, topic)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_topic_without_messages_is_an_error(bags, storage):
    bag = bags.write({"/camera": "sensor_msgs/msg/Image", "/chat": [(0, bags.text("hello"))]}, storage=storage)
    assert error_of(bag) == f"bag {bag} has no images on /camera"


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_bag_without_topics_is_an_error(bags, storage):
    bag = bags.write({}, storage=storage)
    assert error_of(bag) == f"bag {bag} has no image topic; its topics: none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps 0 and max_frames 180 must be above 0"),
        ({"fps": -1.0}, "fps -1.0 "),
        ({"fps": float("nan")}, "fps nan "),
        ({"fps": float("inf")}, "fps inf "),
        ({"max_frames": 0}, "max_frames 0 must be above 0"),
    ],
)
def test_invalid_sampling_is_an_error(bags, options, message):
    with pytest.raises(MediaError, match=message):
        BagClip(bags.write({"/camera": raw_frames(bags)}), **options)


def test_a_missing_bag_is_an_error(tmp_path):
    assert error_of(tmp_path / "none") == f"bag {tmp_path / 'none'} does not exist"


@pytest.mark.parametrize(("storage", "compression"), [("sqlite3", "none"), ("mcap", "none"), ("mcap", "storage")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("single", [False, True])
def test_a_truncated_recording_is_an_error(bags, storage, compression, share, single):
    bag = bags.write({"/camera": raw_frames(bags, range(40))}, storage=storage, compression=compression)
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    path = file if single else bag
    assert error_of(path).startswith(f"bag {path} cannot be read")


def undecodable(bags):
    """Images that cannot be decoded; of the last two, even the message cannot be parsed."""
    return {
        "unknown": bags.raw(frame(0), "rgb32"),
        "truncated jpeg": bags.jpeg(frame(0), kept=0.7),
        "truncated message": b"\x00\x01\x00\x00garbage",
        "empty message": b"",
    }


WRONG = [
    ("unknown", "'rgb32' is not supported"),
    ("truncated jpeg", "cannot be decoded"),
    ("truncated message", "deserialize"),
    ("empty message", "CDR"),
]


@pytest.mark.parametrize("place", [0, 2, 3])
@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_an_image_that_cannot_be_decoded_is_skipped_and_reported(bags, wrong, reason, place):
    good = bags.jpeg if "jpeg" in wrong else bags.raw
    messages = [(number, good(frame(number))) for number in range(4)]
    messages[place] = (place, undecodable(bags)[wrong])
    clip = BagClip(bags.write({"/camera": messages}) if place else write_with_type(bags, messages))
    assert sampled(clip) == [(number, number) for number in range(4) if number != place]
    note = clip.notes[-1]
    assert note.startswith(f"skipped: 1 of 4 images of /camera cannot be decoded; the first is image {place}: ")
    assert reason in note and clip.bad_images == 1
    assert sampled(clip) and clip.bad_images == 1  # reading again counts it once


def write_with_type(bags, messages):
    """Writes messages of which the first may be bytes, with the type of the second."""
    return bags.write({"/camera": [*messages[1:], messages[0]]})


@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_a_bag_without_a_good_image_is_an_error(bags, wrong, reason):
    good = (bags.jpeg if "jpeg" in wrong else bags.raw)(frame(0))
    bag = bags.write({"/other": [(0, good)], "/camera": [(0, undecodable(bags)["unknown"])]})
    bag = (
        bags.write({"/camera": [(n, undecodable(bags)[wrong]) for n in range(3)]}, "bad")
        if "message" not in wrong
        else bag
    )
    assert error_of(bag, topic="/camera").startswith(f"bag {bag}: ")
    assert " images of /camera cannot be decoded; the first is image 0: " in error_of(bag, topic="/camera")


def test_another_image_of_the_interval_replaces_a_damaged_one(bags):
    """Four images a second, of which all but the first of each second are damaged."""
    messages = [(n / 4, bags.jpeg(frame(n), kept=0.5 if n % 4 else 1)) for n in range(12)]
    assert sampled(BagClip(bags.write({"/camera": messages}))) == [(0, 0), (1, 4), (2, 8)]


@pytest.mark.parametrize("good", [0, 5, 9])
def test_the_only_good_image_is_found(bags, good):
    messages = [(n, bags.jpeg(frame(n), kept=1 if n == good else 0.5)) for n in range(10)]
    assert sampled(BagClip(bags.write({"/camera": messages}), max_frames=2)) == [(good, good)]


def test_images_that_are_not_sampled_are_not_decoded(bags):
    messages = [(0, bags.jpeg(frame(0), kept=0.5)), (0.5, bags.jpeg(frame(1)))]
    assert sampled(BagClip(bags.write({"/camera": messages}))) == [(0, 1)]


def test_bags_and_questions_use_the_same_times(bags, tmp_path):
    """Log times are 0, as with simulated time before /clock came; header stamps are one second apart."""
    messages = [(0, 0, bags.serialize(bags.jpeg(frame(n), stamp_ns=n * 10**9))) for n in range(1, 9)]
    path = write_mcap(tmp_path / "a.mcap", [Channel("/camera")], messages)
    clip, recording = BagClip(path), open_recording(path, [None])
    assert sampled(clip) == [(n, n + 1) for n in range(8)]
    assert [ref.stamp_ns for ref in recording.images] == [n * 10**9 for n in range(1, 9)]
    assert clip.notes == list(recording.notes) == ["/camera: 8 of 8 log times are 0, so header stamps are used"]


def test_a_clip_of_images_without_times_has_one_per_second(bags, tmp_path):
    messages = [(0, 0, bags.serialize(bags.jpeg(frame(n)))) for n in range(5)]
    path = write_mcap(tmp_path / "a.mcap", [Channel("/camera")], messages)
    clip = BagClip(path)
    assert sampled(clip) == [(n, n) for n in range(5)]
    assert clip.notes == [
        "/camera: 5 of 5 log times are 0: the images are taken to be 1 s apart, in the order of writing"
    ]
    with pytest.raises(
        EvaluationError, match="5 of 5 log times are 0, so nothing says when the images of /camera were"
    ):
        open_recording(path, [None])
