"""A terminal that does not know a character gets its escape; nothing fails and nothing is lost."""

import os
import subprocess
import sys

import pytest

TEXT = "naïve “cup” 桌 \U0001f427"
SAY = f"""
import sys
import typer
from penguin_models.errors import MediaError
from penguin_ros.cli import output
from penguin_ros.cli.app import app
from penguin_ros.cli.main import main

@app.command()
def say(fail: bool = False):
    with output.working({TEXT!a}):
        output.stdout.out({TEXT!a})
        output.print_json({{"answer": {TEXT!a}}})
    if fail:
        raise MediaError({TEXT!a} + chr(0xdcff))

main()
"""
TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "strict": {"PYTHONIOENCODING": "utf-8:strict"},
}


def execute(terminal, *command):
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_ALL")}
    environment |= {"PYTHONIOENCODING": ""} | TERMINALS[terminal]
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_models_text_and_an_error_are_printed_on_any_terminal(terminal):
    encoding = {"latin": "latin-1", "strict": "utf-8"}.get(terminal, "ascii")
    done = execute(terminal, "-c", SAY, "say", "--fail")
    shown = TEXT.encode(encoding, "backslashreplace")
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (
        1, shown, b"error: " + shown + b"\\udcff\n"
    )  # fmt: skip
    assert b'"answer": "na\\u00efve ' in done.stdout


HELP = """
import sys
from penguin_ros.cli.main import main

for words in ("", "ask", "node", "train", "evaluate bags", "bench engine"):
    sys.argv = ["penguin-vl", *words.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, words
    sys.stdout.write("END\\n")
"""


def test_help_is_shown_on_a_terminal_for_ascii():
    done = execute("ascii", "-c", HELP)
    assert done.returncode == 0, done.stderr
    pages = done.stdout.split(b"END")[:-1]
    assert len(pages) == 6 and all(b"Options" in page for page in pages)
    assert done.stdout.isascii() and b"\\u" not in done.stdout
