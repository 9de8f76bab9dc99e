"""The result of a command, for the tests of the command line."""

import json
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


def schema(value):
    """Returns a JSON value with its leaves replaced by the names of their types."""
    if isinstance(value, dict):
        return {key: schema(inner) for key, inner in value.items()}
    return type(value).__name__
