"""What a request passes before it is understood: whose it is, and how large it is."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunemake.serving.problems import ApiError

OPEN = "/health"
LARGEST = 1 << 20  # bytes of a body
_PATIENCE = 30.0  # seconds for a body to arrive
_LINGER = 2.0  # seconds, and bytes, that a refused body is still taken for: who sends then comes to read the answer
_LINGER_BYTES = 8 << 20


class Door:
    """Answers 401, 403, 408 and 413 itself, and lets all else through with its body read.

    key: what must come as a bearer token, or None. hosts: names that a request may be addressed to where there is no
    key: a page of a stranger in the user's browser may reach this machine by a name of its own.
    """

    def __init__(self, app: ASGIApp, key: str | None, hosts: Sequence[str]) -> None:
        self._app, self._key, self._hosts = app, key, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_sender(scope["path"], headers)
            body = await asyncio.wait_for(_body(headers, receive), _PATIENCE)
        except TimeoutError:
            await _refuse(receive, send, ApiError(408, "the body did not arrive in time", code="timeout"))
        except ApiError as problem:
            await _refuse(receive, send, problem)
        else:
            await self._app(scope, _replayed(body, receive), send)

    def _check_sender(self, path: str, headers: Headers) -> None:
        if self._key is None:
            if _name(headers.get("host", "")) not in self._hosts:
                raise ApiError(403, "addressed to a name that is not this server's", code="wrong_host")
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._key.encode())
        if path != OPEN and not (same and scheme.lower() == "bearer"):
            told = {"www-authenticate": "Bearer"}
            raise ApiError(401, "Incorrect API key provided", code="invalid_api_key", headers=told)


async def _body(headers: Headers, receive: Receive) -> bytes:
    too_large = ApiError(413, f"the body is larger than {LARGEST} bytes", code="request_too_large")
    if (told := headers.get("content-length", "")).isdigit() and int(told) > LARGEST:
        raise too_large
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST:
            raise too_large
        more = message.get("more_body", False)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    first: deque[Message] = deque([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return first.popleft() if first else await receive()

    return replay


async def _refuse(receive: Receive, send: Send, problem: ApiError) -> None:
    """Answer, and end the connection, whose body may not have been read."""
    answer = problem.response()
    answer.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    # To close with bytes unread would take the answer from a client that is still sending.
    with suppress(TimeoutError):
        await asyncio.wait_for(_thrown_away(receive), _LINGER)
    await send({"type": "http.response.body", "body": b""})


async def _thrown_away(receive: Receive) -> None:
    left = _LINGER_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _name(host: str) -> str:
    """Give a Host header without its port."""
    return (host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]).lower()
