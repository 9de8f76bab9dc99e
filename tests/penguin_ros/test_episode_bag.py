"""`penguin-vl episodes build` on real bags: which images become episodes, with which poses and captions."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from penguin_engine.scene.episode import EpisodeFilter
from penguin_engine.scene.episodes import open_episodes, read_episodes
from penguin_models.grounding import Box, GroundedObject, Grounding
from penguin_ros.message_types import typestore

START_NS = 1_700_000_000_000_000_000
HALF = math.sqrt(0.5)
SECONDS = tuple(number / 4 for number in range(16))
LEFT = (0, 0, HALF, HALF)  # a quarter turn to the left


def stamp(seconds):
    return START_NS + round(seconds * 1e9)


def view(seconds, seed=0):
    """A scene that changes after two seconds."""
    rgb = np.full((60, 80, 3), 90, np.uint8)
    rgb[20:45, 10 + seed : 40 + seed] = (200, 40, 40) if seconds < 2 else (30, 60, 220)
    return rgb


def transforms(bags):
    """The base moves along the odometry's x axis, and turns left; the camera is 1 m above its front."""
    yield 0, "/tf_static", bags.transforms(0, ("map", "odom", (10, 0, 0), LEFT), ("base", "camera", (1, 0, 1), LEFT))
    for step in range(9):
        turn = (0, 0, math.sin(step * math.pi / 32), math.cos(step * math.pi / 32))
        yield step / 2, "/tf", bags.transforms(stamp(step / 2 - 0.1), ("/odom", "/base", (step / 2 - 0.1, 0, 0), turn))


def recorded(bags, seconds=SECONDS, name="bag", storage="mcap", **extra):
    """A bag of a camera of 4 Hz, its transforms and two captions of a node."""
    topics = {"/front": [(time, bags.raw(view(time), stamp_ns=stamp(time))) for time in seconds]}
    for time, topic, message in transforms(bags):
        topics.setdefault(topic, []).append((time, message))
    seen = ("red cup", (20.0, 30.0, 40.0, 60.0))
    topics["/penguin/captions"] = [
        (1.2, bags.caption(stamp(1), "/front", "a red cup", [seen], (60, 80))),
        (2.3, bags.caption(stamp(2), "/front", "a blue cup")),
    ]
    return bags.write(topics | extra, name=name, storage=storage)


def build(cli, bag, out, *options):
    result = cli("episodes", "build", bag, "--out", out, *options, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_keyframes_and_captioned_images_become_episodes(cli, bags, tmp_path, storage):
    bag, out = recorded(bags, storage=storage), tmp_path / "e.db"
    truth = [(3.0, bags.caption(stamp(3), "/front", "not of the node"))]
    bag = recorded(bags, name="truth", storage=storage, **{"/camera/truth": truth})
    for _ in range(2):  # again: nothing is stored twice
        value = build(cli, bag, out)
        counts = {"images": 16, "episodes": 3, "captions": 2, "poses": 3, "bad_images": 0}
        assert value == {"episodes": 3, "captions_of_model": 0, "cameras": {"/front": counts}, "notes": []}
    first, second, third = read_episodes(out).range()
    assert [item.stamp_ns for item in (first, second, third)] == [stamp(0), stamp(1), stamp(2)]
    assert [item.caption for item in (first, second, third)] == ["", "a red cup", "a blue cup"]
    assert second.objects == (GroundedObject("red cup", Box(250, 500, 500, 1000)),) and second.frame_id == "camera"
    with Image.open(io.BytesIO(second.jpeg)) as image:
        assert abs(np.asarray(image, int) - view(1)).mean() < 4 and image.size == (80, 60)


def test_poses_are_interpolated_along_the_chain(cli, bags, tmp_path):
    build(cli, recorded(bags), tmp_path / "e.db")
    episode = list(read_episodes(tmp_path / "e.db").range())[1]
    angle = 1.1 * math.pi / 8  # of the base at 1 s: it has turned for 1.1 s
    front = (1 + math.cos(angle), math.sin(angle), 1)  # in odom
    assert episode.pose.frame_id == "map"
    assert episode.pose.position == pytest.approx((10 - front[1], front[0], 1))
    turned = angle + math.pi  # of odom in map, of the base, and of the camera on it
    expected = np.array((0, 0, math.sin(turned / 2), math.cos(turned / 2)))
    assert abs(np.dot(episode.pose.orientation, expected)) == pytest.approx(1)


def test_a_ros1_bag_and_the_transforms_of_its_namespace(cli, bags, tmp_path):
    """Frames may begin with a slash, and the types are those of the bag."""
    noetic = get_typestore(Stores.ROS1_NOETIC)
    noetic.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    messages = [("/front", bags.raw(view(time), stamp_ns=stamp(time)), time) for time in (0, 1, 2, 3)]
    messages += [(f"/robot{topic}", message, time) for time, topic, message in transforms(bags)]
    with Writer(tmp_path / "ros1.bag") as writer:
        connections = {}
        for topic, message, time in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=noetic)
            data = typestore().cdr_to_ros1(bags.serialize(message), kind)
            writer.write(connections[topic], stamp(time), data)
    value = build(cli, tmp_path / "ros1.bag", tmp_path / "e.db", "--fixed-frame", "/map")
    assert value["cameras"]["/front"]["poses"] == value["episodes"] == 2 and not value["notes"]


@pytest.mark.parametrize(
    ("options", "topics", "note"),
    [
        (("--fixed-frame", "world"), {}, "3 episodes have no pose; the first: there is no transform of frame 'world'; "
         "frames: base, camera, map, odom"),
        ((), {"/tf": [(0, "late")]}, "nothing connects camera with map at"),
        ((), {"/tf": "tf2_msgs/msg/TFMessage", "/tf_static": "tf2_msgs/msg/TFMessage"}, "the bag has no transforms"),
        ((), {"/tf": [(0, "nan")]}, "1 messages with transforms cannot be read; the first: the transform from odom to "
         "base is (nan, 0.0, 0.0"),
        ((), {"/front": [(0, "jpeg")]}, "images cannot be decoded; the first: bag "),
        ((), {"/penguin/captions": [(0, "bad")]}, "captions cannot be read; the first: the message with stamp"),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_counted_and_said(cli, bags, tmp_path, options, topics, note):
    made = {
        "late": bags.transforms(stamp(60), ("odom", "base", (0, 0, 0), LEFT)),
        "nan": bags.transforms(stamp(1), ("odom", "base", (math.nan, 0, 0), LEFT)),
        "bad": bags.caption(stamp(1), "/front", "a cup", [("cup", (0.0, 0.0, 1.0, 1.0))], (0, 80)),
        "jpeg": bags.raw(view(0), encoding="nonsense"),
    }
    topics = {
        topic: content if isinstance(content, str) else [(time, made[name]) for time, name in content]
        for topic, content in topics.items()
    }
    value = build(cli, recorded(bags, **topics), tmp_path / "e.db", *options)
    assert any(note in line for line in value["notes"])


def test_cameras_and_captions_without_images(cli, bags, tmp_path):
    """Cameras are taken apart, a caption whose image was not recorded is kept, and so is a bag of captions only."""
    rear = {
        "/rear": [(time, bags.raw(view(time, 9), stamp_ns=stamp(time))) for time in (0, 1, 3)],
        "/empty": "sensor_msgs/msg/Image",
    }
    bag = recorded(bags, seconds=(0, 2, 3), **rear)
    value = build(cli, bag, tmp_path / "all.db")
    assert {name: (c["episodes"], c["captions"]) for name, c in value["cameras"].items()} == {
        "/front": (3, 2),
        "/rear": (2, 0),
    }
    (alone,) = read_episodes(tmp_path / "all.db").search("red cup", EpisodeFilter(until_ns=stamp(1)))
    assert alone.jpeg == b"" and alone.stamp_ns == stamp(1) and alone.pose is not None
    assert list(build(cli, bag, tmp_path / "rear.db", "--camera", "/rear")["cameras"]) == ["/rear"]
    captions = bags.write({"/p/captions": [(1, bags.caption(stamp(1), "/front", "a dog"))]}, name="captions")
    assert build(cli, captions, tmp_path / "all.db")["episodes"] == 1
    assert [item.caption for item in read_episodes(tmp_path / "all.db").search("dog")] == ["a dog"]


@pytest.mark.parametrize(
    ("topics", "options", "error"),
    [
        ({"/chat": "std_msgs/msg/String"}, (), "has no image topic; its topics: /chat"),
        ({"/front": "sensor_msgs/msg/Image"}, (), "has neither images nor captions"),
        ({"/front": "sensor_msgs/msg/Image"}, ("--camera", "/x"), "has no topic /x; its image topics: /front"),
    ],
)
def test_bags_without_anything_to_store(cli, bags, tmp_path, topics, options, error):
    assert error in cli("episodes", "build", bags.write(topics), "--out", tmp_path / "e.db", *options).error
    assert not (tmp_path / "e.db").exists()
    assert cli("episodes", "build", tmp_path / "bag", "--out", tmp_path / "e.db", "--device", "cpu").code == 2


def test_the_model_captions_what_has_no_caption_and_goes_on_after_an_interruption(
    cli, bags, tmp_path, checkpoint, monkeypatch
):
    from penguin_ros.cli import episodes_build

    def interrupted(*_):
        def answers():
            yield Grounding("a cup", (GroundedObject("cup", Box(1, 2, 3, 4)),))
            raise KeyboardInterrupt

        given = answers()
        return lambda rgb: next(given)

    bag = recorded(bags, seconds=(0, 1, 2, 3), **{"/penguin/captions": "penguin_vl/msg/GroundedCaption"})
    command = ("episodes", "build", bag, "--out", tmp_path / "e.db", "--model", checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(episodes_build, "_open_model", interrupted)
        assert cli(*command).code == 130
    (first,) = read_episodes(tmp_path / "e.db").range()
    assert first.caption == "a cup" and first.stamp_ns == stamp(0) and first.jpeg
    result = cli(*command)
    assert result.code == 0 and result.out.endswith(f"2 episodes in {tmp_path / 'e.db'}, 1 captioned\n")
    again, second = read_episodes(tmp_path / "e.db").range()
    assert again == first and second.caption and second.stamp_ns == stamp(2)


def test_a_store_that_cannot_be_written_is_one_sentence(cli, bags, tmp_path, monkeypatch):
    monkeypatch.setattr("penguin_ros.cli.episodes_build._FLUSH_S", 0.3)
    monkeypatch.setattr("penguin_engine.scene.episode_file.EpisodeFile.write", lambda *_: 1 / 0)
    error = cli("episodes", "build", recorded(bags), "--out", tmp_path / "e.db").error
    assert "cannot be written" in error and error.endswith("; what was stored before remains")
    with open_episodes(tmp_path / "e.db"):
        error = cli("episodes", "build", tmp_path / "bag", "--out", tmp_path / "e.db").error
    assert "is already written by process" in error
    monkeypatch.undo()
    error = cli("episodes", "build", tmp_path / "bag", "--out", tmp_path).error
    assert "is a folder or a device; name a file" in error
    error = cli("episodes", "build", tmp_path / "bag", "--out", "postgresql:///e?host=/nonexistent").error
    assert "cannot be written to postgresql:///e: " in error and "check the URL" in error
    data = bytearray((tmp_path / "e.db").read_bytes())
    data[8192:16_384] = bytes(8192)  # opens, and proves to be damaged when it is written
    (tmp_path / "e.db").write_bytes(data)
    said = cli("episodes", "build", tmp_path / "bag", "--out", tmp_path / "e.db").err
    assert "e.db was damaged" in said and "it is now e.db.broken" in said
    (tmp_path / "notes.txt").write_text("not a database, and not to be renamed")
    error = cli("episodes", "build", tmp_path / "bag", "--out", tmp_path / "notes.txt").error
    assert "cannot be read as an episode file" in error and (tmp_path / "notes.txt").read_text().startswith("not a da")
