"""Random damage to small valid inputs, for fuzz tests: to bytes, and to the values of JSON."""

from __future__ import annotations

import copy
import json
from random import Random
from struct import pack

from hypothesis import strategies as st

RANDOMS = st.integers(0, 2**64).map(Random)
"""One number per example: to draw every choice by hypothesis takes longer than to read the input."""
_NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
_PIECES = [pack(layout, number) for number in _NUMBERS for layout in ("<Q", ">Q")]
_PIECES += [pack("<I", number) for number in _NUMBERS if number < 2**32]
_PIECES += [b"\0", b"\xff", b"\xff\xd8\xff\xda", b"[" * 3000, b"{", b"}", b'"', b"9" * 5000, b"1e999", b"\\ud800", b","]
STRANGE = [
    *(None, True, False, -1, 0, 1, 3, 1.5, -0.0, 1e-300, 1e300, -1e300, 2**31, 2**63, 10**30, -(10**30)),
    *("", "x", "7", "\0", "null", "é" * 9000, [], [[[]]], [0] * 1000, ["a"], {}),
]
"""Values of any type and size."""
_STRANGE_JSON = [
    *STRANGE,
    *(float("inf"), float("-inf"), float("nan"), "\ud800", [None], {"a": 1}, {"": {}}, {"type": []}),
    *("/etc/passwd", "../../etc/passwd", "file://[", "data:,"),
]
_RAW_JSON = [
    *("9" * 5000, "1" * 30, "1e999", "[" * 5000, "[" * 900 + "]" * 900, '{"a":' * 3000, "[1,", "\ufeff", "\xff"),
    '"\\ud800"',
]
"""Text in place of a value that `json.dumps` would not write, or that is no JSON at all."""
_MARK = "in place of this: "


def damaged(data: bytes):
    """Returns a strategy of bytes with damage in a few places."""
    return RANDOMS.map(lambda random: damage(data, random))


def damaged_json(value):
    """Returns a strategy of the UTF-8 or latin-1 text of a JSON value with some values replaced, removed or renamed."""
    return RANDOMS.map(lambda random: damage_json(value, random))


def damage(data: bytes, random: Random) -> bytes:
    """Returns bytes that were flipped, replaced, removed, repeated or inserted in one to four places."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(changed) + 1)
        end = min(len(changed), start + random.choice((1, 1, 2, 4, 16, 40, 1000)))
        match random.randrange(6):
            case 0:
                changed[start : start + 1] = random.randbytes(1)
            case 1:
                changed[start:end] = bytes(byte ^ 1 << random.randrange(8) for byte in changed[start:end])
            case 2:
                piece = random.choice(_PIECES)
                changed[start : start + len(piece) * random.randrange(2)] = piece
            case 3:
                del changed[start:end]
            case 4:
                changed[start:start] = changed[start:end]
            case 5:
                changed[start:start] = random.randbytes(random.choice((1, 4, 32)))
    return bytes(changed)


def damage_json(valid, random: Random) -> bytes:
    """Returns the text of a JSON value, see `damaged_json`."""
    if not random.randrange(4):
        return damage(json.dumps(valid).encode(), random)
    value = json.loads(json.dumps(valid))
    for _ in range(random.randint(1, 3)):
        container, key = random.choice(list(_places(value)) or [({}, "")])
        action = random.randrange(8)
        if action == 0 and key in container:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[random.choice(("", "x" * 5000, "\0", "../a", "/etc/passwd"))] = container.get(key)
        elif action == 2:
            container[key] = copy.deepcopy(random.choice(list(_places(valid)))[0])
        elif action == 3:
            container[key] = f"{_MARK}{random.randrange(len(_RAW_JSON))}"
        else:
            container[key] = copy.deepcopy(random.choice(_STRANGE_JSON))
    text = json.dumps(value, ensure_ascii=bool(random.randrange(2)))
    for index, raw in enumerate(_RAW_JSON if _MARK in text else ()):
        text = text.replace(f'"{_MARK}{index}"', raw)
    return text.encode(random.choice(("utf-8", "utf-8", "utf-8", "latin-1")), "replace")


def _places(value):
    """Yields every container of a JSON value with each of its keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner):
        yield value, key
        yield from _places(item)
