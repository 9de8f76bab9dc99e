"""The node over real DDS: captions, answers, memory state, diagnostics and errors."""

import array
import io
import time
from itertools import count

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from node_calls import NO_CAPTIONS, ask, camera_status, set_parameter, statuses
from penguin_vl.msg import Answer, GroundedCaption, MemoryState
from PIL import Image as Picture
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger


def test_a_caption_has_the_header_of_its_frame_and_boxes_in_its_pixels(robot, start_node, image):
    node = start_node()
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    memory = robot.subscribe(MemoryState, f"{node.name}/memory{node.topic}")
    overlays = robot.subscribe(CompressedImage, f"{node.name}/annotated/compressed")
    robot.publish(node.topic, image(12.5, frame_id="left_eye"))
    caption = robot.wait(lambda: captions)[0]
    stamp = caption.header.stamp
    assert (caption.header.frame_id, stamp.sec, stamp.nanosec) == ("left_eye", 12, 5 * 10**8)
    assert (caption.camera, caption.image_width_px, caption.image_height_px) == (node.topic, 84, 56)
    assert caption.text == "A red cube. During the period 0.50 - 1.00 seconds." and caption.keyframe
    assert caption.visual_tokens == 6 and caption.generated_tokens > 5 and caption.total_s >= caption.first_token_s > 0
    (cube,) = caption.objects
    assert (cube.label, cube.x_min_px, cube.y_max_px) == ("red cube", pytest.approx(8.4), pytest.approx(22.4))
    assert 0 < cube.score < 1
    (span,) = caption.time_ranges
    assert (span.start.sec, span.start.nanosec, span.end.sec) == (13, 0, 13)
    # Topics whose subscriber was discovered late may miss the first caption, but not the second.
    robot.publish(node.topic, image(14.0, size=(112, 84), value=200))
    overlay = robot.wait(lambda: [m for m in overlays if m.header.stamp.sec == 14])[0]
    assert overlay.format == "jpeg" and Picture.open(io.BytesIO(bytes(overlay.data))).size == (84, 112)
    state = robot.wait(lambda: [m for m in memory if m.header.stamp.sec == 14])[0]
    assert [(f.width_px, f.height_px, f.tokens) for f in state.frames][-1] == (84, 112, 12)
    assert state.tokens == sum(f.tokens for f in state.frames) <= state.token_budget and state.keyframes == 2


def test_detections_equal_the_objects_of_the_caption(robot, start_node, image):
    messages = pytest.importorskip("vision_msgs.msg", reason="comes with ROS")
    node = start_node()
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    detections = robot.subscribe(messages.Detection2DArray, f"{node.name}/detections")
    robot.publish(node.topic, image(12.5, frame_id="left_eye"))
    (cube,) = robot.wait(lambda: captions)[0].objects
    (found,) = robot.wait(lambda: detections)[0].detections
    assert detections[0].header == captions[0].header
    assert found.results[0].hypothesis.class_id == cube.label
    assert found.bbox.center.position.x == pytest.approx((cube.x_min_px + cube.x_max_px) / 2)
    assert found.bbox.size_y == pytest.approx(cube.y_max_px - cube.y_min_px)


def test_an_answer_reports_its_costs_and_its_frame(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    for second in range(1, 6):
        robot.publish_and_wait(node, image(second))
    answer = ask(robot, node, max_new_tokens=9)
    assert answer.error_code == Answer.ERROR_NONE and answer.error_msg == ""
    assert answer.text.startswith("A red") and answer.generated_tokens == 9 and answer.malformed_boxes <= 1
    assert answer.camera == node.topic and answer.frames_used == 5 and answer.header.frame_id == "optical"
    assert answer.prompt_tokens > answer.visual_tokens == 6 * answer.frames_used
    assert answer.total_s >= answer.first_token_s > 0 and answer.queue_s >= 0


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"question": " "}, Answer.ERROR_BAD_REQUEST, "question is empty"),
        ({"question": "a <image> b"}, Answer.ERROR_BAD_REQUEST, "image"),
        ({"horizon_s": -1.0}, Answer.ERROR_BAD_REQUEST, "horizon_s is -1"),
        ({"horizon_s": float("nan")}, Answer.ERROR_BAD_REQUEST, "horizon_s is nan"),
        ({"max_new_tokens": 4_000_000_000}, Answer.ERROR_BAD_REQUEST, "more than the"),
        ({"cameras": ["/nowhere"]}, Answer.ERROR_UNKNOWN_CAMERA, "camera '/nowhere' is not configured"),
        ({"cameras": ["a b"]}, Answer.ERROR_UNKNOWN_CAMERA, "is not a valid topic name"),
        ({"cameras": ["x" * 10_000_000]}, Answer.ERROR_UNKNOWN_CAMERA, "has 10000000 characters, the limit is 255"),
        ({}, Answer.ERROR_NO_FRAMES, "has been seen yet"),
    ],
)
def test_a_bad_question_is_refused_with_its_error_code_and_reason(robot, shared_node, fields, code, message):
    answer = ask(robot, shared_node, **{"question": "What?", **fields})
    assert (answer.error_code, answer.text) == (code, "") and message in answer.error_msg
    assert len(answer.error_msg) < 400


def test_an_exception_reaches_caller_and_log_and_the_node_survives(robot, start_node, image):
    node = start_node({"fails_at": 2}, **NO_CAPTIONS)
    node.may_fail = True
    robot.publish_and_wait(node, image(1.0))
    for _ in range(2):
        answer = ask(robot, node)
        assert (answer.error_code, answer.error_msg) == (Answer.ERROR_INTERNAL, "RuntimeError: boom")
    robot.wait(lambda: "a question failed: RuntimeError: boom\nTraceback" in node.log)
    assert ask(robot, node, max_new_tokens=2).error_code == Answer.ERROR_NONE


def test_an_exception_without_a_caller_reaches_log_and_diagnostics(robot, start_node, image):
    node = start_node({"text": "boom"}, **NO_CAPTIONS)
    node.may_fail = True
    robot.publish(node.topic, image(1.0))
    robot.wait(lambda: "prefilling frames: RuntimeError: boom" in node.log)
    status = robot.wait(lambda: [s for s in statuses(robot, node.name) if "unexpected errors" in s.message])[0]
    assert status.level > b"\x00" and "boom" in status.message
    answer = ask(robot, node)  # the camera's memory was cleared, and this is why
    assert (answer.error_code, answer.error_msg) == (Answer.ERROR_INTERNAL, "RuntimeError: boom")


def test_bad_images_are_counted_and_the_next_good_one_is_used(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    truncated, short_step, empty = image(1.0), image(2.0), image(4.0, encoding="")
    unknown = image(3.0, encoding="rgb32")
    truncated.data = truncated.data[:100]
    short_step.step = 3
    for number, message in enumerate((truncated, short_step, unknown, empty), start=1):
        robot.publish(node.topic, message)
        camera_status(robot, node, number)
    status, _ = robot.wait(lambda: (s := camera_status(robot, node))[1]["failed to convert"] == "4" and s)
    assert "cannot be read" in node.log
    assert status.level > b"\x00" and "'' is not supported" in status.message
    refused = ask(robot, node)
    assert refused.error_code == Answer.ERROR_NO_FRAMES and "'' is not supported" in refused.error_msg
    robot.publish_and_wait(node, image(5.0))
    assert ask(robot, node).frames_used == 1
    robot.wait(lambda: "4 of 5 images could not be read, the last: " in camera_status(robot, node)[0].message)


def test_images_that_are_older_than_the_newest_are_reported(robot, start_node, image):
    """Two publishers whose stamps differ by less than a jump back in time."""
    node = start_node(**NO_CAPTIONS)
    seconds = count(10)

    def is_reported():
        second = next(seconds)
        robot.publish(node.topic, image(second + 0.6))
        robot.publish(node.topic, image(second))
        status, values = camera_status(robot, node)
        return int(values["late"]) >= 2 and "were older than the newest one and were dropped" in status.message

    robot.wait(is_reported)


LARGE_WEBP = bytes.fromhex("524946461e000000574542505650384c110000002ffeffa40a0750e42ad4a3ff8188e87f0000")
"""16383x10900 pixels in 38 bytes."""


def test_corrupt_and_huge_images_are_counted_and_the_next_good_one_is_used(robot, start_node):
    node = start_node(image_topics=["camera/compressed"], **NO_CAPTIONS)
    node.topic = node.topic.replace("/image", "/camera/compressed")
    file = io.BytesIO()
    Picture.new("RGB", (112, 84), (200, 10, 10)).save(file, "jpeg")
    for second, data in enumerate((file.getvalue()[:90], LARGE_WEBP, file.getvalue()), start=1):
        message = CompressedImage(format="jpeg", data=array.array("B", data))
        message.header.stamp.sec = second
        robot.publish(node.topic, message)
        camera_status(robot, node, second)
    answer = robot.wait(lambda: (a := ask(robot, node)).error_code == 0 and a)
    assert answer.header.stamp.sec == 3 and answer.frames_used == 1
    assert robot.wait(lambda: (s := camera_status(robot, node))[1]["failed to convert"] == "2" and s)


def test_the_image_size_may_change_within_a_stream(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    for second, size in enumerate([(56, 84), (112, 168), (28, 28), (57, 83)], start=1):
        robot.publish_and_wait(node, image(second, size))
    answer = ask(robot, node)
    assert answer.frames_used == 4
    assert answer.objects[0].x_max_px == pytest.approx(0.3 * 83)


def test_a_bag_that_loops_clears_the_memory(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    for second in (100, 101, 102, 50, 51):
        robot.publish_and_wait(node, image(second))
    state = node.memory[-1]
    assert [f.stamp.sec for f in state.frames] == [50, 51] and state.clears == 1


def test_clear_memory_removes_all_frames(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    assert ask(robot, node).error_code == 0
    cleared = robot.call(Trigger, f"{node.name}/clear_memory")
    assert (cleared.success, cleared.message) == (True, "1 frames cleared")
    assert ask(robot, node).error_code == Answer.ERROR_NO_FRAMES
    state = robot.wait(lambda: node.memory[-1].clears == 1 and node.memory[-1])
    assert (state.camera, list(state.frames), state.tokens) == (node.topic, [], 0)


def test_images_without_a_stamp_get_their_arrival_time_and_a_warning(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    for number in (1, 2):
        robot.publish(node.topic, image(0))
        camera_status(robot, node, number)
    assert robot.wait(lambda: ask(robot, node).frames_used == 2)
    status, _ = robot.wait(lambda: (s := camera_status(robot, node))[1]["unstamped"] == "2" and s)
    assert "2 images had no stamp" in status.message
    header = ask(robot, node).header
    assert abs(header.stamp.sec - time.time()) < 600 and header.frame_id == "optical"


def test_simulated_time_is_honoured(robot, start_node, image):
    node = start_node(use_sim_time=True)
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    clock = robot.node.create_publisher(Clock, "/clock", 1)
    now = Clock()
    now.clock.sec, now.clock.nanosec = 100, 5 * 10**8

    def tick():
        now.clock.nanosec += 1  # a clock that stands still is not used
        clock.publish(now)

    timer = robot.node.create_timer(0.05, tick)
    prefix = node.name.lstrip("/")
    robot.wait(
        lambda: [m for m in robot.diagnostics if m.header.stamp.sec == 100 and m.status[0].name.startswith(prefix)]
    )
    robot.publish(node.topic, image(98.0))
    assert robot.wait(lambda: captions)[0].frame_age_s == pytest.approx(2.5)
    memory = robot.subscribe(MemoryState, f"{node.name}/memory{node.topic}")
    robot.publish(node.topic, image(0, value=255))  # without a stamp: it gets its arrival time
    stamp = robot.wait(lambda: [m for m in memory if len(m.frames) == 2])[0].frames[-1].stamp
    assert (stamp.sec, stamp.nanosec) == (100, pytest.approx(5 * 10**8, abs=10_000))
    timer.cancel()


def test_diagnostics_report_node_and_camera(robot, start_node, image):
    node = start_node({"token_s": 0.01}, latency_target_s=0.001, token_budget=600)
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    robot.publish(node.topic, image(1.0))
    robot.wait(lambda: captions)
    assert ask(robot, node, max_new_tokens=3).error_code == Answer.ERROR_NONE

    def newest(level):
        for status in statuses(robot, node.name)[:1]:
            values = {item.key: item.value for item in status.values}
            if status.level == level and values.get("answers") == "1":
                return status, values
        return None

    status, values = robot.wait(lambda: newest(b"\x01"))
    assert "above latency_target_s = 0.001" in status.message and status.hardware_id == "scripted"
    assert (values["model"], values["runtime"], values["device"]) == ("scripted", "scripted", "cpu")
    assert (values["token budget [tokens]"], values["captions"], values["errors"]) == ("600", "1", "0")
    assert (values["questions waiting"], values["question running"], values["questions refused"]) == ("0", "False", "0")
    for output in ("answer", "caption"):
        for kind in ("first token", "total"):
            assert 0 < float(values[f"{output} {kind} p50 [s]"]) <= float(values[f"{output} {kind} p95 [s]"])
    _, camera = camera_status(robot, node)
    assert float(camera["rate [Hz]"]) >= 0 and float(camera["age of the newest image [s]"]) > 0
    expected = {"memory [tokens]": "6", "memory budget [tokens]": "600", "frames held": "1", "keyframes": "1"}
    expected |= {"compactions": "0", "dropped": "0", "late": "0", "failed to convert": "0", "captions": "1"}
    assert expected.items() <= camera.items()
    assert set_parameter(robot, node, "latency_target_s", 0.0).successful
    assert robot.wait(lambda: newest(b"\x00"))[0].message == "OK"


# Cameras


def test_four_cameras_at_thirty_hertz_share_the_budget(robot, start_node, image):
    names = ["front", "left", "right", "rear"]
    node = start_node(
        image_topics=names, image_reliability="best_effort", sample_rate_hz=5.0, token_budget=1600, **NO_CAPTIONS
    )
    base = node.topic.removesuffix("image")
    publishers = [robot.node.create_publisher(Image, base + name, 1) for name in names]
    robot.wait(lambda: all(p.get_subscription_count() for p in publishers))
    messages = {}

    def tick():
        now = robot.node.get_clock().now().to_msg()
        for number, publisher in enumerate(publishers):
            message = messages.setdefault(number, image(0, (240, 320), 60 * number, frame_id=names[number]))
            message.header.stamp = now
            publisher.publish(message)

    timer = robot.node.create_timer(1 / 30, tick)
    for name in names:
        node.topic = base + name
        _, values = robot.wait(lambda: (s := camera_status(robot, node, 30)) and int(s[1]["frames held"]) > 2 and s)
        assert 0 < int(values["memory [tokens]"]) <= int(values["memory budget [tokens]"]) == 400
        assert float(values["rate [Hz]"]) > 0 and int(values["skipped by the sampling rate"]) > 0
    answer = ask(robot, node)
    assert answer.frames_used >= 12 and answer.header.frame_id in names
    assert ask(robot, node, cameras=[base + "left"]).header.frame_id == "left"
    assert ask(robot, node, cameras=["rear"], horizon_s=0.3).frames_used <= 3
    timer.cancel()


def test_a_camera_without_images_is_stale_until_they_resume(robot, start_node, image):
    node = start_node(camera_timeout_s=0.5, **NO_CAPTIONS)

    def newest(text):
        return [s for s in statuses(robot, f"{node.name}: {node.topic}")[:1] if text in s.message]

    assert robot.wait(lambda: newest("no image yet: nobody publishes"))
    robot.publish(node.topic, image(time.time()))
    assert robot.wait(lambda: newest("stale: no image for"))[0].level == b"\x02"
    robot.destroy_publisher(node.topic)
    resumed_s = time.time()
    robot.publish_and_wait(node, image(resumed_s))  # from another publisher
    timer = robot.node.create_timer(0.1, lambda: robot.publish(node.topic, image(time.time())))
    assert robot.wait(lambda: newest("OK"))[0].level == b"\x00"
    timer.cancel()
    assert ask(robot, node).header.stamp.sec >= int(resumed_s)
