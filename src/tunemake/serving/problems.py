"""Errors in OpenAI's form: which status, type and code each has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from tunemake.faults import one_line

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_BROKEN = 500


class ApiError(Exception):
    """An error that is answered. param: the request's key that is wrong. headers: to be sent with it."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        kind = _TYPES.get(status, "server_error" if status >= _BROKEN else "invalid_request_error")
        # One line, without what is not text: a request's own keys are quoted here.
        self.body = {
            "error": {
                "message": one_line(message), "type": kind, "param": None if param is None else one_line(param),
                "code": code,
            }
        }  # fmt: skip

    def response(self) -> JSONResponse:
        """Give it as an answer."""
        return JSONResponse(self.body, self.status, self.headers)


def of_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Give the first of pydantic's errors as a problem."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {place}", code="unknown_parameter", param=place)
    if first["type"] == "missing":
        told = f"Missing required parameter: '{place}'" if place else "a JSON object is expected (application/json)"
        return ApiError(400, told, code="missing_required_parameter", param=place or None)
    message = str(first["msg"]).removeprefix("Value error, ")
    told = f"Invalid value for '{place}': {message}" if place else message
    return ApiError(400, told, code="invalid_value", param=place or None)
