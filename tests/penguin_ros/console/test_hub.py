"""What a browser receives when it connects, and what a slow one costs."""

import asyncio
import json

import pytest

from penguin_ros.console.hub import Hub


def events(line):
    return [json.loads(part) for part in line.splitlines() if part]


def test_a_browser_receives_what_is_known_and_then_what_happens():
    async def read():
        hub = Hub({"caption": 2})
        for number in range(3):
            hub.add_entry({"kind": "caption", "number": number})
        hub.set_state("node", {"kind": "node"})
        hub.set_state("memory/a", {"kind": "memory"})
        hub.drop_states("memory")
        lines = hub.lines()
        first = events(await anext(lines))
        assert hub.listeners == 1
        hub.add_entry({"kind": "caption", "number": 3})
        second = events(await anext(lines))
        await lines.aclose()
        assert hub.listeners == 0
        return first, second

    first, second = asyncio.run(read())
    assert [event.get("number", event["kind"]) for event in first] == [1, 2, "node"]
    assert [event["number"] for event in second] == [3]


def test_a_slow_browser_misses_old_states_and_is_told_how_many_entries():
    async def read():
        hub = Hub({"caption": 1})
        lines = hub.lines()
        hub.set_state("frame", {"kind": "frame", "number": -1})
        await anext(lines)
        for number in range(5000):
            hub.set_state("frame", {"kind": "frame", "number": number})
            hub.add_entry({"kind": "caption", "number": number})
        received = []
        while not received or received[-1]["kind"] != "frame":
            received += events(await anext(lines))
        await lines.aclose()
        return received

    received = asyncio.run(read())
    captions = [event["number"] for event in received if event["kind"] == "caption"]
    assert captions == list(range(5000 - len(captions), 5000))
    others = [event for event in received if event["kind"] != "caption"]
    assert others == [{"kind": "lost", "entries": 5000 - len(captions)}, {"kind": "frame", "number": 4999}]


@pytest.mark.parametrize("count", [1, 3])
def test_every_browser_receives_everything(count):
    async def read():
        hub = Hub({"alert": 5})
        browsers = [hub.lines() for _ in range(count)]
        hub.add_entry({"kind": "alert", "number": 0})
        return [events(await anext(lines)) for lines in browsers]

    assert asyncio.run(read()) == [[{"kind": "alert", "number": 0}]] * count
