"""MCAP files: foreign channels, other profiles, and every way of chunking and indexing; damage."""

from __future__ import annotations

import pytest
from mcap_writer import Channel, write_mcap

from penguin_models.errors import MediaError
from penguin_ros.bags import BagClip

SECOND = 10**9
CAMERA = "/camera/compressed"
FOREIGN = [
    Channel("/feedback", "example_interfaces/action/Fibonacci_FeedbackMessage", "unknown", b""),
    Channel("/scene", "foxglove.SceneUpdate", "protobuf", bytes(range(256)), "protobuf"),
    Channel("/log", "Log", "jsonschema", b'{"type": "object"}', "json"),
    Channel("/raw", None, encoding="json"),
    Channel("/custom", "robot/msg/Wheel", "ros2msg", b"=== not a definition ==="),
    Channel("/empty", "robot/msg/Empty", "ros2msg", b""),
    Channel("/old", "robot/Arm", "ros1msg", b"float64 angle", "ros1"),
    Channel("/idl", "robot/msg/Leg", "ros2idl", b"module robot {"),
]


@pytest.fixture
def jpegs(bags, picture):
    """Serialised images of CAMERA; six of them, one per second, of different brightness."""

    def make(camera=0, count=6):
        images = [bags.jpeg(picture(16, 24) // 2 + 20 * number) for number in range(count)]
        return [(camera, number * SECOND + SECOND, bags.serialize(image)) for number, image in enumerate(images)]

    return make


def read(path, **options):
    return [frame.time_s for frame in BagClip(path, **options)]


@pytest.mark.parametrize("profile", ["ros2", "ros1", "", "foxglove"])
def test_foreign_channels_are_skipped(jpegs, tmp_path, profile):
    messages = [(number, SECOND * number, b"\1\2\3") for number in range(1, 1 + len(FOREIGN))]
    path = write_mcap(tmp_path / "a.mcap", [Channel(CAMERA), *FOREIGN], [*jpegs(), *messages], profile)
    assert read(path) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("definition", [b"", b"\xff\xfe not text", b"uint8 nonsense"])
def test_images_are_read_even_if_their_definition_is_damaged(jpegs, tmp_path, definition):
    path = write_mcap(tmp_path / "a.mcap", [Channel(CAMERA, definition=definition)], jpegs())
    assert read(path) == [0, 1, 2, 3, 4, 5]


def test_images_in_an_encoding_that_cannot_be_read_are_named(bags, tmp_path):
    channels = [
        Channel("/front", "foxglove.CompressedImage", "protobuf", b"\x0a", "protobuf"),
        Channel("/left", "sensor_msgs/msg/Image", "jsonschema", b"{}", "json"),
        Channel("/video", "foxglove_msgs/msg/CompressedVideo"),
    ]
    path = write_mcap(tmp_path / "a.mcap", channels, [(0, SECOND, b"\0")])
    with pytest.raises(MediaError) as raised:
        BagClip(path)
    assert str(raised.value) == (
        f"bag {path} has no image topic; its topics: /front (foxglove.CompressedImage in encoding 'protobuf'), /left "
        "(sensor_msgs/msg/Image in encoding 'json'), /video (foxglove_msgs/msg/CompressedVideo); /video is video: "
        "convert it to images with `ros2 run image_transport republish`"
    )


def test_images_of_ros1_are_read(bags, tmp_path, picture):
    """As in bags that were converted from ROS 1: other names of types, other bytes."""
    channel = Channel("/camera", "sensor_msgs/CompressedImage", "ros1msg", b"", "ros1")
    messages = [(0, n * SECOND, bags.ros1_jpeg(picture(16, 24), n * SECOND)) for n in (1, 2)]
    assert read(write_mcap(tmp_path / "a.mcap", [channel], messages, "ros1")) == [0, 1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk_size": 1},
        {"chunk_size": 0},
        {"chunk_size": 0, "summary": False},
        {"indexed": False},
        {"summary": False},
        {"repeat": False},
        {"statistics": False},
        {"compression": "lz4"},
        {"repeat": False, "statistics": False, "indexed": False},
    ],
)
def test_every_way_of_chunking_and_indexing_is_read(jpegs, tmp_path, options):
    """Messages of two channels, written out of order."""
    messages = [*jpegs(0), *jpegs(1)]
    messages = messages[1::2] + messages[::2]
    path = write_mcap(tmp_path / "a.mcap", [Channel("/a"), Channel("/b")], messages, **options)
    for topic in ("/a", "/b"):
        clip = BagClip(path, topic)
        assert [frame.time_s for frame in clip] == [0, 1, 2, 3, 4, 5]
        brightness = [frame.rgb.mean() for frame in clip]
        assert brightness == sorted(brightness)


def test_a_topic_recorded_by_two_publishers_is_read_in_the_order_of_time(jpegs, tmp_path):
    """They have channels of their own, for example because their QoS differs."""
    messages = [(number % 2, log_ns, data) for number, (_, log_ns, data) in enumerate(jpegs())]
    messages = messages[::2] + messages[1::2]
    brightness = [f.rgb.mean() for f in BagClip(write_mcap(tmp_path / "a.mcap", [Channel(CAMERA)] * 2, messages))]
    assert len(brightness) == 6 and brightness == sorted(brightness)


def test_log_times_may_use_all_64_bits(bags, tmp_path, picture):
    """They are useless; stamps count."""
    images = [bags.serialize(bags.jpeg(picture(16, 24), stamp_ns=number * SECOND)) for number in (1, 2)]
    messages = [(0, 2**64 - 1, images[0]), (0, 2**64 - 1, images[1])]
    assert read(write_mcap(tmp_path / "a.mcap", [Channel(CAMERA)], messages)) == [0, 1]


@pytest.mark.parametrize("damage", ["end", "middle", "bit"])
def test_only_a_damaged_file_gets_the_advice_to_recover(jpegs, tmp_path, damage):
    path = write_mcap(tmp_path / "a.mcap", [Channel(CAMERA)], jpegs())
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "bit" else data[: -1 if damage == "end" else len(data) // 2])
    reason = ".*" if damage == "bit" else "its end is missing, as after a crash or while it is being recorded"
    advice = f"to recover what it holds, run: mcap recover {path}"
    with pytest.raises(MediaError, match=rf"a.mcap is damaged: {reason}; {advice}"):
        read(path)
