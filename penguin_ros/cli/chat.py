"""`penguin-vl ask --chat`: a conversation, one question per line of the terminal or of standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import chain
from typing import Any

import typer

from penguin_models.errors import CancelledError, PenguinError
from penguin_ros.cli.output import print_json, stderr, stdout


def converse(first: str, answer: Callable[[str], None], as_json: bool) -> None:
    """Answers questions until there are no more; one that is refused is reported, and the conversation continues.

    Args:
        first: The first question; empty if it is read as well.
        answer: Answers a question and prints the answer.
        as_json: Whether a refusal is also printed as JSON, so that there is one line for each question.

    Raises:
        CancelledError: An answer was cancelled.
        Exit: With code 1 at the end, if a question was refused.
    """
    failed = False
    for question in chain([first] if first else [], _lines()):
        try:
            answer(question)
        except CancelledError:
            raise
        except PenguinError as err:
            failed = True
            stderr.out(f"error: {err}")
            if as_json:
                print_json({"question": question, "error": str(err)})
    if failed:
        raise typer.Exit(1)


def print_turns(result: Mapping[str, Any]) -> None:
    """Prints how many earlier turns an answer was based on, if it had any."""
    used, forgotten = result["turns_used"], result["turns_forgotten"]
    if used or forgotten:
        stdout.out(f"  earlier turns: {used} in the prompt" + (f", {forgotten} forgotten" if forgotten else ""))


def _lines() -> Iterator[str]:
    """Yields the lines of standard input that are not empty."""
    if sys.stdin is None:
        return
    if not sys.stdin.isatty():
        lines = getattr(sys.stdin, "buffer", sys.stdin)
        yield from filter(None, (_decoded(line).strip() for line in lines))
        return
    import_module("readline")  # edits and repeats lines
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            stdout.out("")
            return
        if line:
            yield line


def _decoded(line: str | bytes) -> str:
    return line if isinstance(line, str) else line.decode(errors="surrogateescape")
