"""What is counted and shown at /metrics, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_FINISHES = ("stop", "length", "timeout", "failed", "closed", "cancelled")


class Meters:
    """The meters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry, "namespace": "tunemake"}
        self._requests = Counter("requests", "HTTP requests answered", ["path", "status"], **own)
        self._prompt = Counter("prompt_tokens", "tokens of prompts accepted", **own)
        self._made = Counter("completion_tokens", "tokens generated", **own)
        self._ended = Counter("answers", "answers that ended, by why", ["finish"], **own)
        self._steps = Counter("steps", "steps of generation, each one token of every row", **own)
        self._busy = Counter("busy_seconds", "seconds spent in steps", **own)
        self._first = Histogram("first_token_seconds", "from acceptance to the first token", buckets=_SECONDS, **own)
        self._running = Gauge("answers_running", "answers being made", **own)
        self._waiting = Gauge("requests_waiting", "requests in the queue", **own)
        self._taken: dict[str, Callable[[float], None]] = {
            "tokens": self._made.inc, "prompt": self._prompt.inc, "steps": self._steps.inc, "busy": self._busy.inc,
            "first": self._first.observe,
        }  # fmt: skip
        for finish in _FINISHES:
            self._ended.labels(finish)  # shown from the beginning, as 0

    def count(self, what: str, amount: float) -> None:
        """Take what the generation thread tells."""
        if what in _FINISHES:
            self._ended.labels(what).inc(amount)
        else:
            self._taken[what](amount)

    def answered(self, path: str, status: int) -> None:
        """Count an HTTP answer. path: the route's, never the client's own text, of which there are endlessly many."""
        self._requests.labels(path, str(status)).inc()

    def watch(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Ask these for the gauges."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)

    def text(self) -> bytes:
        """Give all of them."""
        return generate_latest(self._registry)


class Metered:
    """Counts every answer of an application."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._meters.answered(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await self._app(scope, receive, counted)
