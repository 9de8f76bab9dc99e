"""Commands on episode files, without ROS."""

import json
import sqlite3
from contextlib import closing

import pytest
from PIL import Image
from postgres_server import PASSWORD

from penguin_engine.scene.episode import Episode, Pose, Quota
from penguin_engine.scene.episodes import open_episodes, read_episodes
from penguin_models.grounding import Box, GroundedObject

START_S = 1_700_000_000  # 2023-11-14 22:13:20 UTC


@pytest.fixture
def file(tmp_path, picture):
    """An episode file of three moments, the last one without a picture."""
    path = tmp_path / "e.db"
    red_cup = (GroundedObject("red cup", Box(1, 2, 3, 4)),)
    with open_episodes(path, Quota()) as store:
        store.add(_episode(0, "a [bold]red cup\x1b[31m", red_cup, Pose("map", (1.0, 2.0, 0.0))), picture(60, 80))
        store.add(_episode(60, "a table", camera="/rear"), picture(60, 80))
        store.add(_episode(86_400, "nothing"))
        assert store.flush(20)
    return path


def _episode(after_s, caption, objects=(), pose=None, camera="/front"):
    return Episode(camera, (START_S + after_s) * 10**9, "optical", caption, objects, pose)


def test_episodes_are_listed_in_order_of_time(cli, file):
    result = cli("episodes", "list", file)
    assert result.code == 0 and "\x1b" not in result.out
    rows = result.out.splitlines()
    assert "2023-11-14 22:13:20.000" in rows[1] and "a [bold]red cup" in rows[1] and "/rear" in rows[2]
    assert rows[-1].startswith("3 episodes, 0.") and rows[-1].endswith("to 2023-11-15 22:13:20.000; 3 shown")
    value = cli("episodes", "list", file, "--limit", 2, "--json").json
    assert value["total"] == 3 and value["bytes"] > 0
    assert [episode["caption"] for episode in value["episodes"]] == ["a table", "nothing"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [1]),
        (("--object", "red cup", "--near", "map,0,0,0,3"), [1]),
        (("--near", "map,0,0,0,2"), []),
        (("--camera", "/rear"), []),
        (("--since", "2023-11-14T22:13:20", "--until", "2023-11-14T22:13:20Z"), [1]),
        (("--since", "2023-11-15T00:13:20+02:00", "--until", START_S), [1]),
        (("--since", f"{START_S}.000000001"), []),
    ],
)
def test_search_narrows_by_its_options(cli, file, options, found):
    value = cli("episodes", "search", file, "where is the cup?", *options, "--json").json
    assert [episode["id"] for episode in value["episodes"]] == found
    plain = cli("episodes", "search", file, "where is the cup?", *options).out
    assert ("red cup" in plain) == bool(found) and ("no episode was found" in plain) == (not found)


@pytest.mark.parametrize(
    "option",
    [("--since", "noon"), ("--until", "nan"), *(("--near", text) for text in ("map,0,0,3", "m,0,0,0,-1", ",0,0,0,1"))],
)
def test_wrong_options_are_named(cli, file, option):
    result = cli("episodes", "list", file, *option)
    assert result.code == 2 and option[0] in result.err and option[1] in result.err


def test_show_prints_facts_and_writes_the_picture(cli, file, tmp_path):
    plain = cli("episodes", "show", file, 1).out
    assert "[red cup](1,2,3,4)" in plain and "in map: position (1.0, 2.0, 0.0)" in plain and "\x1b" not in plain
    value = cli("episodes", "show", file, 1, "--out", tmp_path / "1.jpg", "--json").json
    assert value["objects"] == [{"label": "red cup", "box": [1, 2, 3, 4]}] and value["stamp_ns"] == START_S * 10**9
    assert Image.open(tmp_path / "1.jpg").size == (80, 60)
    assert cli("episodes", "show", file, 3, "--out", tmp_path / "3.jpg").error.startswith(
        "episode 3 was stored without"
    )
    before = file.read_bytes()
    assert "holds the episodes; choose another" in cli("episodes", "show", file, 1, "--out", file).error
    assert file.read_bytes() == before
    assert "has no episode 9; `penguin-vl episodes list`" in cli("episodes", "show", file, 9).error


def test_export_writes_json_lines_and_pictures(cli, file, tmp_path):
    value = cli("episodes", "export", file, "--out", tmp_path / "out", "--until", START_S + 86_400, "--json").json
    lines = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()]
    assert value == {"episodes": 3, "file": str(tmp_path / "out" / "episodes.jsonl")}
    assert [line["picture"] for line in lines] == ["pictures/1.jpg", "pictures/2.jpg", None]
    assert lines[0]["pose"]["position"] == [1.0, 2.0, 0.0] and lines[1]["camera"] == "/rear"
    with Image.open(tmp_path / "out" / "pictures" / "2.jpg") as image:
        assert image.size == (80, 60) and image.format == "JPEG"
    assert "cannot be written: Not a directory" in cli("episodes", "export", file, "--out", file / "x").error


def test_prune_deletes_the_oldest(cli, file):
    for megabytes in (4, "inf"):
        assert cli("episodes", "prune", file, "--max-mb", megabytes, "--json").json["deleted"] == 0
    value = cli("episodes", "prune", file, "--max-days", 0.9, "--json").json
    assert (value["deleted"], value["episodes"]) == (2, 1)
    assert cli("episodes", "prune", file).code == 2
    for days in (0, -1, "nan"):
        result = cli("episodes", "prune", file, "--max-days", days)
        assert result.code == 2 and "must be above 0" in result.err and "--max-days" in result.err


def test_conditions_that_nothing_can_meet_are_refused(cli, file):
    for words, said in (
        (("list", file, "--since", "2026-01-02", "--until", "2026-01-01"), "exchange them"),
        (("search", file, "cup", "--object", "!!"), "a label without letters"),
        (("search", file, "  "), "no word to search for"),
    ):
        result = cli("episodes", *words)
        assert result.code == 2 and said in " ".join(result.err.split())
    with open_episodes(file):
        assert "is already written by process" in cli("episodes", "prune", file, "--max-mb", 4).error


@pytest.mark.parametrize(
    "command", [("list",), ("search", "cup"), ("show", 1), ("export", "--out", "out"), ("prune", "--max-mb", 4)]
)
@pytest.mark.parametrize(("content", "error"), [(None, "there is no episode file"), (b"x" * 9000, "not a database")])
def test_a_missing_or_damaged_file_is_one_sentence(cli, tmp_path, monkeypatch, command, content, error):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "e.db").write_bytes(content)
    assert error in cli("episodes", command[0], "e.db", *command[1:]).error
    assert not (tmp_path / "out").exists()


def test_a_file_that_another_program_locks_is_one_sentence(cli, file, monkeypatch):
    monkeypatch.setattr("penguin_engine.scene.episode_schema._BUSY_S", 0.05)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        for command in (("list", file), ("prune", file, "--max-mb", 4)):
            assert "database is locked; close the other program" in cli("episodes", *command).error


def test_every_command_takes_the_url_of_a_database(cli, postgres, request, tmp_path, picture):
    """The robot is shown, and no output holds the password."""
    url, outputs = f"{postgres.lend_database(request)}&robot=robbie", []
    with open_episodes(url) as store:
        store.add(_episode(0, "a red cup"), picture(60, 80))
        store.add(_episode(86_400, "a table"))
        assert store.flush(20)

    def run(command, *args):
        outputs.append(cli("episodes", command, url, *args))
        return outputs[-1]

    assert [line.split()[3:5] for line in run("list").out.splitlines()[1:3]] == [["robbie", "/front"]] * 2
    assert run("search", "cups", "--json").json["episodes"][0]["robot"] == "robbie"
    assert run("show", 1, "--out", tmp_path / "1.jpg").out.startswith("episode 1, robot robbie, /front, frame optical")
    assert "has no episode 9" in run("show", 9).error
    assert run("export", "--out", tmp_path / "out", "--json").json["episodes"] == 2
    assert "already written by process" not in run("prune", "--max-days", 0.5).out
    assert [item.caption for item in read_episodes(url).range()] == ["a table"]
    url = url.replace("/episodes", "/absent")
    assert "does not exist" in run("list").error and "does not exist" in run("prune", "--max-mb", 4).error
    assert not any(PASSWORD in text or "fjord" in text for result in outputs for text in (result.out, result.err))
