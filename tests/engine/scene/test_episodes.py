"""The contract of EpisodeStore, in an SQLite file and in a PostgreSQL database."""

import io
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stored_episodes import NOW, S, captions, episode, eventually, stored

from penguin_engine.scene import episode_search
from penguin_engine.scene.episode import EpisodeFilter, Place, Pose, Quota
from penguin_engine.scene.episodes import open_episodes, read_episodes
from penguin_models.errors import EpisodeError, SettingError

BACKENDS = ("sqlite", "postgresql")


def new_location(backend, request):
    """Returns a location where nothing is yet."""
    if backend == "sqlite":
        return str(request.getfixturevalue("tmp_path_factory").mktemp("episodes") / "new" / "e.db")
    return f"{request.getfixturevalue('postgres').lend_database(request)}&robot=robbie"


@pytest.fixture(params=BACKENDS)
def location(request):
    return new_location(request.param, request)


def check_file(location):
    """Raises an error if an SQLite file and its index are not sound."""
    if location.endswith(".db"):
        with closing(sqlite3.connect(location)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def test_an_episode_comes_back_with_a_small_picture(location, picture):
    pose = Pose("map", (1.0, -2.0, 0.5), (0.0, 0.0, 1.0, 0.0))
    with open_episodes(location) as store:
        assert store.add(episode("a cup", labels=("red cup",), pose=pose), picture(600, 1200))
        assert store.add(episode("no picture", 1)) and store.add(episode("small", 2), picture(30, 40))
        assert store.flush(20)
        first, second, third = store.range()
        assert replace(first, jpeg=b"", id=0, robot="") == episode("a cup", labels=("red cup",), pose=pose)
        with Image.open(io.BytesIO(first.jpeg)) as image:
            assert image.format == "JPEG" and image.size == (448, 224)
            error = np.asarray(image, float) - np.asarray(Image.fromarray(picture(600, 1200)).resize(image.size), float)
        assert abs(error).mean() < 8 and second.jpeg == b""
        assert Image.open(io.BytesIO(third.jpeg)).size == (40, 30)
        assert store.get(first.id) == first and store.get(99) is None
        assert {item.robot for item in (first, second, third)} == {"" if location.endswith(".db") else "robbie"}
        assert store.status.written == 3 and not store.status.problem


def test_an_episode_of_the_same_camera_and_stamp_completes_the_earlier_one(location):
    """Its id stays; what the later one leaves empty does too; and the index finds the new words only."""
    pose = Pose("map", (1.0, 2.0, 3.0))
    others = (episode("a dog"), episode("a lamp", 1, camera="/rear"))
    stored(location, *others, episode("", 1, jpeg=b"first"), episode("a red cup", 1, ("cup",)))
    stored(location, replace(episode("", 1), frame_id="", pose=pose), episode("", 1, ("blue cup",), jpeg=b"second"))
    stored(location, episode("a table", 1), *others)
    *_, found = read_episodes(location).range(EpisodeFilter(("/front",)))
    assert replace(found, robot="") == episode("a table", 1, ("blue cup",), pose=pose, jpeg=b"second", id=3)
    assert [item.id for item in read_episodes(location).range()] == [1, 2, 3]
    found = {text: captions(location, text) for text in ("red", "blue", "table", "dog", "lamp")}
    assert found == {"red": [], "blue": ["a table"], "table": ["a table"], "dog": ["a dog"], "lamp": ["a lamp"]}
    check_file(location)


@pytest.fixture(scope="module", params=BACKENDS)
def seen(request):
    """A store with a few episodes at different times and places."""
    location = new_location(request.param, request)
    stored(
        location,
        episode("a red cup on the table", 0, ("red cup", "table"), pose=Pose("map", (0, 0, 0))),
        episode("a blue cup", 10, ("blue cup",), pose=Pose("map", (3, 4, 0))),
        episode("an empty room", 20, ("dark red", "cup holder"), camera="/rear", pose=Pose("odom", (0, 0, 0))),
        episode("the red cups", 30, pose=Pose("map", (3, 4, 1))),
        episode("the red cups", 25),
        episode("Ein Café", 5),
    )
    return location


@pytest.mark.parametrize(
    ("text", "conditions", "found"),
    [
        ("where was the blue cup?", {}, ["a blue cup", "the red cups", "the red cups"]),  # then those with one word
        ("table", {}, ["a red cup on the table"]),
        ("CAFE", {}, ["Ein Café"]),
        ("giraffe", {}, []),
        ("?!", {}, []),
        ("", {"since_ns": NOW + 20 * S, "until_ns": NOW + 25 * S}, ["the red cups", "an empty room"]),
        ("cup", {"until_ns": NOW + 9 * S}, ["a red cup on the table"]),
        ("", {"cameras": ("/rear",)}, ["an empty room"]),
        ("", {"objects": ("red cup",)}, ["a red cup on the table"]),  # and not those of dark red, cup holder
        ("", {"objects": ("CUP", "table")}, ["a red cup on the table"]),
        ("", {"objects": ("?",)}, []),
        ("", {"near": Place("map", (0, 0, 0), 5.0)}, ["a blue cup", "a red cup on the table"]),
        ("red", {"near": Place("map", (0, 0, 0), 4.9)}, ["a red cup on the table"]),
        ("", {"near": Place("odom", (0, 0, 0), 0.0)}, ["an empty room"]),
    ],
)
def test_search_by_text_time_camera_object_and_place(seen, text, conditions, found):
    assert captions(seen, text, **conditions)[:3] == found


@pytest.mark.parametrize("text", ["", "red"])
def test_a_place_with_many_episodes_is_searched_in_another_way_that_finds_the_same(seen, text, monkeypatch):
    places = [Place(frame, (0, 0, 0), radius_m) for frame in ("map", "odom") for radius_m in (0.0, 4.9, 5.0)]
    few = [captions(seen, text, near=place) for place in places]
    in_time = [list(read_episodes(seen).range(EpisodeFilter(near=place))) for place in places]
    monkeypatch.setattr(episode_search, "_COMMON", 0)
    assert [captions(seen, text, near=place) for place in places] == few and any(few)
    assert [list(read_episodes(seen).range(EpisodeFilter(near=place))) for place in places] == in_time


def test_results_are_in_order_of_relevance_then_newest_first(seen):
    stamps = [(found.stamp_ns - NOW) // S for found in read_episodes(seen).search("red cups")]
    assert stamps.index(30) + 1 == stamps.index(25) and set(stamps) == {0, 10, 20, 25, 30}
    assert len(read_episodes(seen).search("red", limit=1)) == 1 and read_episodes(seen).search(limit=0) == []
    assert [(e.stamp_ns - NOW) // S for e in read_episodes(seen).range()] == [0, 5, 10, 20, 25, 30]


_TEXT = st.binary(max_size=60).map(lambda data: data.decode("utf-16-le", "replace"))
_FTS = st.lists(st.sampled_from([*'"*^:(){}+-,\0\ud800', " NEAR(", " AND ", " NOT ", "caption:", "cup", "é", "'", "|"]))


@given(st.one_of(_TEXT, _FTS.map("".join)), st.integers(-(2**70), 2**70))
def test_any_text_is_searched_and_stored(seen, text, number):
    reader = read_episodes(seen)
    where = EpisodeFilter((text, "/front"), -abs(number), abs(number) + NOW, near=Place(text, (0, 0, 0), 1))
    assert reader.search(text, where) == [] and isinstance(reader.search(text), list) and reader.get(2**64) is None
    assert isinstance(reader.search(where=EpisodeFilter(objects=(text,))), list)


@pytest.mark.parametrize("text", ['"; DROP TABLE episodes; --', "caption: NEAR(a b) | \0 \ud800", "名é" * 25_000])
def test_any_text_is_stored(location, text, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    name = text[:500]
    item = replace(episode(text, labels=("a|b c", "\ud800")), frame_id=text, camera=name, pose=Pose(name, (0, 0, 0)))
    assert stored(location, item).written == 1
    assert read_episodes(location).search(where=EpisodeFilter((name,)))[0].objects == item.objects
    assert len(read_episodes(location).search(text)) == 1


WRITER = """
import sys
from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import open_episodes
store = open_episodes(sys.argv[1])
for number in range(1_000_000):
    store.add(Episode("/front", 1_700_000_000_000_000_000 + number, caption=f"number {number}", jpeg=b"x" * 5000))
    if number % 50 == 0:
        store.flush(20)
        print(number, flush=True)
"""
UNFLUSHED = """
import sys, time
from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import open_episodes
store, number = open_episodes(sys.argv[1]), 0
while True:
    store.add(Episode("/front", 1_700_000_000_000_000_000 + number, caption=f"number {number}", jpeg=b"x" * 5000))
    number += 1
    time.sleep(0.02)
"""


def held(location):
    try:
        return read_episodes(location).summary().episodes
    except EpisodeError:  # nothing has been written
        return 0


def refused(location):
    try:
        open_episodes(location).close()
    except EpisodeError:
        return True
    return False


def test_a_killed_writer_loses_nothing_that_was_flushed_and_lets_go(location):
    """While it writes: another process reads, and a second writer gets an error that names the first."""
    with subprocess.Popen([sys.executable, "-c", WRITER, location], stdout=subprocess.PIPE, text=True) as writer:
        assert [int(writer.stdout.readline()) for _ in range(5)][-1] == 200
        for _ in range(2):  # the attempt of one contender must not hide the owner from the next
            with pytest.raises(EpisodeError, match=rf"already written by process {writer.pid} \(.*\) on .*; stop it"):
                open_episodes(location)
        assert captions(location, "150") == ["number 150"] and read_episodes(location).summary().episodes > 200
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        last = [200, *map(int, writer.stdout.read().split())][-1]
    assert read_episodes(location).summary().episodes > last
    eventually(lambda: not refused(location))  # a server needs a moment
    status = stored(location, episode("afterwards", 1))
    assert status.written == 1 and not status.problem
    found = [int(e.caption.split()[1]) for e in read_episodes(location).range() if e.caption != "afterwards"]
    assert found == list(range(len(found))) and len(found) > last
    check_file(location)


def test_a_killed_writer_has_stored_what_it_never_flushed(location):
    """The thread commits while episodes keep coming: nothing waits for a quiet moment or a call."""
    with subprocess.Popen([sys.executable, "-c", UNFLUSHED, location]) as writer:
        try:
            eventually(lambda: held(location) >= 100)
        finally:
            writer.kill()
    found = [int(e.caption.split()[1]) for e in read_episodes(location).range()]
    assert found == list(range(len(found)))
    check_file(location)


def test_old_episodes_leave_and_a_stamp_in_the_future_removes_none(location):
    stored(location, *(episode(f"{i}", 10 * i) for i in range(5)))
    stored(location, episode("5", 50), quota=Quota(max_age_s=25))  # removes what was too old before it
    stored(location, replace(episode("future"), stamp_ns=2**62), quota=Quota(max_age_s=10**9))
    assert captions(location) == ["future", "5", "4", "3", "2"]


def test_a_clock_that_jumps_back_beyond_the_age_of_the_quota_is_said(location):
    """Such as that of a simulation, in the file of a robot: what it sees would be deleted at the next write."""
    with open_episodes(location, Quota(max_age_s=100)) as store:
        assert store.add(episode("first")) and store.flush(20)
        assert store.add(replace(episode("restarted"), stamp_ns=5 * S)) and store.flush(20)
        assert store.add(episode("a little back", -90)) and store.flush(20)
        assert (store.status.written, store.status.lost) == (2, 1)
        assert "its stamp 5.000 s is before 1699999900.000 s, the oldest that" in store.status.problem
    assert stored_lost(location, replace(episode("again"), stamp_ns=6 * S), Quota(max_age_s=100)) == 1
    assert captions(location) == ["first", "a little back"]


def test_without_an_age_no_episode_is_too_old(location):
    unlimited = Quota(2**62, float("inf"))
    stored(location, episode("now"), replace(episode("simulated"), stamp_ns=0), quota=unlimited)
    stored(location, replace(episode("first"), stamp_ns=-(2**63)), quota=unlimited)
    assert [found.caption for found in read_episodes(location).range()] == ["first", "simulated", "now"]


def stored_lost(location, item, quota):
    """Returns the number of lost episodes of a store that is opened for one."""
    with open_episodes(location, quota) as store:
        assert store.add(item) and store.flush(20)
        return store.status.lost


def test_what_cannot_be_stored_is_lost_alone(location):
    with open_episodes(location, Quota(4_000_000)) as store:
        for bad in (replace(episode(), stamp_ns=2**63), episode(jpeg=bytes(500_000)), episode(camera="c" * 501)):
            assert store.add(bad) and store.add(episode()) and store.flush(20)
        for shape, kind in (((2, 0, 3), "uint8"), ((2, 3), "uint8"), ((2, 3, 4), "uint8"), ((2, 3, 3), "uint16")):
            assert store.add(episode(), np.zeros(shape, kind)) and store.flush(20)
        assert (store.status.written, store.status.lost) == (3, 7)
        assert store.status.problem.endswith("its picture is uint16 [2, 3, 3], it must be uint8 [height, width, 3]")
    for wrong in (lambda: Quota(1000), lambda: Quota(max_age_s=0), lambda: Place("map", (0, 0, float("nan")), 1)):
        with pytest.raises(SettingError):
            wrong()
