"""Annotation files: valid samples and the order of their media, and errors of invalid ones."""

import json
from pathlib import Path

import pytest
from damage import damaged_json
from fuzzing import FUZZ
from hypothesis import given

from penguin_models.errors import DataError
from penguin_training.data.annotations import Annotation, AnnotationFile, parse_annotation, parse_line, sample_id


def parse(raw, root):
    return parse_annotation(raw, root, "file:1")


def test_media_are_in_the_order_of_their_placeholders(tmp_path, conversation):
    raw = {
        "id": 7,
        "image": ["a.png", "b.png"],
        "video": "c",
        "conversations": conversation("<image>\n<video>\nand <image>?", "Yes."),
    }
    sample = parse(raw, tmp_path)
    assert sample.id == "7"
    assert [(p.path.name, p.is_clip) for p in sample.media] == [("a.png", False), ("c", True), ("b.png", False)]
    content = sample.messages[0]["content"]
    assert [part["type"] for part in content] == ["image", "video", "text", "image", "text"]
    assert content[2]["text"] == "and " and content[4]["text"] == "?"
    assert sample.messages[1] == {"role": "assistant", "content": "Yes."}


def test_a_sample_without_a_conversation_is_only_for_the_encoder(tmp_path):
    sample = parse({"image": "chart.png"}, tmp_path)
    assert sample.id == "file:1" and not sample.has_text and len(sample.media) == 1
    assert not parse({"image": "chart.png", "conversations": []}, tmp_path).has_text
    assert parse({"text": "words"}, tmp_path).has_text


def test_an_id_with_a_lone_surrogate_can_be_printed(tmp_path):
    assert parse({"id": "half \udc80", "text": "words"}, tmp_path).id == "half \\udc80"


def test_null_counts_as_absent(tmp_path, conversation):
    """Tables give every sample every column."""
    nothing = dict.fromkeys(("id", "image", "video", "conversations", "text", "independent_turns"))
    said = conversation("What?", "A cup.")
    for raw in ({"text": "words"}, {"image": "x.png"}, {"conversations": said}):
        assert parse(nothing | raw, tmp_path) == parse(raw, tmp_path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1], "must be an object"),
        ({"id": 1}, r"none of media, `conversations` .*, `messages` .* or `text`, only id; convert it"),
        ({"text": " "}, "text must be a string that is not blank"),
        ({"text": "a", "image": "b"}, "a sample with text cannot have media"),
        ({"text": "bad \udc80"}, r"text is not valid Unicode \(character 4: '.udc80'\); fix it"),
        ({"image": "\ud800.png"}, "image is not valid Unicode"),
        ({"conversations": [{"from": "gpt", "value": "\udc80"}]}, "a turn's text is not valid Unicode"),
        ({"image": [3]}, "image must be a path or a list of paths"),
        ({"conversations": "x"}, "must be a list of turns"),
        ({"conversations": []}, "none of media, .* only conversations; convert it"),
        ({"text": None, "independent_turns": 1}, "none of media, .* only independent_turns; convert it"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "; supported are human, user, gpt, assistant, system"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "; supported are human, user, gpt, assistant, system"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "no turn of the assistant"),
        (
            {
                "image": ["a", "b"],
                "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}],
            },
            "has 1 <image> but the sample names 2",
        ),
    ],
)
def test_invalid_samples_are_refused(tmp_path, raw, message):
    with pytest.raises(DataError, match=message):
        parse(raw, tmp_path)


def test_lines_are_read_on_access_and_blank_ones_are_skipped(tmp_path, jsonl):
    path = jsonl(tmp_path / "a.jsonl", [{"id": f"é{i}", "text": "x" * i + "y"} for i in range(5)])
    path.write_text("\n  \n" + path.read_text() + "{broken\n")
    file = AnnotationFile(path)
    assert len(file) == 6
    assert [file[i].text for i in (4, 0, 2)] == ["xxxxy", "y", "xxy"] and file[1].id == "é1"
    with pytest.raises(DataError, match="not JSON"):
        file[5]
    assert file.name(5) == "a.jsonl:6"


def test_a_json_list_and_its_errors(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}]))
    assert [AnnotationFile(path)[i].text for i in (0, 1)] == ["a", "b"]
    for text, message in (("{}", "holds a dict, not a list"), ("[", "is not JSON"), ("[]", "has no samples")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            AnnotationFile(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        AnnotationFile(tmp_path / "none.jsonl")


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_only_does_not_hide_samples_that_are_not_objects(tmp_path, ending):
    rows = ["[1, 2]", '"words"', "null", '{"text": "a", "family": "a"}']
    path = tmp_path / f"a.{ending}"
    path.write_text("\n".join(rows) if ending == "jsonl" else f"[{','.join(rows)}]")
    file = AnnotationFile(path, only={"family": ["a"]})
    assert len(file) == 4 and file[3].text == "a" and file.name(0) == f"a.{ending}:1"
    for row in range(3):
        with pytest.raises(DataError, match="must be an object"):
            file[row]


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    deep = "[" * 200_000
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{deep}\n')
    with pytest.raises(DataError, match="not JSON: maximum recursion"):
        AnnotationFile(tmp_path / "a.jsonl")[1]
    (tmp_path / "a.json").write_text(deep)
    with pytest.raises(DataError, match="is not JSON: maximum recursion"):
        AnnotationFile(tmp_path / "a.json")


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_samples_can_be_selected_by_their_fields(tmp_path, jsonl, ending):
    rows = [{"text": str(i), "family": "ab"[i % 2], "split": "xyz"[i % 3]} for i in range(6)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    if ending == "json":
        path = tmp_path / "a.json"
        path.write_text(json.dumps(rows))
    file = AnnotationFile(path, only={"family": ["a"], "split": ["x", "y"]})
    assert [file[i].text for i in range(len(file))] == ["0", "4"] and file.name(1) == f"a.{ending}:5"
    with pytest.raises(DataError, match=r"has no samples with .'family': ..c"):
        AnnotationFile(path, only={"family": ["c"]})


def test_conversations_can_be_ignored(tmp_path, jsonl):
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cup."}]
    path = jsonl(tmp_path / "a.jsonl", [{"image": "x.png", "conversations": turns}, {"text": "A cup."}])
    assert AnnotationFile(path)[0].has_text and AnnotationFile(path)[1].has_text
    file = AnnotationFile(path, conversations=False)
    assert not file[0].has_text and file[0].media[0].path == tmp_path / "x.png"
    with pytest.raises(DataError, match="none of media, only text"):
        file[1]


def test_paths_are_relative_to_the_file_or_the_root(tmp_path, jsonl):
    path = jsonl(tmp_path / "a.jsonl", [{"image": "x.png"}])
    assert AnnotationFile(path)[0].media[0].path == tmp_path / "x.png"
    assert AnnotationFile(path, tmp_path / "root")[0].media[0].path == tmp_path / "root" / "x.png"


SAMPLE = json.dumps(
    {
        "id": 7,
        "image": ["a.png", "file:///b.png"],
        "video": "c",
        "independent_turns": True,
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "image_url", "image_url": {"url": "d.png"}}]},
            {"role": "user", "content": "<image><video>?"},
            {"role": "assistant", "content": "Yes."},
        ],
    }
)


@FUZZ
@given(damaged_json(json.loads(SAMPLE)))
def test_a_damaged_line_is_a_sample_or_an_error(text):
    """Its error and its id can be printed, and its paths are possible ones."""
    raw = parse_line(text)
    assert len(sample_id(raw, "file:1").encode()) < 1_000
    for conversations in (True, False):
        try:
            sample = parse_annotation(raw, Path("/data"), "file:1", conversations)
        except DataError as err:
            assert len(str(err).encode()) < 3_000
        else:
            assert isinstance(sample, Annotation)
            for reference in sample.media:
                assert reference.frames or reference.path.exists() in (True, False)


def test_a_strange_line_costs_no_other(tmp_path):
    strange = [b"\xff\xfe", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}', b'{"id": 1e999}']
    strange += [b'{"id": 1, "image": "file://["}', b'{"video": "' + b"x" * 5000 + b'"}', b'{"video": "a\\u0000b"}']
    strange += [b'{"id": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}"]
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join([b'{"text": "first"}', *strange, b'{"text": "last"}']))
    samples = AnnotationFile(file)
    for row in range(1, 1 + len(strange)):
        assert samples.name(row)
        with pytest.raises(DataError):
            samples[row]
    assert (samples[0].text, samples[len(strange) + 1].text) == ("first", "last")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf[{"text": "first"}]')
    assert AnnotationFile(tmp_path / "a.json")[0].text == "first"
