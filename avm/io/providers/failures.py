"""What went wrong with a call, as a typed error: from a status, an event, a body that cannot be read, or a broken line.

All providers that speak the Messages API come here, so a failure has one class and one wording whoever reports it. The
server's words are shown, but shortened, and without the key: some servers send it back in what they complain about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from avm.errors import (
    BadOutput,
    ContextOverflow,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
    Refused,
    SpendLimitReached,
)
from avm.io.providers.headers import Headers, read_limits, read_retry_after
from avm.io.providers.http import shown_url

SHOWN = 300
"""Characters of the server's own words in an error."""

STATUSES = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "gateway_timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status that goes with a type of error, for errors that come without one."""

_KINDS: dict[int, type[ProviderError]] = {
    401: NotAuthorized,
    402: SpendLimitReached,
    408: ProviderTimeout,
    413: ContextOverflow,
    429: RateLimited,
    503: Overloaded,
    504: ProviderTimeout,
    529: Overloaded,
}


# That it is the key that is wrong, and not only what was asked for with it.
_BAD_KEY = re.compile(
    r"\b(invalid|incorrect|wrong|unknown|expired|revoked) (x-)?api[-_ ]?key\b"
    r"|\bapi[-_ ]?key( \S+)?( is| was| has been)? (not valid|invalid|incorrect|expired|revoked)\b",
    re.IGNORECASE,
)


@attrs.frozen(slots=True, kw_only=True)
class Asked:
    """Whose call it was, of what."""

    provider: str
    model: str = ""
    agent: str = ""
    task: str = ""
    """What was to be done, where it is not the serving of a model."""
    key_from: str = "api_key="
    """Where the key is set, for who has to correct it."""
    url: str = ""
    """Where it was sent, without credentials."""
    secrets: Sequence[str] = attrs.field(default=(), repr=False)
    """What must not be shown."""


@attrs.frozen(slots=True)
class _Said:
    """What the body of an error says."""

    kind: str = ""
    code: str = ""
    message: str = ""
    request_id: str = ""


def from_status(asked: Asked, status: int, headers: Headers, body: bytes) -> ProviderError:
    """Return the error that a response, or the result of a call in a batch, is.

    Args:
        status: HTTP's; 0 if there was none, or it said 200: then the type of the error stands for it.
        body: whatever came; JSON in the shape of the API is understood.
    """
    body = _clean(asked, body)
    said = _read(body)
    number = status or STATUSES.get(said.kind, 500)
    kind = _kind_of(number, said, headers)
    name = ", ".join(filter(None, (f"HTTP {status}" if status else said.kind or "an error", said.code)))
    text = f"{name}: {said.message or _excerpt(body) or 'no more is said'}"
    return _typed(asked, kind, text, _advice(asked, kind, number, headers), number, headers, said.request_id)


def from_event(
    asked: Asked, headers: Headers, kind: str, said: str, otherwise: type[ProviderError] | None = None
) -> ProviderError:
    """Return the error that came in the middle of a stream.

    Args:
        kind: the type of the error in the API's words; empty if the stream itself is wrong.
        said: what is said of it.
        otherwise: what it is if it has no type.
    """
    told = _Said(kind, "", _short(_hide(said, asked.secrets)))
    status = STATUSES.get(kind, 500)
    found = otherwise or _kind_of(status, told, headers)
    text = f"{kind or 'the stream'}: {told.message or 'no more is said'}"
    return _typed(asked, found, text, _advice(asked, found, status, headers), status, headers, "")


def from_body(asked: Asked, headers: Headers, body: bytes, problem: str) -> ProviderError:
    """Return the error of a body that came with status 200 and is no reply; `problem` is what the decoder says."""
    size, body = len(body), _clean(asked, body)
    start = _excerpt(body[:200])
    content = headers.get("content-type", "no content-type")
    # Whole JSON that breaks off is a line that broke, whatever the server says of its length.
    if not body.strip() or (body.lstrip()[:1] in b"{[" and "truncated" in problem):
        text = f"the response breaks off after {size} bytes ({problem})"
        return _typed(asked, ProviderConnection, text, "the call can be made again", 200, headers, "")
    text = f"the response is not a message but {content} ({problem}); it begins {start!r}"
    advice = ""
    if body.lstrip()[:1] == b"<":
        advice = (
            f"base_url must be the root of a server that answers POST /v1/messages, got {asked.url!r}; "
            "a proxy or a login page may be in between"
        )
    return _typed(asked, BadOutput, text, advice, 200, headers, "")


def from_line(
    asked: Asked, error: Exception, seconds: float, headers: Headers | None = None
) -> ProviderError:
    """Return the error of a line that broke, or was silent for `seconds`. The error's own text is all that is kept."""
    known: Headers = {} if headers is None else headers
    if isinstance(error, TimeoutError):
        advice = "raise timeout= if the model takes longer"
        return _typed(asked, ProviderTimeout, f"no reply in {seconds:g} s", advice, 0, known, "")
    text = f"no connection, or a broken one ({str(error) or type(error).__name__})"
    advice = f"see whether {asked.url} can be reached" if asked.url and headers is None else ""
    return _typed(asked, ProviderConnection, text, advice, 0, known, "")


def from_stop(asked: Asked, headers: Headers, stop_reason: str, messages: int = 0) -> ProviderError | None:
    """Return the error of a reply that stopped for a reason that makes it none; None if it is one.

    Args:
        messages: how many the model got, if that is known.
    """
    if stop_reason == "refusal":
        return plain(asked, Refused, "the model refused to answer", headers)
    if stop_reason == "model_context_window_exceeded":
        size = f" of {messages} messages" if messages else ""
        text = f"the conversation{size} fills the model's context; shorten it"
        return plain(asked, ContextOverflow, text, headers)
    return None


def plain(
    asked: Asked, kind: type[ProviderError], text: str, headers: Headers | None = None
) -> ProviderError:
    """Return an error that is found on this side."""
    return _typed(asked, kind, text, "", 0, {} if headers is None else headers, "")


def request_id_of(headers: Headers) -> str:
    """Return what the server calls the request; empty if it has no name for it."""
    return headers.get("request-id") or headers.get("x-request-id") or ""


def _kind_of(status: int, said: _Said, headers: Headers) -> type[ProviderError]:
    if "spend_limit" in said.code or "spend_limit" in said.kind or said.kind == "billing_error":
        return SpendLimitReached
    # These two have no code of their own, only words.
    if status == 400 and "prompt is too long" in said.message:
        return ContextOverflow
    if status == 400 and "credit balance is too low" in said.message:
        return SpendLimitReached
    if status < 500 and (said.kind == "authentication_error" or (status == 403 and _is_of_the_key(said))):
        return NotAuthorized
    if status in _KINDS:
        return _KINDS[status]
    return ProviderFailed if status >= 500 or status == 409 or status < 300 else InvalidRequest


# Else 403 is what one call may not have, and others may: the key must not be taken for refused.
def _is_of_the_key(said: _Said) -> bool:
    return said.code == "invalid_api_key" or _BAD_KEY.search(said.message) is not None


def _advice(asked: Asked, kind: type[ProviderError], status: int, headers: Headers) -> str:
    if kind is NotAuthorized:
        return f"check {asked.key_from}"
    if kind is SpendLimitReached:
        return "asking again does not help before the limit is raised or the month turns"
    if kind is ContextOverflow:
        return "shorten the conversation, or take a model with a larger context"
    if status == 404:
        what = f"the model {asked.model!r}" if asked.model else "the id of the batch"
        return f"check {what} and base_url={asked.url!r}"
    if 300 <= status < 400:
        to = shown_url(headers.get("location", ""))
        return f"base_url must be where the server is, got {asked.url!r}; it points to {to!r}"
    if status == 403:
        what = f"take another model than {asked.model!r}, or " if asked.model else ""
        return f"the account may not do this; {what}have it allowed by who administers the account"
    if kind is InvalidRequest:
        return "correct the request; as it is, it would fail again"
    return ""


def _typed(
    asked: Asked,
    kind: type[ProviderError],
    text: str,
    advice: str,
    status: int,
    headers: Headers,
    request_id: str,
) -> ProviderError:
    request_id = request_id_of(headers) or request_id
    message = _message(asked, "; ".join(filter(None, (text.rstrip(". "), advice))), request_id)
    names = (message, asked.provider, asked.model, request_id)
    error: ProviderError
    if kind is RateLimited:
        error = RateLimited(*names, retry_after=read_retry_after(headers))
    elif kind is Overloaded:
        error = Overloaded(*names, retry_after=read_retry_after(headers))
    elif kind is ProviderFailed:
        error = ProviderFailed(*names, status=status)
    else:
        error = kind(*names)
    error.limits = read_limits(headers)
    return error


def _message(asked: Asked, text: str, request_id: str) -> str:
    task = asked.task or f"serve {asked.model!r} to {asked.agent or 'its caller'}"
    number = f" (request {request_id})" if request_id else ""
    return _hide(f"{asked.provider} could not {task}: {text}{number}.", asked.secrets)


def _hide(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[key]")
    return text


# Before anything is cut: of a key that is cut in two, the half would be shown.
def _clean(asked: Asked, body: bytes) -> bytes:
    for secret in asked.secrets:
        if secret:
            body = body.replace(secret.encode(), b"[key]")
    return body


def _read(body: bytes) -> _Said:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Said()
    if not isinstance(found, dict):
        return _Said()
    error = found.get("error")
    # {"type": "error", "error": {...}} as a batch has it, one level deeper.
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if isinstance(error, str):
        return _Said(message=_short(error), request_id=_text(found.get("request_id")))
    if not isinstance(error, dict):
        error = found
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    return _Said(
        kind=_text(error.get("type")),
        code=_text(code) or _text(error.get("code")),
        message=_short(_text(error.get("message"))),
        request_id=_text(found.get("request_id")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _excerpt(body: bytes) -> str:
    return _short(" ".join(body[: 4 * SHOWN].decode("utf-8", "replace").split()))
