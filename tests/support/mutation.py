"""Strategies of hypothesis that damage small valid inputs: bytes, and values of JSON."""

from __future__ import annotations

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
STRANGE_JSON = st.sampled_from(
    [
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
        *(
            "9" * 5000,
            "1" * 30,
            "[" * 5000,
            "[" * 900 + "]" * 900,
            '{"a":' * 3000,
            '"' + "é" * 9000 + '"',
            "[1,",
            "\ufeff",
        ),
    ]
)
"""Values of JSON, and text that is none."""


@st.composite
def damaged(draw, data: bytes):
    """Bytes that were changed, cut, repeated or left out in a few places."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.integers(0, 7))
        if kind < 3:
            found[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind < 6:
            piece = draw(st.sampled_from(_PIECES))
            found[at : at + len(piece)] = piece
        elif kind == 6:
            del found[at : at + draw(st.integers(1, 40))]
        else:
            found[at:at] = found[at : at + draw(st.integers(1, 40))]
    return bytes(found)


@st.composite
def damaged_json(draw, text: str, values: list[str]):
    """A line of JSON in which some of the values, which are parts of the text, are replaced by strange ones."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(text.encode()))
    for value in draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)):
        text = text.replace(value, draw(STRANGE_JSON), 1)
    return text.encode("latin-1" if draw(st.integers(0, 9)) == 0 else "utf-8", "replace")
