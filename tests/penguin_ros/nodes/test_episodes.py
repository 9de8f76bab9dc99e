"""A node keeps what it saw, answers from it, and finds it again; bad requests and a store that is in use."""

import io
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from lifecycle_msgs.msg import Transition
from node_calls import ask, change_state, statuses
from penguin_vl.msg import Answer
from penguin_vl.srv import Ask, Recall

from penguin_engine.scene.episode import Episode, Pose
from penguin_engine.scene.episodes import open_episodes, read_episodes
from penguin_engine.scene.requests import Outcome
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Frame
from penguin_ros.nodes.diagnostics import episodes_status
from penguin_ros.nodes.episode_recorder import EpisodeRecorder, Rate, open_store
from penguin_ros.settings import SETTINGS, NodeSettings

S = 10**9
NAN = float("nan")


def recall(robot, node, text="", **fields):
    return robot.call(Recall, f"{node.name}/recall", Recall.Request(text=text, **fields))


def test_a_node_remembers_an_object_that_left_the_view_and_its_memory(robot, start_node, image, tmp_path):
    path = tmp_path / "episodes.db"
    with open_episodes(path) as store:  # of an earlier day
        pose = Pose("map", (1.0, 2.0, 0.5), (0.0, 0.0, 0.6, 0.8))
        labelled = (GroundedObject("blue ball", Box(100, 200, 300, 400)),)
        store.add(Episode("/other", 500 * S, "other", "a blue ball", labelled, pose), np.zeros((100, 200, 3), np.uint8))
        assert store.flush(20)
    # The memory holds three frames; each token of an answer takes 10 ms.
    node = start_node({"token_s": 0.01}, token_budget=72, episodes__path=str(path))
    for second in (1000, 1001, 1002):
        robot.publish_and_wait(node, image(second, value=250))
    found = robot.wait(lambda: [e for e in recall(robot, node, "red cubes").episodes if e.thumbnail.data])
    assert found[0].camera == node.topic and 1000 <= found[0].stamp.sec <= 1002 and found[0].frame_id == "optical"
    assert [item.label for item in found[0].objects] == ["red cube"] and not found[0].pose_known
    with Image.open(io.BytesIO(bytes(found[0].thumbnail.data))) as picture:
        assert picture.size == (84, 56) and picture.getpixel((40, 30))[0] > 240
    assert found[0].objects[0].x_max_px == pytest.approx(0.3 * 84)
    for second in (1060, 1061, 1062, 1063):
        robot.publish_and_wait(node, image(second, value=0))

    client = robot.node.create_client(Ask, f"{node.name}/ask")
    request = Ask.Request(question="What was there?", since=Time(sec=999), until=Time(sec=1010))
    pending = client.call_async(request)
    near = {"place": Point(x=1.0, y=2.0), "radius_m": 1.0}  # in episodes.fixed_frame
    [ball] = recall(robot, node, "ball", objects=["blue ball"], limit=3, **near).episodes
    assert not pending.done(), "episodes are found while an answer is generated"
    assert (ball.pose_known, ball.pose.header.frame_id, ball.pose.pose.orientation.w) == (True, "map", 0.8)
    assert recall(robot, node, "ball", place_frame_id="odom", **near).episodes == []
    assert recall(robot, node, cameras=[node.topic], until=Time(sec=500)).episodes == []

    answer = robot.result(pending).answer
    assert answer.error_code == Answer.ERROR_NONE, answer.error_msg
    assert answer.frames_used == len(answer.evidence) == answer.candidates_judged and answer.candidates_left_out == 0
    assert all(1000 <= item.stamp.sec <= 1002 and 0 <= item.probability <= 1 for item in answer.evidence)
    assert found[0].id in [item.episode_id for item in answer.evidence]
    assert (answer.camera, answer.header.frame_id) == (node.topic, "optical")
    assert answer.header.stamp == answer.evidence[-1].stamp
    recent = ask(robot, node, since=Time(sec=1062))
    assert (recent.frames_used, len(recent.evidence)) == (2, 0), "the memory is enough"
    longer = ask(robot, node, horizon_s=100.0)
    assert longer.evidence and longer.frames_used > len(longer.evidence) and longer.header.stamp.sec == 1063
    late = ask(robot, node, since=Time(sec=2000))
    assert late.error_code == Answer.ERROR_NO_FRAMES and "since 2000.000 s" in late.error_msg

    status = robot.wait(lambda: statuses(robot, f"{node.name}: episodes"))[0]
    values = {item.key: item.value for item in status.values}
    assert status.level == b"\0" and int(values["episodes written"]) >= 2 and values["episodes lost"] == "0"

    assert change_state(robot, node, Transition.TRANSITION_DEACTIVATE)
    assert [e.id for e in recall(robot, node, "ball").episodes] == [ball.id], "also while the node is inactive"
    assert change_state(robot, node, Transition.TRANSITION_CLEANUP)
    response = recall(robot, node, "ball")
    assert (response.error_code, response.error_msg.split(";")[0]) == (5, "the node is unconfigured")
    with open_episodes(path) as store:  # nobody else writes it any more
        assert store.summary().episodes >= 3
    assert node.log.count("without the pose of the camera: tf2_ros is not installed") == 1


def test_a_store_that_another_process_writes_fails_the_configuration(start_node, tmp_path):
    with open_episodes(tmp_path / "episodes.db"):
        node = start_node(episodes__path=str(tmp_path / "episodes.db"))
        assert node.wait() == 1
    assert "cannot configure" in node.log and "is already written by process" in node.log


BAD_SEARCHES = (
    ({"since": Time(sec=5), "until": Time(sec=4)}, 2, "until is 4.000 s, before since, which is 5.000 s"),
    ({"since": Time(sec=-5)}, 2, "since is -5000000000 ns, it must be"),
    ({"radius_m": -1.0}, 2, "radius_m is -1.0, it must be above 0"),
    ({"radius_m": NAN}, 2, "radius_m is nan"),
    ({"radius_m": 1.0, "place": Point(x=NAN)}, 2, "must be finite"),
    ({"place": Point(x=1.0)}, 2, "a place is given, and radius_m is 0"),
    ({"place_frame_id": "odom"}, 2, "a place is given, and radius_m is 0"),
    ({"limit": 101}, 2, "limit is 101, it must be at most 100"),
    ({"limit": 2**32 - 1}, 2, "limit is 4294967295"),
    ({"cameras": ["/nowhere"]}, 3, "camera '/nowhere' is not configured; the cameras are: /shared/image_raw"),
    ({"cameras": ["a b"]}, 3, "'a b' is not a valid topic name"),
    ({"objects": ["..."]}, 2, "a label in objects has no letters"),
    ({"text": "x" * 16_385}, 2, "text has 16385 characters, the limit is 16384"),
    ({}, 8, "the node keeps no episodes: clean it up, set episodes.path"),
)


def test_a_bad_search_gets_a_reason(robot, shared_node):
    for fields, code, message in BAD_SEARCHES:
        response = recall(robot, shared_node, **fields)
        assert (response.error_code, response.episodes) == (code, []) and message in response.error_msg
    for fields, code, message in BAD_SEARCHES[:2]:
        answer = ask(robot, shared_node, **fields)
        assert answer.error_code == code and message in answer.error_msg


class Poses:
    """TF that knows the pose of a stamp only after a while."""

    reason = "map does not exist"

    def __init__(self):
        self.known, self.closed = {}, False

    def at(self, frame_id, stamp_ns):
        return self.known.get(stamp_ns)

    def close(self):
        self.closed = True


class Log:
    def __init__(self):
        self.lines = []

    def get_logger(self):
        return SimpleNamespace(info=self.lines.append, warning=lambda text, once: self.lines.append(text))


def keyframe(stamp_s, rng=np.random.default_rng(0)):  # noqa: B008
    header = SimpleNamespace(frame_id="optical")
    return Frame(rng.integers(0, 256, (336, 448, 3), np.uint8), stamp_s * S, "/camera", header)


def test_poses_that_arrive_late_are_kept_and_missing_ones_are_said(tmp_path):
    poses, log, store = Poses(), Log(), open_episodes(tmp_path / "episodes.db")
    recorder = EpisodeRecorder(log, store, poses, Rate(store, 1e9))
    for stamp_s in (1, 2):
        recorder.keyframe(keyframe(stamp_s))
    recorder.settle()
    assert store.flush(20) and store.status.written == 0
    poses.known[1 * S] = Pose("map", (1.0, 2.0, 3.0))
    recorder.settle()
    for stamp_s in range(3, 30):  # nobody settles: a bounded number waits
        recorder.keyframe(keyframe(stamp_s))
    recorder.close()
    store.close()
    stored = {episode.stamp_ns: episode.pose for episode in read_episodes(tmp_path / "episodes.db").range()}
    assert stored == {stamp_s * S: poses.known.get(stamp_s * S) for stamp_s in range(1, 30)}
    assert recorder.without_pose == 28 and "have no pose" not in log.lines and poses.closed
    assert log.lines[0] == "an episode of /camera has no pose: map does not exist"


def test_keyframes_beyond_the_daily_rate_are_skipped_and_counted(tmp_path):
    now = SimpleNamespace(s=0.0)
    with open_episodes(tmp_path / "episodes.db") as store:
        recorder = EpisodeRecorder(Log(), store, None, Rate(store, 12e6, lambda: now.s))  # 1 MB in two hours

        def add(stamps_s):
            for stamp_s in stamps_s:
                recorder.keyframe(keyframe(stamp_s))
                assert store.flush(20)
            return store.status.bytes

        burst = add(range(1, 31))  # noise: 100 kB each
        assert 1e6 <= burst <= 1.15e6 and recorder.skipped == 30 - store.status.written
        now.s = 3600.0
        assert 1.5e6 <= add(range(31, 51)) <= 1.65e6
        now.s = 86_400.0
        written = add(range(51, 71)) - store.status.written
        assert written <= 2.8e6, "no more than two hours are saved up"
        caption = Outcome(
            SimpleNamespace(grounding=SimpleNamespace(text="late", objects=())),
            "/camera",
            SimpleNamespace(stamp_ns=99 * S, header=None),
            np.zeros((56, 84, 3), np.uint8),
        )
        recorder.caption(caption)
        assert store.flush(20) and store.search("late")[0].jpeg == b"", "a caption is kept without its picture"


def test_a_damaged_file_is_said_in_diagnostics(tmp_path):
    path, log = tmp_path / "episodes.db", Log()
    path.write_bytes(b"not a database" * 1000)
    path.with_name("episodes.db.lock").touch()  # it held episodes once
    settings = NodeSettings.from_values({s.name: s.default for s in SETTINGS} | {"episodes.path": str(path)})
    recorder = EpisodeRecorder.open(log, open_store(settings), settings)
    recorder.keyframe(keyframe(1))
    assert recorder.store.flush(20)
    status = episodes_status("penguin", recorder)
    assert (status.name, status.level, status.hardware_id) == ("penguin: episodes", b"\1", str(path))
    assert "was damaged" in status.message and "episodes.db.broken" in status.message
    recorder.close()
    recorder.store.close()
    assert read_episodes(path).summary().episodes == 1


def test_poses_come_from_tf2_ros_where_it_is_installed(monkeypatch):
    class TransformException(Exception):  # noqa: N818 - its name there
        pass

    class Buffer:
        def lookup_transform(self, target, source, time):
            if source != "optical" or time.nanoseconds != 7:
                raise TransformException(f"{source}\n  is not in the tree")
            place, turn = SimpleNamespace(x=1.0, y=2.0, z=3.0), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
            return SimpleNamespace(transform=SimpleNamespace(translation=place, rotation=turn))

    unregistered = []
    listener = lambda buffer, node: SimpleNamespace(unregister=lambda: unregistered.append(node))  # noqa: E731
    module = types.ModuleType("tf2_ros")
    module.Buffer, module.TransformException, module.TransformListener = Buffer, TransformException, listener
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    monkeypatch.delitem(sys.modules, "penguin_ros.nodes.camera_poses")
    from penguin_ros.nodes.camera_poses import CameraPoses

    poses = CameraPoses("node", "map")
    assert poses.at("optical", 7) == Pose("map", (1.0, 2.0, 3.0))
    assert poses.at("left", 7) is None and poses.reason == "left is not in the tree"
    poses.close()
    assert unregistered == ["node"]
