"""Mutations of small valid files for fuzz tests: JSON values of any type and size in any place, and damaged bytes."""

import copy
import json
import random

VALUES = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e-300, 1e300),
    *(float("inf"), float("nan"), "", "a", "5", "\0", "\ud800", "x" * 10_000, "/etc/passwd", "../../x", "null"),
    *([], [[]], [0] * 1000, ["a"], {}, {"": {}}, {"type": []}),
)
BYTES = (b"\x00", b"\xff", b"[" * 3000, b"{", b"}", b'"', b"9" * 5000, b"1e999", b"\\ud800", b",", b"NaN")


def _places(value):
    """Yields every container of a JSON value with each of its keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner):
        yield value, key
        yield from _places(item)


def mutate_json(valid, seed):
    """Returns a copy with one to three values replaced, removed, duplicated or renamed."""
    rng, value = random.Random(seed), copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(list(_places(value)) or [(value, "")])
        action = rng.randrange(5)
        if action == 0 and container:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[rng.choice(("", "x" * 5000, "\0", "../a", "/etc/passwd"))] = container.get(key)
        elif action == 2:
            container[key] = copy.deepcopy(rng.choice(list(_places(valid)))[0])
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def mutate_bytes(content, seed):
    """Returns bytes that were cut, flipped or extended in one to four places."""
    rng, value = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(value) + 1)
        action = rng.randrange(4)
        if action == 0:
            del value[place : place + rng.choice((1, 8, 100, len(value)))]
        elif action == 1:
            value[place:place] = rng.choice(BYTES)
        elif place < len(value):
            value[place] = rng.randrange(256)
    return bytes(value)


def json_bytes(value, seed):
    """Returns a mutated JSON file: every other one with valid syntax."""
    return json.dumps(mutate_json(value, seed)).encode() if seed % 2 else mutate_bytes(json.dumps(value).encode(), seed)
