"""Strategies of hypothesis that damage small valid inputs: bytes, and values of JSON."""

from __future__ import annotations

from random import Random
from struct import pack

from hypothesis import strategies as st

_NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
_PIECES = [pack(layout, number) for number in _NUMBERS for layout in ("<Q", ">Q")] + [
    pack("<I", number) for number in _NUMBERS if number < 2**32
]
STRANGE = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1.5,
        1e300,
        -1e300,
        10**30,
        2**63,
        "",
        "x",
        "7",
        "\0",
        "é" * 500,
        b"\xff\0",
        b"",
        [],
        [[[]]],
        {},
    ]
)
"""Values of any type and size."""
STRANGE_JSON = [
    *("null", "true", "-1", "0", "1e300", "-1e300", "1e999", "NaN", "Infinity", "-Infinity", '""', '"x"', '"7"'),
    *(
        '"\\ud800"',
        '"\\u0000"',
        '"../../etc/passwd"',
        '"file://["',
        '"data:,"',
        "[]",
        "{}",
        "[null]",
        '{"a": 1}',
        "\xff",
    ),
    *("9" * 5000, "1" * 30, "[" * 5000, "[" * 900 + "]" * 900, '{"a":' * 3000, '"' + "é" * 9000 + '"', "[1,", "\ufeff"),
]
"""Values of JSON, and text that is none."""


def damaged(data: bytes):
    """Bytes that were changed, cut, repeated or left out in a few places."""
    return _seeds().map(lambda random: _damage(data, random))


def damaged_json(text: str, values: list[str]):
    """A line of JSON in which some of the values, which are parts of the text, are replaced by strange ones."""
    return _seeds().map(lambda random: _damage_json(text, values, random))


def _seeds():
    """One number per example: to draw every choice by hypothesis takes longer than to read the input."""
    return st.integers(0, 2**64).map(Random)


def _damage(data: bytes, random: Random) -> bytes:
    found = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at, kind = random.randrange(len(found) + 1), random.randrange(8)
        if kind < 3:
            found[at : at + 1] = random.randbytes(1)
        elif kind < 6:
            piece = random.choice(_PIECES)
            found[at : at + len(piece)] = piece
        elif kind == 6:
            del found[at : at + random.randint(1, 40)]
        else:
            found[at:at] = found[at : at + random.randint(1, 40)]
    return bytes(found)


def _damage_json(text: str, values: list[str], random: Random) -> bytes:
    if random.randrange(4) == 0:
        return _damage(text.encode(), random)
    for value in random.choices(values, k=2):
        text = text.replace(value, random.choice(STRANGE_JSON), 1)
    return text.encode("latin-1" if random.randrange(10) == 0 else "utf-8", "replace")
