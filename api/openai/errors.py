"""Errors as this API tells them: a status, and a body whose `code` is the ecosystem's where it has one."""

from __future__ import annotations

import re

from api.http import Answer, error_answer, error_body
from engine.errors import ErrorCode, ErrorInfo, TokenglassError

STATUS: dict[ErrorCode, int] = {
    "invalid_json": 400,
    "unknown_command": 400,
    "invalid_argument": 400,
    "not_found": 404,
    "bad_state": 400,  # 409 would be tried again
    "busy": 429,
    "forbidden": 403,
    "not_implemented": 501,
    "shutting_down": 503,
    "context_overflow": 400,
    "invalid_prompt": 400,
    "engine_lost": 500,
    "engine_failed": 503,
    "no_model": 503,
    "out_of_memory": 503,
}
"""Any other code is 500."""
NOT_AGAIN = frozenset(("no_model", "engine_failed", "engine_lost", "out_of_memory", "not_implemented"))
"""Trying again at once, as SDKs do after a status of 5xx, would help nobody."""
_CODES = {
    "context_overflow": "context_length_exceeded",
    "invalid_argument": "invalid_value",
    "busy": "rate_limit_exceeded",
}


class Refused(Exception):  # noqa: N818 - it is what was asked for that is wrong
    """A request that this API turns down itself, with the ecosystem's own code."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def unsupported(param: str, message: str) -> Refused:
    return Refused(400, "unsupported_parameter", message, param)


def status_of(error: ErrorInfo) -> int:
    return STATUS.get(error.code, 500)


def param_of(error: ErrorInfo) -> str | None:
    """The request's name for what is wrong; ours differ in that sampling parameters lie together."""
    if not error.path:
        return None
    return re.sub(r"(?<!logit_bias)\.(\d+)(?=\.|$)", r"[\1]", error.path.removeprefix("sampling."))


def _told(error: ErrorInfo) -> str:
    message = error.message.removeprefix("sampling.")
    return f"{message} ({error.hint})" if error.hint else message


def answer_to(error: TokenglassError | Refused) -> Answer:
    if isinstance(error, Refused):
        return error_answer(error.status, str(error), code=error.code, param=error.param)
    info = error.info
    headers = (("x-should-retry", "false"),) if info.code in NOT_AGAIN else ()
    code = _CODES.get(info.code, info.code)
    return error_answer(status_of(info), _told(info), code=code, param=param_of(info), headers=headers)


def body_of(error: ErrorInfo) -> dict[str, object]:
    """The same in the middle of a stream."""
    code = _CODES.get(error.code, error.code)
    return error_body(status_of(error), _told(error), code=code, param=param_of(error))
