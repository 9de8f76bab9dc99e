"""Load on servers over real HTTP: what is measured, and what counts as lost."""

import asyncio
import threading

import pytest

pytest.importorskip("openai", reason="needs the client of the OpenAI API: pip install 'penguin-vl[remote]'")

from openai_servers import Misbehaving, free_port, running

from penguin_engine.bench import serving
from penguin_engine.server.answering import Reply
from penguin_engine.server.limits import Limits
from penguin_models.errors import RemoteServerError


class Slow:
    def answer(self, conversation, sampling, hooks, log=None):
        threading.Event().wait(0.03)
        hooks.on_text("a cup", 2)
        return Reply("a cup", "end", 5, 3, 2, 0.1, [], [])

    def close(self):
        pass


def measured(monkeypatch, *urls, minutes=0.0):
    monkeypatch.setattr(serving, "_OVERLOAD_REQUESTS", (20, 20))
    said = []
    load = serving.Load(clients=(1, 2), requests=4)
    return asyncio.run(serving.measure(urls, load, minutes, said.append)), said


def test_two_servers_are_measured_in_turn_and_refusals_are_no_losses(monkeypatch):
    with running(Slow(), Limits(queue_size=1)) as first, running(Slow(), Limits(queue_size=5)) as second:
        urls = [f"{server.address}/v1" for server in (first, second)]
        result, said = measured(monkeypatch, *urls, minutes=0.005)
    assert [(row["server"], row["clients"]) for row in result["levels"]] == [(u, n) for n in (1, 2) for u in urls]
    for row in result["levels"]:
        assert row["sent"] == row["answered"] == 4 and row["lost"] == 0 and row["tokens_per_s"] > 0
        assert 0.03 <= row["first_p50_s"] <= row["total_p50_s"] <= row["total_p95_s"]

    def best(url):
        return max(row["requests_per_s"] for row in result["levels"] if row["server"] == url)

    for row in result["overload"]:
        assert row["answered"] + row["refused"] == row["sent"] == 20 and row["refused"] and not row["lost"]
        assert row["arrivals_per_s"] == pytest.approx(10 * best(row["server"]), 0.01)
    for row in result["memory"]:
        assert row["answered"] and min(row["resident_mib"]) > 10 and row["growth_mib"] is not None
    assert result["models"] == dict.fromkeys(urls, "tiny") and len(said) == 9


def test_what_is_lost_is_counted_with_its_reason(monkeypatch):
    with Misbehaving(*[200] * 2, 500, (429, {}, "busy"), ["cut"], []) as server:
        result, _ = measured(monkeypatch, server.url)
    lost = [row for row in result["levels"] if row["lost"]]
    reasons = " ".join(reason for row in lost for reason in row["lost_because"])
    assert sum(row["lost"] for row in lost) == 4
    assert all(part in reasons for part in ("429 without Retry-After", "InternalServerError", "ended in the middle"))
    with pytest.raises(RemoteServerError, match="no server of the OpenAI API with a model answers at"):
        measured(monkeypatch, f"http://127.0.0.1:{free_port()}/v1")
