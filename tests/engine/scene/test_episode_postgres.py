"""Episodes in a PostgreSQL database: several robots, servers that stop, rights, versions, and passwords."""

import socket
import sys
from contextlib import closing

import psycopg
import pytest
from postgres_server import PASSWORD
from stored_episodes import NOW, S, captions, episode, eventually, stored

from penguin_engine.scene.episode import EpisodeFilter, Quota
from penguin_engine.scene.episode_postgres import database as postgres_database
from penguin_engine.scene.episodes import open_episodes, prune_episodes, read_episodes
from penguin_models.errors import EpisodeError


@pytest.fixture
def url(postgres, request):
    return postgres.lend_database(request)


def execute(url, statement):
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        return connection.execute(statement).fetchall()


def test_several_robots_write_one_database_and_a_reader_sees_all(url):
    """The same camera and stamp of two robots are two episodes, and no robot's quota removes what others saw."""
    with open_episodes(f"{url}&robot=r1") as first, open_episodes(f"{url}&robot=r%202", Quota(max_age_s=1)) as second:
        with pytest.raises(EpisodeError, match=r"of robot r1 in postgresql:///episodes\d+ are already written by proc"):
            open_episodes(f"{url}&robot=r1")
        for number, store in enumerate((first, second, first, second, second)):
            assert store.add(episode(f"cup {number}", number // 2 * 10)) and store.flush(20)
        assert [(item.robot, item.caption) for item in first.search()] == [
            ("r 2", "cup 4"),
            ("r 2", "cup 3"),
            ("r1", "cup 2"),
            ("r1", "cup 0"),
        ]
    stored(url, episode("of this computer", 20))
    assert read_episodes(url).search("computer")[0].robot == socket.gethostname()
    with pytest.raises(EpisodeError, match=rf"holds episodes of (r 2|r1|{socket.gethostname()}|, ){{5}}; say whose"):
        prune_episodes(url, Quota(max_age_s=1))
    assert prune_episodes(f"{url}&robot=r1", Quota(max_age_s=1)) == 1 and read_episodes(url).summary().episodes == 4


def test_the_quota_holds_for_each_robot(url):
    size = "SELECT sum(octet_length(jpeg)) FROM penguin_vl.episodes WHERE robot = 'r1'"
    stored(f"{url}&robot=r2", *(episode(f"{i}", i, jpeg=bytes(100_000)) for i in range(50)))
    with open_episodes(f"{url}&robot=r1", Quota(4_000_000)) as store:
        for number in range(150):
            assert store.add(episode(f"{number}", number, jpeg=bytes(40_000))) and (number % 40 or store.flush(20))
            assert number % 40 or (execute(url, size)[0][0] < 4_000_000)
        assert store.flush(20) and store.status.lost == 0
    left = [item.stamp_ns for item in read_episodes(url).range() if item.robot == "r1"]
    assert left == [NOW + number * S for number in range(150 - len(left), 150)] and 70 < len(left) < 100
    assert read_episodes(url).summary().episodes == 50 + len(left) and execute(url, size)[0][0] > 2_800_000


def test_a_server_that_stops_is_a_problem_that_passes(postgres, url, monkeypatch):
    """From the beginning, while episodes arrive, and at the end, where what is left counts as lost."""
    monkeypatch.setattr("penguin_engine.scene.episodes._RETRY_S", 0.02)
    postgres.stop()
    with open_episodes(url) as store:
        try:
            assert store.status.failing and "cannot be written to postgresql:///ep" in store.status.problem
            assert store.add(episode("before")) and not store.flush(0.01)
            with pytest.raises(EpisodeError, match=r"postgresql:///episodes\d+ cannot be read: connection "):
                store.search("before")
        finally:
            postgres.start()
        assert store.flush(20) and captions(url, "before") == ["before"] and not store.status.failing
        postgres.stop()
        try:
            added = [store.add(episode(f"number {i}", i + 1)) for i in range(400)]
            eventually(lambda: store.status.failing)
        finally:
            postgres.start()
        assert store.flush(20) and not store.status.failing
        assert added.count(False) == store.status.lost > 0
        assert store.status.written == 1 + added.count(True) == store.summary().episodes
        postgres.stop()
        try:
            assert store.add(episode("too late", 1000))
            store.close()
        finally:
            postgres.start()
        assert store.status.lost == 1 + added.count(False) and PASSWORD not in store.status.problem


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda url: url.replace("fjord%207", "wrong%20fjord"), r"authentication failed for user.*; check the URL"),
        (lambda url: url.replace("/episodes", "/absent"), "does not exist"),
        (lambda url: f"{url}&password=wrong fjord", "authentication failed for user"),
        (lambda url: f"{url}&nonsense=1", "invalid connection option"),
        (lambda url: url.replace("fjord%207", "fj@ord"), "has an @ too many"),
        (lambda url: url.replace("@/", "@host:port/"), "is malformed"),
        (lambda url: f"{url}&robot=", "should name one robot"),
        (lambda url: f"{url}&robot=a&robot=b", "should name one robot"),
        (lambda url: url, "is empty: no episode has been written to it"),
        (lambda url: url.replace("postgresql", "mysql"), "not at mysql://"),
    ],
)
def test_errors_are_one_sentence_without_password(url, change, error):
    with pytest.raises(EpisodeError, match=error) as caught:
        read_episodes(change(url)).search("a")
    assert "ord" not in str(caught.value).replace("password", "") and "\n" not in str(caught.value)


def test_only_what_is_needed_is_asked_of_a_database(postgres, url):
    """A robot without the right to create tables writes to existing ones; a database must hold every text."""
    stored(f"{url}&robot=r1", episode("before"))
    database = url.partition("@/")[2].partition("?")[0]
    statements = (
        f"CREATE ROLE {database} LOGIN PASSWORD '{PASSWORD}'",
        f"GRANT USAGE ON SCHEMA penguin_vl TO {database}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA penguin_vl TO {database}",
    )
    with closing(postgres.connect(database)) as connection:
        for statement in statements:
            connection.execute(statement)
    assert stored(f"{url.replace('penguin:', f'{database}:')}&robot=r2", episode("after", 1)).written == 1
    latin = postgres.new_database("ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(EpisodeError, match="has the encoding LATIN1; create a database with ENCODING 'UTF8'"):
        open_episodes(latin)


def test_older_tables_are_migrated_and_newer_ones_left_alone(url, monkeypatch):
    stored(url, episode("old"))
    older = postgres_database._MIGRATIONS
    change = ("ALTER TABLE penguin_vl.episodes ADD COLUMN note text", "UPDATE penguin_vl.episodes SET note = 'n'")
    monkeypatch.setattr(postgres_database, "_MIGRATIONS", (*older, change))
    stored(url, episode("new", 1))
    assert execute(url, "SELECT caption, note FROM penguin_vl.episodes ORDER BY id") == [("old", "n"), ("new", None)]
    monkeypatch.setattr(postgres_database, "_MIGRATIONS", older)
    for use in (open_episodes, lambda url: read_episodes(url).search("a")):
        with pytest.raises(EpisodeError, match="has version 2 of the episode format, this program knows up to 1; upd"):
            use(url)


def test_a_url_without_the_libraries_is_one_sentence(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("penguin_engine.scene.episode_postgres")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for use in (open_episodes, read_episodes, lambda url: prune_episodes(url, Quota())):
        with pytest.raises(
            EpisodeError, match=r"need SQLAlchemy and psycopg \(.*sqlalchemy.*\); run: pip install sqla"
        ):
            use("postgresql://robot@server/episodes")


def test_rare_words_count_more_than_common_ones(url):
    """In all of them one word; the rarest decides, then how often it occurs in how long a text."""
    texts = ["a cup near a lamp", *["a cup on a table"] * 6, "a lamp", "a lamp and " + "a thing and " * 9 + "a cup"]
    stored(url, *(episode(text, i) for i, text in enumerate(texts)))
    found = captions(url, "the lamp or a sofa")
    assert found == ["a lamp", "a cup near a lamp", texts[-1]]
    assert captions(url, "cup lamp")[:3] == ["a cup near a lamp", texts[-1], "a lamp"]
    assert captions(url, "cup", until_ns=NOW) == ["a cup near a lamp"]
    assert read_episodes(url).search(where=EpisodeFilter(since_ns=NOW + 8 * S))[0].caption == texts[-1]
