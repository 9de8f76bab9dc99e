"""Load on servers of the OpenAI API: latencies at some numbers of clients, overload, and memory over time.

Several servers are measured in turn at each load, so that what else the machine does concerns all of them alike.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import psutil
from PIL import Image

from penguin_engine.bench.server_memory import listening_process, resident_mib
from penguin_engine.scene.remote.opening import KEY_VARIABLE
from penguin_models.errors import RemoteServerError
from penguin_models.quoting import shortened

OVERLOAD = 10
"""Requests arrive at this multiple of the rate at which they were answered."""
_OVERLOAD_S = 5.0
_OVERLOAD_REQUESTS = 40, 1000
_TIMEOUT_S = 600.0
_PICTURES = 32


@dataclass(frozen=True)
class Load:
    """What is sent."""

    clients: Sequence[int] = (1, 4, 16)  # numbers of clients, each of which waits for its answer before it asks again
    requests: int = 32  # requests at each number of clients, and at least two for each client
    max_tokens: int = 32  # longest answer in tokens
    size: tuple[int, int] = (320, 240)  # width and height of the image in each request, in pixels


@dataclass
class Sent:
    """A request and what became of it."""

    first_s: float = 0.0  # seconds to the first token, from when it was first sent
    total_s: float = 0.0  # seconds to the end of the answer, or to the refusal
    tokens: int = 0  # tokens of the answer
    refusals: int = 0  # refusals as busy (429) with a Retry-After header
    lost: str = ""  # why there is neither an answer nor such a refusal; empty if there is
    answered: bool = False


@dataclass(eq=False)
class Server:
    """A server under load."""

    url: str
    client: openai.AsyncOpenAI
    model: str
    rates: list[float] = field(default_factory=list)  # answers per second at each number of clients

    @property
    def capacity(self) -> float:
        """The largest number of answers per second that was seen."""
        return max(self.rates, default=1.0)


async def measure(urls: Sequence[str], load: Load, minutes: float, show: Callable[[str], None]) -> dict[str, Any]:
    """Measures servers.

    Args:
        urls: URLs of their APIs, which usually end in /v1.
        load: What is sent.
        minutes: How long memory is observed under the load of 4 clients, 0 for not at all.
        show: Is told what is being measured.

    Raises:
        RemoteServerError: A server cannot be reached or has no model.
    """
    numbers = count()
    async with _opened(urls) as servers:
        for server in servers:
            show(f"{server.url}: first requests")
            await _level(server, load, 1, 2, numbers)  # loads what is loaded on demand
        levels = []
        for clients in load.clients:
            for server in servers:
                show(f"{server.url}: {clients} clients")
                levels.append(await _level(server, load, clients, max(load.requests, 2 * clients), numbers))
                server.rates.append(levels[-1]["requests_per_s"])
        overload = []
        for server in servers:
            show(f"{server.url}: overload")
            overload.append(await _overload(server, load, numbers))
        memory = []
        if minutes:
            show(f"memory for {minutes:g} min")
            memory = await asyncio.gather(*(_memory(server, load, minutes, numbers) for server in servers))
    models = {server.url: server.model for server in servers}
    return {"models": models, "levels": levels, "overload": overload, "memory": memory}


@asynccontextmanager
async def _opened(urls: Sequence[str]) -> AsyncIterator[list[Server]]:
    key = os.environ.get(KEY_VARIABLE) or "none"
    clients = [openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=_TIMEOUT_S) for url in urls]
    try:
        yield [Server(url, client, await _model_of(client, url)) for url, client in zip(urls, clients, strict=True)]
    finally:
        for client in clients:
            await client.close()


async def _model_of(client: openai.AsyncOpenAI, url: str) -> str:
    try:
        models = (await client.models.list()).data
        return str(models[0].id)
    except (openai.OpenAIError, AttributeError, TypeError, IndexError) as err:
        reason = shortened(str(getattr(err, "__cause__", None) or err))
        raise RemoteServerError(f"no server of the OpenAI API with a model answers at {url}: {reason}") from err


def _content(number: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Returns a question about an image; the texts and, within some requests, the images differ."""
    random = np.random.default_rng(number % _PICTURES)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize(size)
    file = io.BytesIO()
    small.save(file, "JPEG")
    uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    question = f"Question {number}: what is on the table?"
    return [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": question}]


async def _ask(server: Server, load: Load, number: int, tries: int) -> Sent:
    """Sends a request, again after each refusal up to a number of tries."""
    sent, start_s = Sent(), time.monotonic()
    messages: Any = [{"role": "user", "content": _content(number, load.size)}]
    for attempt in range(1, tries + 1):
        try:
            await _stream(server, load, messages, sent, start_s)
        except openai.RateLimitError as err:
            wait_s = err.response.headers.get("retry-after")
            if wait_s is None:
                sent.lost = "429 without Retry-After"
                break
            sent.refusals += 1
            if attempt < tries:
                await asyncio.sleep(float(wait_s))
                continue
        except Exception as err:  # noqa: BLE001 - whatever it is, this request is lost
            sent.lost = shortened(f"{type(err).__name__}: {err}")
        break
    sent.total_s = time.monotonic() - start_s
    return sent


async def _stream(server: Server, load: Load, messages: Any, sent: Sent, start_s: float) -> None:
    create: Any = server.client.chat.completions.create
    stream = await create(
        model=server.model,
        messages=messages,
        max_tokens=load.max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async with stream:
        async for piece in stream:
            if piece.usage is not None:
                sent.tokens = piece.usage.completion_tokens
            if (
                piece.choices
                and not sent.first_s
                and (piece.choices[0].delta.content or piece.choices[0].finish_reason)
            ):
                sent.first_s = time.monotonic() - start_s
            sent.answered |= bool(piece.choices and piece.choices[0].finish_reason)
    if not sent.answered:
        sent.lost = "the answer ended in the middle"


async def _level(server: Server, load: Load, clients: int, requests: int, numbers: Any) -> dict[str, Any]:
    """Measures requests of some clients, each of which waits for its answer, and asks again if it is refused."""
    start_s, left, sent = time.monotonic(), iter(range(requests)), []

    async def client() -> None:
        for _ in left:
            sent.append(await _ask(server, load, next(numbers), tries=1000))

    await asyncio.gather(*(client() for _ in range(clients)))
    return {"server": server.url, "clients": clients} | _summary(sent, time.monotonic() - start_s)


async def _overload(server: Server, load: Load, numbers: Any) -> dict[str, Any]:
    """Sends requests faster than they are answered, whatever becomes of them; none is sent again."""
    rate = OVERLOAD * server.capacity
    requests = round(min(max(rate * _OVERLOAD_S, _OVERLOAD_REQUESTS[0]), _OVERLOAD_REQUESTS[1]))
    start_s = time.monotonic()

    async def at(second: float) -> Sent:
        await asyncio.sleep(start_s + second - time.monotonic())
        return await _ask(server, load, next(numbers), tries=1)

    sent = await asyncio.gather(*(at(number / rate) for number in range(requests)))
    return {"server": server.url, "arrivals_per_s": rate} | _summary(sent, time.monotonic() - start_s)


async def _memory(server: Server, load: Load, minutes: float, numbers: Any) -> dict[str, Any]:
    """Observes the resident memory of a server on this machine under the load of 4 clients."""
    parts = urlsplit(server.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    process = listening_process(parts.hostname or "", port)
    start_s, sent, samples = time.monotonic(), [], []

    async def client() -> None:
        while time.monotonic() - start_s < 60 * minutes:
            sent.append(await _ask(server, load, next(numbers), tries=1000))

    async def watch() -> None:
        while process is not None and time.monotonic() - start_s < 60 * minutes:
            with suppress(psutil.Error):  # it has ended: its requests are lost
                samples.append(round(resident_mib(process), 1))
            await asyncio.sleep(min(60 * minutes / 40, 10))

    await asyncio.gather(watch(), *(client() for _ in range(4)))
    settled = samples[len(samples) // 4 :]
    growth = round(settled[-1] - settled[0], 1) if settled else None
    found = {"minutes": minutes, "resident_mib": samples, "growth_mib": growth}
    return {"server": server.url} | found | _summary(sent, time.monotonic() - start_s)


def _summary(sent: Sequence[Sent], seconds: float) -> dict[str, Any]:
    answered = [item for item in sent if item.answered]
    lost = [item.lost for item in sent if item.lost]
    result: dict[str, Any] = {
        "sent": len(sent),
        "answered": len(answered),
        "refused": sum(item.refusals > 0 and not item.answered and not item.lost for item in sent),
        "refusals": sum(item.refusals for item in sent),
        "lost": len(lost),
        "lost_because": sorted(set(lost))[:5],
        "seconds": round(seconds, 3),
        "requests_per_s": round(len(answered) / seconds, 3),
        "tokens_per_s": round(sum(item.tokens for item in answered) / seconds, 1),
    }
    for name in ("first", "total"):
        values = [getattr(item, f"{name}_s") for item in answered]
        for share in (50, 95):
            result[f"{name}_p{share}_s"] = round(float(np.percentile(values, share)), 4) if values else None
    return result
