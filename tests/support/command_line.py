"""Commands in processes of their own, and the result of a command, for the tests of the command line."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def messages(self):
        """The lines on standard error that show no progress."""
        return [line for line in self.err.splitlines() if not line.startswith("progress: ")]

    @property
    def json(self):
        """The JSON object printed by a successful command with --json, which prints nothing else."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1 and not self.messages
        return json.loads(self.out)

    @property
    def error(self):
        """The message of a failed command, which is a single line."""
        assert self.code == 1, (self.code, self.out, self.err)
        (line,) = self.messages
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def execute(*args, code=("-m", "penguin_ros.cli.main"), folder=None, **environment):
    """Runs the command, or other code of Python with its arguments, in a process; returns the result."""
    done = subprocess.run(
        [sys.executable, *code, *map(str, args)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def schema(value):
    """Returns a JSON value with its leaves replaced by the names of their types."""
    if isinstance(value, dict):
        return {key: schema(inner) for key, inner in value.items()}
    return type(value).__name__
