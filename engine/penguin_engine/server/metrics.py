"""Counters of the server for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from penguin_engine.server.answering import Reply

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "penguin_requests", "Requests to /v1/chat/completions by status.", ["status"], registry=self._registry
        )
        self._tokens = Counter("penguin_tokens", "Tokens by kind.", ["kind"], registry=self._registry)
        self._first_token = Histogram(
            "penguin_first_token_seconds",
            "Seconds from the start of the work to the first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._total = Histogram(
            "penguin_request_seconds",
            "Seconds from the request to the end of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "penguin_requests_in_flight", "Requests that wait or are answered.", registry=self._registry
        )

    def answered(self, reply: Reply, total_s: float) -> None:
        """Counts an answer that took this many seconds."""
        self._tokens.labels("prompt").inc(reply.prompt_tokens)
        self._tokens.labels("visual").inc(reply.visual_tokens)
        self._tokens.labels("generated").inc(reply.generated_tokens)
        self._first_token.observe(reply.first_token_s)
        self._total.observe(total_s)

    def finished(self, status: int) -> None:
        """Counts a request that ended with an HTTP status."""
        self._requests.labels(str(status)).inc()

    def text(self, in_flight: int) -> bytes:
        """Returns all counters in Prometheus' text format."""
        self._in_flight.set(in_flight)
        return bytes(generate_latest(self._registry))
