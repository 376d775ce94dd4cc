"""Errors as this API's streams tell them."""

from __future__ import annotations

from typing import Any

from api.http import error_body
from api.openai.errors import Refused, body_of, status_of
from engine.errors import ErrorInfo, TokenglassError

BUG = "this is a bug; the log has the details"


def of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and `error` object; anything unexpected is a bug."""
    if isinstance(error, Refused):
        status, body = error.status, error_body(error.status, str(error), code=error.code, param=error.param)
    else:
        info = error.info if isinstance(error, TokenglassError) else ErrorInfo(code="internal", message=BUG)
        status, body = status_of(info), body_of(info)
    told = body["error"]
    assert isinstance(told, dict)
    return status, told


def nested(error: Exception, stream_id: str | None) -> dict[str, Any]:
    """The `error` event of a WebSocket: a request that never started, or what was no request."""
    status, told = of(error)
    lane = {} if stream_id is None else {"stream_id": stream_id}
    return {"type": "error", "status": status, **lane, "error": told}


def flat(error: Exception, sequence_number: int) -> dict[str, Any]:
    """The `error` event of an HTTP stream."""
    _, told = of(error)
    names = ("code", "message", "param")
    return {"type": "error", **{name: told[name] for name in names}, "sequence_number": sequence_number}


def in_response(error: ErrorInfo) -> dict[str, Any]:
    """The `error` of a response that failed; its codes are few."""
    _, told = of(TokenglassError.of(error))
    known = ("context_length_exceeded", "invalid_prompt", "rate_limit_exceeded")
    return {"code": told["code"] if told["code"] in known else "server_error", "message": told["message"]}


def no_response(response_id: str, param: str = "previous_response_id") -> Refused:
    """The id is unknown: a parent's, or that of what was asked for."""
    if param == "previous_response_id":
        message = f"Previous response with id '{response_id[:200]}' not found."
        return Refused(400, "previous_response_not_found", message, param)
    return Refused(404, "response_not_found", f"Response with id '{response_id[:200]}' not found.", param)


def no_item(item_id: str) -> Refused:
    return Refused(404, "item_not_found", f"Item with id '{item_id[:200]}' not found.", "input")
