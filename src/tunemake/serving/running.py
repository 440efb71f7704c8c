"""A server's life: models loaded, uvicorn and the generation thread begun, and both ended at a signal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tunemake.model_choice import Choice
from tunemake.serving.app import Service, application
from tunemake.serving.generation_thread import GenerationThread, Limits
from tunemake.serving.meters import Meters
from tunemake.serving.served import load

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_GRACE = 3  # seconds for answers to reach their clients once the server is asked to stop
_MORE_CONNECTIONS = 256  # than requests that are worked on or wait: each may hold a body


def run(
    choices: Sequence[Choice], given: Mapping[str, Any], key: str | None, listening: socket.socket,
    ready: Callable[[], None],
) -> None:  # fmt: skip
    """Serve models at a bound socket until a signal. given: the command's options; ready: called when it begins."""
    models, lanes = load(choices, given["context"] or None)
    meters = Meters()
    limits = Limits(given["rows"], given["queue"], given["timeout"])
    thread = GenerationThread(lanes, limits, meters.count)
    meters.watch(lambda: thread.working, lambda: thread.waiting)
    app = application(Service(models, thread, meters), key, (*_LOOPBACK, given["host"].lower()))
    connections = given["rows"] * len(lanes) + given["queue"] + _MORE_CONNECTIONS
    app = _cancelled_quietly(app)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False, limit_concurrency=connections,
        timeout_graceful_shutdown=_GRACE,
    )  # fmt: skip
    thread.start()
    try:
        _Server(config, thread, ready).run(sockets=[listening])
    finally:
        thread.close(wait=True)


def _cancelled_quietly(app: ASGIApp) -> ASGIApp:
    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn's last means, when it stops, for a client that takes its time; it would show a traceback.
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return quiet


class _Server(uvicorn.Server):
    """uvicorn, which tells when it listens, and ends the answers under way as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, thread: GenerationThread, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._thread, self._ready = thread, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal."""
        self._thread.close(wait=False)
        super().handle_exit(sig, frame)
