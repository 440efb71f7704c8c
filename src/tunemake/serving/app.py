"""The HTTP side: routes, and an answer from the generation thread to a whole JSON document or a stream of events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tunemake import __version__
from tunemake.serving import forms
from tunemake.serving.door import Door
from tunemake.serving.generation_thread import GenerationThread, QueueFullError
from tunemake.serving.meters import MEDIA_TYPE, Metered, Meters
from tunemake.serving.problems import ApiError, of_validation
from tunemake.serving.served import Served
from tunemake.serving.speech import Speech
from tunemake.serving.work import Told, Work

_EVENTS = "text/event-stream"
_WHEN_ENDED = {
    "timeout": (504, "the time limit of a request is over"),
    "failed": (500, "the model failed; the server's log says why"),
    "closed": (503, "the server is stopping"),
}
_GONE = 499  # nobody reads it; the metrics show it


class Service:
    """What the routes stand on. models: those that are served, by name."""

    def __init__(self, models: Mapping[str, Served], thread: GenerationThread, meters: Meters) -> None:
        self.models, self.thread, self.meters = models, thread, meters

    def model(self, name: str) -> Served:
        """Give a model by its name; raises ApiError."""
        if name not in self.models:
            told = f"The model '{name}' does not exist; served: {', '.join(self.models)}"
            raise ApiError(404, told, code="model_not_found", param="model")
        return self.models[name]

    def begin(self, asked: forms.ChatRequest, answering: Answering) -> None:
        """Put a request into the queue; raises ApiError."""
        served = self.model(asked.model)
        prompt = served.answers.ids_of([message.as_message() for message in asked.messages])
        if not prompt:
            raise ApiError(400, "the messages have no text", code="invalid_value", param="messages")
        free = served.context - len(prompt)
        if free < 1:
            told = f"This model's maximum context length is {served.context} tokens; the messages have {len(prompt)}"
            raise ApiError(400, told, code="context_length_exceeded", param="messages")
        if not self.thread.alive:
            raise _ended("closed")
        longest = min(asked.max_completion_tokens or asked.max_tokens or free, free)
        speech = Speech(served.answers.tokenizer, (*served.stop_words, *asked.stops()))
        answering.work = Work(
            prompt, asked.wish(), longest, served.stop_ids, speech, answering.tell, served.adapter
        )  # fmt: skip
        try:
            self.thread.submit(served.lane, answering.work)
        except QueueFullError as full:
            later = {"retry-after": str(full.seconds)}
            raise ApiError(429, "too many requests wait already", code="queue_full", headers=later) from None
        self.meters.count("prompt", len(prompt))


class Answering:
    """One answer on its way from the generation thread to the client."""

    work: Work

    def __init__(self, thread: GenerationThread, model: str) -> None:
        self._thread, self._loop = thread, asyncio.get_running_loop()
        self._told: asyncio.Queue[Told] = asyncio.Queue()  # no longer than the answer may be
        self._about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def tell(self, told: Told) -> None:
        """Take what the thread tells."""
        with suppress(RuntimeError):  # the loop has closed: nobody listens
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)

    def drop(self) -> None:
        """Stop, where it goes on."""
        self._thread.drop(self.work)

    async def whole(self, receive: Callable[[], Awaitable[Any]]) -> Response:
        """Give the whole answer as JSON. receive: ASGI's, the body read: what comes then is the client's end."""
        gone = asyncio.ensure_future(receive())
        answer = asyncio.ensure_future(self._collected())
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(answer.result().model_dump()) if answer.done() else Response(status_code=_GONE)
        finally:
            gone.cancel()
            answer.cancel()
            self.drop()

    async def events(self, *, usage: bool) -> AsyncIterator[str]:
        """Give the answer as server-sent events. usage: with the counts of tokens at its end."""
        base: dict[str, Any] = {**self._about, "object": "chat.completion.chunk"} | ({"usage": None} if usage else {})
        yield _event(forms.chunk(base, {"role": "assistant", "content": ""}))
        try:
            async for part in self._parts():
                if part.text:
                    yield _event(forms.chunk(base, {"content": part.text}))
                if part.finish:
                    yield _event(forms.chunk(base, {}, part.finish))
        except ApiError as problem:
            yield _event(problem.body)
            return
        if usage:
            yield _event({**base, "choices": [], "usage": self._usage().model_dump()})
        yield "data: [DONE]\n\n"

    async def _parts(self) -> AsyncIterator[Told]:
        """Give each part as it comes; raises ApiError for an answer that ended neither by itself nor by its length."""
        finish = None
        while finish is None:
            part = await self._told.get()
            finish = part.finish
            if finish in _WHEN_ENDED:
                raise _ended(finish)
            yield part

    async def _collected(self) -> forms.Completion:
        parts = [part async for part in self._parts()]
        choice = {"message": {"content": "".join(part.text for part in parts)}, "finish_reason": parts[-1].finish}
        return forms.Completion.model_validate({**self._about, "choices": [choice], "usage": self._usage()})

    def _usage(self) -> forms.Usage:
        asked, made = len(self.work.prompt), self.work.made
        return forms.Usage(prompt_tokens=asked, completion_tokens=made, total_tokens=asked + made)


class _Events(StreamingResponse):
    """A stream of events, which drops its answer however it ends, even before the first event."""

    def __init__(self, answering: Answering, *, usage: bool) -> None:
        super().__init__(answering.events(usage=usage), media_type=_EVENTS, headers={"cache-control": "no-store"})
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.drop()


def application(service: Service, key: str | None, hosts: Sequence[str]) -> ASGIApp:
    """Give the whole application. key, hosts: as Door takes them."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": forms.ErrorAnswer} for status in (400, 401, 403, 404, 405, 408, 413)
    }
    app = FastAPI(
        title="tunemake serve", version=__version__, docs_url=None, redoc_url=None, responses=errors,
        exception_handlers={
            ApiError: _problem, RequestValidationError: _invalid, HTTPException: _http, Exception: _broken,
        },
    )  # fmt: skip
    _add_chat(app, service)
    _add_lists(app, service)
    # The description is of this server: it tells which models there are.
    app.openapi()["components"]["schemas"]["ChatRequest"]["properties"]["model"]["enum"] = list(service.models)
    return Metered(Door(app, key, hosts), service.meters)


def _add_chat(app: FastAPI, service: Service) -> None:
    # What an event holds OpenAPI 3.1 cannot say: a schema here would be read as that of each event, or of all of them.
    streamed: dict[str, Any] = {"content": {_EVENTS: {}}, "description": "the answer, whole or streamed"}
    failed: dict[int | str, dict[str, Any]] = {status: {"model": forms.ErrorAnswer} for status in (429, 500, 503, 504)}

    @app.post("/v1/chat/completions", response_model=forms.Completion, responses={200: streamed, **failed})
    async def chat(request: Request, asked: Annotated[forms.ChatRequest, Body()]) -> Response:
        """Answer a conversation."""
        answering = Answering(service.thread, asked.model)
        await asyncio.to_thread(service.begin, asked, answering)  # a long prompt takes its time to be tokens
        if not asked.stream:
            return await answering.whole(request.receive)
        return _Events(answering, usage=asked.stream_options is not None and asked.stream_options.include_usage)


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> forms.ModelList:
        """List the models."""
        return forms.ModelList(data=[served.card(name) for name, served in service.models.items()])

    @app.get("/v1/models/{model:path}")
    async def one(model: str) -> forms.ModelCard:
        """Tell of one model."""
        return service.model(model).card(model)

    @app.get("/health", responses={503: {"model": forms.Health}}, response_model=forms.Health)
    async def health() -> Response:
        """Say whether answers are made."""
        alive = service.thread.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Give what Prometheus reads."""
        return Response(service.meters.text(), media_type=MEDIA_TYPE)


async def _problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return problem.response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return of_validation(error.errors()).response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: f"Unknown request URL: {request.method} {request.url.path}", 400: "the body cannot be read as JSON"}
    message = told.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


async def _broken(_: Request, __: Exception) -> Response:
    return ApiError(500, "a bug of the server's; its log has the details", code="bug").response()


def _ended(why: str) -> ApiError:
    status, message = _WHEN_ENDED[why]
    return ApiError(status, message, code=why)


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
