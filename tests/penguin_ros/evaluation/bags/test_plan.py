"""Bags and questions are checked against each other before a model is loaded."""

import re

import numpy as np
import pytest

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags import plan
from penguin_ros.evaluation.question_file import ExpectedObjects, ExpectedText, Question
from penguin_ros.evaluation.records import ModelSpec, RunSettings

TEXT = [ExpectedText(accept=["x"])]


def make_plan(bags, questions):
    jobs, failed, _ = plan.make_plan(bags, questions, ModelSpec(path="model"), RunSettings())
    return {job.recording.name: [question.id for question in job.questions] for job in jobs}, failed


def question(name="q", at=1.0, **fields):
    return Question(**{"id": name, "time_s": at, "question": "Which?", "expected": TEXT} | fields)


@pytest.fixture
def two(picture_bag):
    pictures = [(0, 1), (4, 2)]
    return [picture_bag({"/camera": pictures}, name=name) for name in ("kitchen", "hall")]


def test_questions_are_grouped_by_bag(two):
    asked = [question("a", bag="hall"), question("b", bag="kitchen"), question("c", bag="hall")]
    assert make_plan(two, asked) == ({"kitchen": ["b"], "hall": ["a", "c"]}, {})
    assert make_plan(two, [question(bag="hall")]) == ({"hall": ["q"]}, {})
    assert make_plan(two[:1], [question()]) == ({"kitchen": ["q"]}, {})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (question(), "question q does not name one of the 2 bags"),
        (question(bag="attic"), "question q is about bag attic; the bags are kitchen, hall"),
        (question(bag="hall", at=4.2), r"q is asked at 4.20 s, but bag hall has images of /camera from 0 to 4.00 s"),
        (question(bag="hall", time_s=None, stamp_ns=1), r"q is asked at -17000\d+.\d\d s, but bag hall"),
        (question(bag="hall", camera="/rear"), "hall has no topic /rear; its image topics: /camera"),
        (
            question(bag="hall", expected=[ExpectedObjects(topic="/truth")]),
            "hall has no topic /truth; topics with boxes: none",
        ),
    ],
)
def test_a_question_about_something_missing_is_an_error(two, asked, message):
    with pytest.raises(EvaluationError, match=message):
        make_plan(two, [asked])


def test_the_first_ten_problems_are_listed(two):
    late = [question(f"q{i}", at=9, bag="hall") for i in range(12)]
    with pytest.raises(EvaluationError, match=r"question q9 .*; and 2 more") as raised:
        make_plan(two, late)
    assert "q10" not in str(raised.value)


def test_a_missing_topic_does_not_hide_other_problems(two):
    asked = [
        question("a", bag="hall", camera="/rear"),
        question("b", bag="hall", camera=["/camera", "/rear"]),
        question("c", bag="hall", expected=[ExpectedObjects(topic="/truth")]),
        question("d", bag="hall", at=9),
        question("e", bag="kitchen", camera="/rear"),
    ]
    with pytest.raises(EvaluationError) as raised:
        make_plan(two, asked)
    for words in (
        "question a, b: bag",
        "hall has no topic /rear",
        "question c: bag",
        "hall has no topic /truth",
        "question d is asked at 9.00 s",
        "question e: bag",
    ):
        assert str(raised.value).count(words) == 1, words


def test_a_missing_topic_of_many_questions_is_reported_once(two):
    asked = [question(f"q{number}", bag="hall", camera="/rear") for number in range(9)]
    with pytest.raises(EvaluationError, match=r"question q0, q1, q2 and 6 more: bag .*hall has no topic /rear; [^;]*$"):
        make_plan(two, asked)


def test_questions_must_name_one_of_two_cameras(picture_bag):
    """Those that do not are named, and the others are asked."""
    bag = picture_bag({"/front": [(0, 1), (4, 2)], "/rear": [(0, 3), (4, 4)]})
    asked = [question("q"), question("r"), question("s", camera="/rear"), question("t", camera="/front", at=9)]
    (job,), failed, problems = plan.make_plan([bag], asked, ModelSpec(path="model"), RunSettings())
    assert ([item.id for item in job.questions], failed) == (["s"], {})
    several = f"bag {bag} has several image topics, choose one with its field camera: /front, /rear"
    assert problems[0] == f"question q, r: {several}"
    assert problems[1].startswith("question t is asked at 9.00 s, but bag bag has images of /front from 0 to 4.00 s")


def test_a_rounded_time_after_the_last_image_is_accepted(two):
    assert make_plan(two[:1], [question(at=4.0004)])[0]


def test_two_bags_with_the_same_name_are_an_error(picture_bag, tmp_path):
    first = picture_bag({"/camera": [(0, 1)]}, name="a/bag")
    second = picture_bag({"/camera": [(0, 1)]}, name="b/bag")
    with pytest.raises(EvaluationError, match="two bags are named bag"):
        make_plan([first, second], [question(bag="bag")])


def test_an_unreadable_bag_does_not_stop_the_others(two, tmp_path):
    (file,) = two[0].glob("*.mcap")
    file.write_bytes(b"\0" * 100)
    empty = tmp_path / "empty.mcap"
    empty.touch()
    jobs, failed = make_plan([*two, empty], [question(name, bag=name) for name in ("kitchen", "hall", "empty")])
    assert list(jobs) == ["hall"]
    assert re.search(rf"cannot be read: .*; .* run: mcap recover {file} -o recovered.mcap", failed["kitchen"])
    assert "is empty (0 bytes)" in failed["empty"]


def test_a_bag_without_a_good_image_of_a_camera_fails_with_the_reason(bags, two):
    good, video = bags.jpeg(np.zeros((8, 8, 3), np.uint8)), bags.compressed(b"\0\0\0\1\x67", "jpeg")
    messages = {"/good": [(0, video), (1, good)], "/video": [(n, video) for n in range(6)]}
    bag = bags.write(messages, "attic")
    jobs, failed = make_plan([bag, two[1]], [question("a", bag="attic", camera="/video"), question("b", bag="hall")])
    assert list(jobs) == ["hall"]
    start = f"bag {bag}: 6 of 6 images of /video cannot be decoded; the first: "
    assert failed["attic"].startswith(start) and "it is a packet of a video" in failed["attic"]
    assert make_plan([bag], [question(camera="/good")]) == ({"attic": ["q"]}, {})


def test_expected_boxes_must_be_close_to_the_image(bags, picture_bag):
    """Detections at 0 and 1 s, images until 4 s."""
    from penguin_ros.message_types import typestore

    types = typestore().types
    header = bags._header
    pictures = [
        (at, bags.raw(np.zeros((8, 8, 3), np.uint8), stamp_ns=10**18 + round(at * 1e9))) for at in (0, 1, 2, 3, 4)
    ]
    bags._store = typestore()
    arrays = [
        (at, types["vision_msgs/msg/Detection2DArray"](header=header(10**18 + round(at * 1e9)), detections=[]))
        for at in (0, 1)
    ]
    bag = bags.write({"/camera": pictures, "/truth": arrays})
    expected = [ExpectedObjects(topic="/truth")]
    assert make_plan([bag], [question(at=1.9, expected=expected)])[0]  # the newest image is the one of 1 s
    with pytest.raises(EvaluationError, match=r"question q: /truth has no message within 0.5 s"):
        make_plan([bag], [question(at=3, expected=expected)])


def test_images_are_limited_as_in_the_node(bags, picture):
    bag = bags.write({"/camera": [(0, bags.raw(picture(11, 10)))]})
    settings = RunSettings(parameters={"max_image_pixels": 109})
    _, failed, _ = plan.make_plan([bag], [question(at=0.0)], ModelSpec(path="model"), settings)
    assert re.search(r"1 of 1 images .*10x11 = 110 pixels, the limit is 109; .* max_image_pixels", *failed.values())


@pytest.mark.parametrize(("scaling", "levels"), [("percentiles", [0, 255]), ("full_range", [27, 29])])
def test_16_bit_grey_is_scaled_as_by_the_node(bags, scaling, levels):
    grey = np.array([[7000, 7500]], "<u2").view(np.uint8).reshape(1, 2, 2)
    bag = bags.write({"/camera": [(0, bags.raw(grey, "mono16"))]})
    settings = RunSettings(parameters={"mono16_scaling": scaling})
    (job,), _, _ = plan.make_plan([bag], [question(at=0.0)], ModelSpec(path="model"), settings)
    (image,) = job.recording.read()
    assert image.load().rgb[0, :, 0].tolist() == levels
