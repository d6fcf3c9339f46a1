"""Errors in the form of the OpenAI API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgpt.errors import ContextLengthError, InputError

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        code: for programs, e.g. `unknown_region`.
        message: for people, one sentence.
        param: the field that is wrong, e.g. `regions[0].box`.
        status: HTTP status.
        kind: the `type` of the OpenAI API.
        headers: of the response, e.g. `Retry-After`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param
        self.status, self.kind, self.headers = status, kind, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON that is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def from_input_error(
    error: InputError, code: str = "invalid_value", param: str | None = "messages"
) -> ApiError:
    """What the library refused, as a 400. A conversation too long for the context keeps its own code."""
    if isinstance(error, ContextLengthError):
        code, param = "context_length_exceeded", "messages"
    return ApiError(code, " ".join(str(error).split())[:1000], param=param)


def time_limit(seconds: float) -> ApiError:
    return ApiError(
        "time_limit_exceeded",
        f"The request took longer than {seconds:g} seconds: ask for fewer tokens or try again later.",
        status=408,
        kind="timeout_error",
    )


def overloaded(code: str, message: str, retry_after: int) -> ApiError:
    return ApiError(
        code, message, status=429, kind="rate_limit_error", headers={"Retry-After": str(retry_after)}
    )


def shutting_down() -> ApiError:
    return ApiError(
        "server_shutting_down",
        "The server is shutting down: ask again in a moment, or another replica.",
        status=503,
        kind="server_error",
        headers={"Retry-After": "5"},
    )


def internal() -> ApiError:
    return ApiError(
        "internal_error",
        "The server failed at this request; its log says where.",
        status=500,
        kind="server_error",
    )


def param_of(location: Sequence[int | str]) -> str | None:
    """`("regions", 0, "box")` → `regions[0].box`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or None


def from_validation(problem: Mapping[str, Any]) -> ApiError:
    """The first problem of a pydantic validation."""
    kind = problem["type"]
    # The tag of a union (`<list>`) is not part of the request.
    param = param_of([part for part in problem["loc"] if not str(part).startswith("<")])
    if kind == "json_invalid":
        return ApiError("invalid_json", f"The body is not JSON: {problem['msg']}."[:300])
    if kind == "missing":
        return ApiError("missing_required_parameter", f"{param} is missing.", param=param)
    if kind == "extra_forbidden":
        return ApiError(
            "unknown_parameter", f"{param} is not a known field: check its spelling.", param=param
        )
    if kind == "too_long" and param == "regions":
        return ApiError("too_many_regions", "There are too many regions.", param=param)
    own = (problem.get("ctx") or {}).get("error")
    message = str(own) if own is not None else str(problem["msg"])
    code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    if param and param.startswith("regions["):
        code = "invalid_region"
    return ApiError(code, f"{param or 'The body'}: {message[:1].lower()}{message[1:]}."[:500], param=param)
