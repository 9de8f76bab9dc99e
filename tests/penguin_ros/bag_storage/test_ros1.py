"""ROS 1 bags: foreign definitions do no harm, and images keep their pixels."""

from __future__ import annotations

import pytest

from penguin_models.errors import MediaError
from penguin_ros.bags import BagClip

SECOND = 10**9


@pytest.fixture
def bag(bags, picture, tmp_path):
    from rosbags.rosbag1 import Writer

    with Writer(tmp_path / "a.bag") as writer:
        compressed = "std_msgs/Header header\nstring format\nuint8[] data"
        camera = writer.add_connection("/camera", "sensor_msgs/msg/CompressedImage", msgdef=compressed, md5sum="8f7a")
        wheel = writer.add_connection("/wheel", "robot/msg/Wheel", msgdef="=== not a definition ===", md5sum="0")
        for number in range(4):
            writer.write(camera, number * SECOND, bags.ros1_jpeg(picture(16, 24), (number + 5) * SECOND))
            writer.write(wheel, number * SECOND, b"\1\2")
    return tmp_path / "a.bag"


def test_foreign_definitions_do_no_harm(bag, picture):
    """The first log time is 0, so that stamps count."""
    clip = BagClip(bag)
    frames = list(clip)
    assert [frame.time_s for frame in frames] == [0, 1, 2, 3]
    assert abs(frames[0].rgb.astype(int) - picture(16, 24)).mean() < 8
    assert clip.notes == ["/camera: 1 of 4 log times are 0, so header stamps are used"]


def test_a_damaged_bag_gets_the_advice_to_reindex(bag):
    bag.write_bytes(bag.read_bytes()[:-300])
    with pytest.raises(MediaError, match=rf"a.bag is damaged: .*; to recover what it holds, run: rosbag reindex {bag}"):
        BagClip(bag)
