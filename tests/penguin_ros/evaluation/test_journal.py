"""The journal: what an interrupted run leaves on disk, and that answers of other runs are refused."""

import json
from contextlib import suppress

import pytest

from penguin_models.errors import EvaluationError, WriteError
from penguin_ros.evaluation.journal import Journal, run_key
from penguin_ros.evaluation.records import AnswerRecord, FrameRecord, ModelSpec, RunSettings, Timeline
from penguin_ros.evaluation.results import ModelInfo


def record(name="q", **fields):
    return AnswerRecord(question=name, method="memory", key="k", time_s=1.5, **fields)


def journal_of(folder, run="run", recording="images"):
    return Journal(folder, "bag", run, recording)


def write(folder, *records):
    journal = journal_of(folder)
    for item in records:
        journal.write(item)
    timeline = Timeline(camera="/a", method="memory", token_budget=60)
    timeline.tokens.append(20)
    journal.write(timeline)
    journal.close()
    return folder / "progress" / "bag.jsonl"


def test_answers_and_timelines_are_read_back(tmp_path):
    first, second = record(raw="red", spans=[(1.0, 2.0)]), record("p", error="why")
    write(tmp_path, first, second)
    progress = journal_of(tmp_path).read()
    assert progress.answers == {("q", "memory", "k"): first, ("p", "memory", "k"): second}
    assert progress.timelines["/a", "memory"].tokens == [20]


def test_an_incomplete_last_line_is_ignored_and_overwritten(tmp_path):
    file = write(tmp_path, record("a"), record("b"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])
    journal = journal_of(tmp_path)
    assert {name for name, _, _ in journal.read().answers} == {"a"}
    journal.write(record("c"))
    journal.close()
    assert {name for name, _, _ in journal_of(tmp_path).read().answers} == {"a", "c"}


def test_every_answer_is_on_disk_immediately(tmp_path):
    journal = journal_of(tmp_path)
    for count in range(1, 4):
        journal.write(record(f"q{count}"))
        assert len(journal_of(tmp_path).read().answers) == count
    journal.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"run": "other"}, "of another model or other settings"),
        ({"recording": "other"}, "about another recording"),
        ({"run": "other", "recording": None}, "of another model or other settings"),
    ],
)
def test_answers_of_another_run_are_refused_until_they_are_discarded(tmp_path, other, message):
    write(tmp_path, record())
    journal = journal_of(tmp_path, **other)
    with pytest.raises(EvaluationError, match=rf"bag.jsonl holds answers {message}; choose another --out.*--overwrite"):
        journal.read()
    journal.discard()
    assert journal.read().answers == {}


def test_answers_of_another_version_are_refused(tmp_path):
    file = write(tmp_path, record())
    file.write_text(file.read_text().replace('{"format":3,', '{"format":2,', 1))
    with pytest.raises(EvaluationError, match="holds answers of another version of this program"):
        journal_of(tmp_path).read()


def test_answers_about_an_unreadable_recording_can_be_read(tmp_path):
    write(tmp_path, record())
    assert journal_of(tmp_path, recording=None).read() == journal_of(tmp_path).read()


@pytest.mark.parametrize(
    "damage", ["nonsense", "[]", json.dumps({"answer": {"question": 1}}), json.dumps({"something": 1})]
)
def test_errors_name_the_damaged_line(tmp_path, damage):
    file = write(tmp_path, record("a"), record("b"))
    lines = file.read_text().splitlines()
    lines[2] = damage
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(EvaluationError, match=r"bag.jsonl, line 3 is damaged; discard it with --overwrite"):
        journal_of(tmp_path).read()


def test_a_binary_file_is_reported_as_damaged(tmp_path):
    file = write(tmp_path, record())
    file.write_bytes(file.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(EvaluationError, match=r"bag.jsonl, line 4 is damaged; discard it with --overwrite"):
        journal_of(tmp_path).read()


def pictured(bag, jpeg):
    frame = FrameRecord(camera="/a", stamp_ns=1, time_s=0.0, width=8, height=8, file=f"{bag}/a.jpg", jpeg=jpeg)
    return record(frame=frame)


def test_pictures_are_written_once_until_they_are_discarded(tmp_path):
    journal = journal_of(tmp_path)
    other = Journal(tmp_path, "other bag", "run", "images")
    other.write(pictured("other bag", b"other"))
    for jpeg in (b"jpeg", b"ignored"):
        journal.write(pictured("bag", jpeg))
    assert (tmp_path / "frames" / "bag" / "a.jpg").read_bytes() == b"jpeg"
    assert "jpeg" not in (tmp_path / "progress" / "bag.jsonl").read_text().replace("a.jpg", "")
    for item in (journal, other):
        item.close()
    journal.discard()
    journal.write(pictured("bag", b"new"))
    journal.close()
    assert (tmp_path / "frames" / "bag" / "a.jpg").read_bytes() == b"new"
    assert (tmp_path / "frames" / "other bag" / "a.jpg").read_bytes() == b"other"


def test_an_unwritable_folder_is_a_clear_error(tmp_path):
    (tmp_path / "progress").touch()
    (tmp_path / "frames").touch()
    with pytest.raises(WriteError, match=r"bag.jsonl cannot be written: .*, or choose another place"):
        journal_of(tmp_path).write(record())
    with pytest.raises(WriteError, match=r"a.jpg cannot be written: .*, or choose another place"):
        journal_of(tmp_path).write(pictured("bag", b"jpeg"))


def test_on_a_full_disk_complete_answers_stay(small_disk):
    disk = small_disk(16)
    journal, written = journal_of(disk), 0
    with pytest.raises(WriteError, match=r"bag.jsonl cannot be written: No space left on device"):
        while True:
            journal.write(record(str(written)))
            written += 1
    with suppress(WriteError):
        journal.close()
    assert written > 3 and len(journal_of(disk).read().answers) == written


def test_the_run_key_changes_with_everything_that_answers_depend_on():
    settings = RunSettings()

    def model(model_hash="hash", device="cpu", **spec):
        asked = ModelSpec(**{"path": "m", "device": "auto"} | spec)
        return ModelInfo(spec=asked, hash=model_hash, runtime="torch", dtype="float32", device=device)

    base = run_key(model(), settings)
    assert run_key(model(), RunSettings(methods=["memory", "last-4"])) == base  # methods may be added
    assert run_key(model(path="elsewhere", threads=3), settings) == base
    for other in (
        run_key(model("other hash"), settings),
        run_key(model(device="cuda:0"), settings),
        run_key(model(dtype="bfloat16"), settings),
        run_key(model(), RunSettings(parameters={"token_budget": 100})),
        run_key(model(), RunSettings(parameters={"sample_rate_hz": 1.0})),
    ):
        assert other != base
