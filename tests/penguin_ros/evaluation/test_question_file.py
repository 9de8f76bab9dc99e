"""Files of questions: valid lines are read, and malformed lines get a clear error."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from damage import damaged_json
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags.plan import check_time
from penguin_ros.evaluation.question_file import (
    ExpectedChoice,
    ExpectedObjects,
    Question,
    format_question,
    parse_question,
    read_good_questions,
    read_questions,
    write_questions,
)
from penguin_ros.recording import ImageRef, Recording

TEXT = {"type": "text", "accept": ["red"]}
GOOD = {"id": "q1", "time_s": 1.5, "question": "What colour is it?", "expected": [TEXT]}


def line(**changes):
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value is not ...})


def test_every_type_of_expected_result_is_read():
    expected = [
        TEXT | {"metric": "anls"},
        {"type": "number", "value": 3, "tolerance": 1},
        {"type": "choice", "options": ["a", "b"], "answer": "B"},
        {"type": "objects", "objects": [{"label": ["mug", "cup"], "box": [1, 2, 3, 4]}]},
        {"type": "objects", "topic": "/truth"},
        {"type": "time_range", "accept": [[1, 2.5]]},
        {"type": "not_there"},
    ]
    question = parse_question(line(expected=expected, camera=["/a", "/b"], evidence_s=[0, 1]))
    assert [item.type for item in question.expected] == [item["type"] for item in expected]
    assert question.expected[3].objects[0].labels == ("mug", "cup")
    assert question.cameras == ("/a", "/b") and question.group == "text"


def test_optional_fields_have_defaults():
    question = parse_question(line())
    assert (question.bag, question.cameras, question.kind, question.horizon_s) == (None, (), "", 0)
    assert parse_question(line(time_s=..., stamp_ns=17)).stamp_ns == 17
    assert parse_question(line(kind="colour")).group == "colour"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON: .* at line 1 column 1"),
        ("[]", "should be an object"),
        (line(id=...), "id: Field required"),
        (line(id=""), "id: String should have at least 1 character"),
        (line(answer="red"), "answer: Extra inputs are not permitted"),
        (line(time_s=...), "set either time_s or stamp_ns"),
        (line(stamp_ns=5), "set either time_s or stamp_ns"),
        (line(time_s=-1), "time_s: .*greater than or equal to 0"),
        (line(time_s="soon"), "time_s: "),
        (line(question="  "), "the question is empty"),
        (line(expected=[]), "expected: .*at least 1 item"),
        (line(expected=[{"type": "word"}]), "expected.0: .*'word'.*'text', 'number', 'choice'"),
        (line(expected=[{"accept": ["red"]}]), "expected.0: .*discriminator"),
        (
            line(expected=[TEXT, TEXT | {"metric": "bleu"}]),
            "expected.1.text.metric: Input should be 'exact', 'normalised'",
        ),
        (line(expected=[TEXT | {"accept": []}]), "expected.0.text.accept"),
        (line(expected=[{"type": "number", "value": 1, "tolerance": -1}]), "tolerance"),
        (line(expected=[{"type": "choice", "options": ["a", "b"], "answer": "C"}]), "answer 'C' must be .* A to B"),
        (line(expected=[{"type": "objects"}]), "set either objects or topic"),
        (line(expected=[{"type": "objects", "objects": [{"label": "a", "box": [3, 0, 1, 1]}]}]), r"box \[3.0, .*x1"),
        (
            line(expected=[{"type": "objects", "unit": "1000", "objects": [{"label": "a", "box": [0, 0, 1, 1001]}]}]),
            "unit 1000 must lie within 0 and 1000",
        ),
        (line(expected=[{"type": "time_range", "accept": [[3, 2]]}]), r"\[3.0, 2.0\] ends before it starts"),
        (line(evidence_s=[3, 2]), r"evidence_s: \[3.0, 2.0\] ends before it starts"),
        (line(max_new_tokens=0), "max_new_tokens"),
    ],
)
def test_a_malformed_line_gets_a_clear_error(text, message):
    with pytest.raises(EvaluationError, match=message) as raised:
        parse_question(text)
    assert "\n" not in str(raised.value) and "pydantic" not in str(raised.value)


def test_malformed_lines_are_numbered(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join([line(), "", line(id="q2", time_s=-1), line(id="q3", expected=[]), line()]))
    with pytest.raises(EvaluationError) as raised:
        read_questions(file)
    message = str(raised.value)
    assert message.startswith(f"{file}: line 3: time_s") and "line 4: expected" in message
    assert message.endswith("line 5: id 'q1' is already used in line 1") and "line 2" not in message


def test_at_most_ten_malformed_lines_are_named(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("nonsense\n" * 25)
    with pytest.raises(EvaluationError, match=r"line 10: .*; and 15 more$") as raised:
        read_questions(file)
    assert "line 11" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no questions"), (b"\n \n", "has no questions"), (b"\xff\xfe", "line 1: Invalid JSON")],
)
def test_files_without_questions_are_refused(tmp_path, content, message):
    file = tmp_path / "q.jsonl"
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=message):
        read_questions(file)


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(EvaluationError, match=r"no.jsonl cannot be read: No such file"):
        read_questions(tmp_path / "no.jsonl")


@given(
    st.builds(
        Question,
        id=st.text(min_size=1),
        time_s=st.floats(0, 1e6),
        stamp_ns=st.none(),
        question=st.text(min_size=1).filter(str.strip),
        camera=st.none() | st.just("/camera"),
        kind=st.sampled_from(["", "count"]),
        evidence_s=st.none() | st.just((1.0, 2.0)),
        expected=st.lists(
            st.sampled_from(
                [
                    ExpectedChoice(options=["a", "b"], answer="A"),
                    ExpectedObjects(objects=[], unit="1000"),
                    ExpectedObjects(topic="/truth"),
                ]
            ),
            min_size=1,
        ),
    )
)
def test_a_formatted_question_is_parsed_back(question):
    assert parse_question(format_question(question)) == question


def test_a_written_file_is_read_back(tmp_path):
    questions = [parse_question(line(question="Où?")), parse_question(line(id="q2"))]
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions
    assert (tmp_path / "q.jsonl").read_text().count("null") == 0


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_feeds_end_lines(tmp_path, end):
    """JSON may contain other line breaks unescaped, and an editor may add a byte-order mark."""
    text = "one\N{LINE SEPARATOR}two\N{PARAGRAPH SEPARATOR}three\N{NEXT LINE}four?"
    questions = [parse_question(line(question=text)), parse_question(line(id="q2"))]
    written = "".join(format_question(question) + end for question in questions)
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + written.encode())
    assert "\N{LINE SEPARATOR}" in written and read_questions(tmp_path / "q.jsonl") == questions


def test_the_examples_in_the_documentation_are_valid():
    """They cover every type of expected result, and the table lists every field."""
    words = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    fields, block = re.search(r"## The questions file(.*?)```json\n(.*?)```", words, re.DOTALL).groups()
    questions = [parse_question(text) for text in block.splitlines()]
    kinds = {"text", "number", "choice", "objects", "time_range", "not_there"}
    assert {question.expected[0].type for question in questions} == kinds
    assert set(re.findall(r"^\| `(\w+)` \|", fields, re.MULTILINE)) == set(Question.model_fields)


RECORDING = Recording(Path("kitchen"), ("/left",), (), (ImageRef("/left", 5, 5, 0),), {}, 0)
FULL = line(
    bag="kitchen",
    camera=["/left", "/right"],
    evidence_s=[3.25, 4.75],
    horizon_s=30.5,
    max_new_tokens=64,
    expected=[
        {"type": "number", "value": 17.5, "tolerance": 0.125},
        {"type": "objects", "objects": [{"label": "mug", "box": [11, 12, 13, 14]}]},
        {"type": "time_range", "accept": [[21, 22]]},
        {"type": "choice", "options": ["p", "q"], "answer": "A"},
    ],
)


@FUZZ
@given(damaged_json(json.loads(FULL)))
def test_a_damaged_line_is_a_question_or_an_error(text):
    """Whatever it says, its time can be compared with a recording, and it can be written."""
    try:
        question = parse_question(text)
    except EvaluationError as err:
        assert len(str(err)) < 1_000
        return
    assert parse_question(format_question(question)) == question
    with suppress(EvaluationError):
        check_time(RECORDING, question)


def test_good_lines_are_read_next_to_bad_ones(tmp_path):
    file = tmp_path / "q.jsonl"
    bad = [b"\xff\xfe", b"[" * 100_000, b'{"id": ' + b"9" * 5000, line(time_s=1e300).encode(), b'{"id": "\\ud800"}']
    bad += [line(time_s=...).encode()[:-1] + b', "stamp_ns": 1' + b"0" * 5000 + b"}", b'"' + b"x" * 1_000_000 + b'"']
    file.write_bytes(b"\n".join([*bad, line(id="good").encode()]))
    questions, problems = read_good_questions(file)
    assert [question.id for question in questions] == ["good"]
    assert [problem.split(":")[0] for problem in problems] == [f"line {number}" for number in range(1, 1 + len(bad))]
    assert max(map(len, problems)) < 400
