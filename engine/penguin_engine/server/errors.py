"""Errors in the form of the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from penguin_engine.server.chat_request import BadRequestError
from penguin_engine.server.jobs import TimeLimitError
from penguin_models.errors import (
    BudgetError,
    BusyError,
    CancelledError,
    ContextLengthError,
    MediaError,
    NoFramesError,
    NotActiveError,
    PenguinError,
    PromptError,
    RemoteServerError,
    UnknownCameraError,
)

_STATUS: tuple[tuple[type[PenguinError], int, str, str | None], ...] = (
    (ContextLengthError, 400, "invalid_request_error", "context_length_exceeded"),
    (MediaError, 400, "invalid_request_error", "invalid_media"),
    (BudgetError, 400, "invalid_request_error", None),
    (PromptError, 400, "invalid_request_error", None),
    (UnknownCameraError, 400, "invalid_request_error", None),
    (BusyError, 429, "rate_limit_error", None),
    (NoFramesError, 503, "server_error", "no_frames"),
    (NotActiveError, 503, "server_error", "not_active"),
    (RemoteServerError, 502, "server_error", "remote_server"),  # of the node that answers
    (TimeLimitError, 504, "server_error", "timeout"),
    (CancelledError, 499, "server_error", "cancelled"),  # nobody receives it; it is counted
)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """Returns the body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    kind: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Returns an error as a response."""
    return JSONResponse(error_body(message, kind, param, code), status, headers)


def response_of(error: Exception) -> JSONResponse:
    """Returns the response to an error; what the package did not raise itself is not described to the client."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    if isinstance(error, BadRequestError) and code in ("model_not_found", "file_not_found"):
        return error_response(404, str(error), "invalid_request_error", param, code)
    for kind, status, name, default_code in _STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if status in (429, 503) else None
            return error_response(status, str(error), name, param, code or default_code, headers)
    if isinstance(error, PenguinError):
        return error_response(500, str(error), "server_error")
    return error_response(500, "an unexpected error; the server's log has the details", "server_error")
