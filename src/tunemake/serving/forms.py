"""The forms that go over the wire: requests and answers of OpenAI's chat API, as pydantic's models."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunemake.contracts import Message
from tunemake.serving.sampling import Wish

_SEED = 2**63 - 1


class _Strict(BaseModel):
    # What is no number is none, though it may look like one; a key that is not known is told, not lost.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(_Strict):
    """A part of a message; text is the only kind."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A message. developer: OpenAI's newer word for system. name: of who speaks; the model does not see it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def as_message(self) -> Message:
        """Give it as samples have it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Strict):
    """What a stream holds beside the answer. include_usage: the counts of tokens, at its end."""

    include_usage: bool = False


class TextFormat(_Strict):
    """The form of the answer: text is the only one."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """POST /v1/chat/completions.

    repetition_penalty is an extension. user, metadata and store are taken and not used.
    """

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_SEED, le=_SEED)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    response_format: TextFormat | None = None
    logprobs: Literal[False] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, body: Any) -> Any:
        if isinstance(body, bytes | str):  # without its type a body is not read as JSON
            raise ValueError("no JSON; send Content-Type: application/json")  # noqa: TRY004 - pydantic's own
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise ValueError("text that is not Unicode, or tables in tables without end") from None
        return body

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return messages

    def wish(self) -> Wish:
        """Give what it asks of the choice of tokens."""
        names = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "repetition_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Wish(**given)

    def stops(self) -> list[str]:
        """Give the texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class Usage(BaseModel):
    """Counts of tokens; that which ended the answer is counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class AnswerChoice(BaseModel):
    """The one choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """A whole answer. created: seconds since 1970."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: Usage


class ModelCard(BaseModel):
    """A model that is served. created: when its folder was, seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tunemake"


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    """What is wrong. param: the key of the request that is."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Every error has this form."""

    error: ErrorBody


class Health(BaseModel):
    """GET /health."""

    status: Literal["ok", "failed"]


def chunk(base: dict[str, Any], delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    """Give one event of a stream. base: what all events of it have."""
    return {**base, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
