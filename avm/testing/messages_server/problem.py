"""What the Messages API answers when it does not serve a request: status, type and text, perhaps a wait or a code."""

from __future__ import annotations

from typing import Any

import msgspec

STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Types of errors and the status each comes with."""

TYPE_OF = {status: kind for kind, status in STATUS_OF.items()}

SPEND_LIMIT = "enforced_spend_limit_reached"
"""The code of a 429 that no waiting cures: the month's money is spent."""


class ProblemError(Exception):
    """A request is answered with an error. Raised and caught inside of the server only.

    Args:
        retry_after: whole seconds to wait; None names no time.
        code: what the error is to programs, where its type says too little.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status or STATUS_OF.get(kind, 500)
        self.retry_after = retry_after
        self.code = code

    def body(self, request_id: str) -> bytes:
        """Return the JSON the API sends."""
        return msgspec.json.encode({**self.event(), "request_id": request_id})

    def event(self) -> dict[str, Any]:
        """Return what an `error` event of a stream holds."""
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        return {"type": "error", "error": error}


def invalid(message: str) -> ProblemError:
    """Return a 400."""
    return ProblemError("invalid_request_error", message)


def of_status(status: int, retry_after: int | None = None) -> ProblemError:
    """Return the error that usually comes with a status."""
    kind = TYPE_OF.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    text = {"overloaded_error": "Overloaded", "api_error": "Internal server error"}.get(
        kind, f"The test server was told to answer {status}."
    )
    return ProblemError(kind, text, status=status, retry_after=retry_after)


def spend_limit() -> ProblemError:
    """Return the 429 of an account that has spent its month's money: it names no time to wait."""
    text = "You have reached your specified API usage limits. You will regain access next month."
    return ProblemError("rate_limit_error", text, code=SPEND_LIMIT)
