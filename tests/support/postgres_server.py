"""A PostgreSQL server of the machine's own version, in a folder of its own, reached by a Unix socket."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PASSWORD = "fjord 7"
_LIBRARY = Path("/usr/lib/postgresql")  # of Debian, which leaves the programs out of PATH


class PostgresServer:
    """Runs as nobody if this is root, because PostgreSQL refuses root."""

    def __init__(self, programs):
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="penguin-pg-"))  # short: the path of a socket has 107 bytes
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        self._count = 0
        self._free = []  # URLs of databases that are empty again: each new one has 300 files
        try:
            (self._folder / "password").write_text(PASSWORD)
            if self._user:
                for path in (self._folder, self._folder / "password"):
                    shutil.chown(path, "nobody", "nogroup")
            options = ["-U", "penguin", "-E", "UTF8", "--locale=C", "--no-sync", "-A", "scram-sha-256"]
            self._run("initdb", *options, f"--pwfile={self._folder / 'password'}")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def _run(self, program, *options):
        command = [self._programs / program, "-D", self._folder / "data", *options]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, **self._user)

    def start(self):
        options = f"-F -c listen_addresses='' -k {self._folder}"  # -F: without fsync
        self._run("pg_ctl", "start", "-w", "-l", self._folder / "log", "-o", options)

    def stop(self):
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, database):
        return f"postgresql://penguin:{PASSWORD.replace(' ', '%20')}@/{database}?host={self._folder}"

    def connect(self, database="postgres"):
        import psycopg

        return psycopg.connect(host=self._folder, user="penguin", password=PASSWORD, dbname=database, autocommit=True)

    def new_database(self, options=""):
        """Creates an empty database; returns its URL."""
        self._count += 1
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE episodes{self._count} {options}")
        return self.url(f"episodes{self._count}")

    def lend_database(self, request):
        """Returns the URL of an empty database, for the time of a fixture or test."""
        url = self._free.pop() if self._free else self.new_database()
        request.addfinalizer(lambda: self._take_back(url))
        return url

    def _take_back(self, url):
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS penguin_vl CASCADE")
        self._free.append(url)

    def close(self):
        self.stop()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def postgres():
    """A running server; skips where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    programs = [Path(found).parent] if found else sorted(_LIBRARY.glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    server = PostgresServer(programs[-1])
    yield server
    server.close()
