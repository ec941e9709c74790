"""What went wrong, as typed errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
    SpendLimitReached,
)
from avm.io.limits import Allowance, RateLimits
from avm.io.providers.failures import SHOWN, Asked, from_body, from_event, from_line, from_status
from tests.io.providers.raw_server import failure

KEY = "sk-ant-secret-0123456789"
ASKED = Asked(
    provider="messages",
    model="claude-x",
    agent="newsroom/critic",
    url="http://127.0.0.1:1",
    secrets=(KEY, ""),
)


def status(number: int, body: Any, **headers: str) -> ProviderError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return from_status(ASKED, number, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


@pytest.mark.parametrize(
    "number, body, kind, says",
    [
        (
            400,
            failure("invalid_request_error", "max_tokens: 9 > 8"),
            InvalidRequest,
            "HTTP 400: max_tokens: 9 > 8",
        ),
        (400, failure("invalid_request_error", "prompt is too long: 9 > 8"), ContextOverflow, "shorten"),
        (413, failure("request_too_large", "too large"), ContextOverflow, "HTTP 413"),
        (401, failure("authentication_error", "invalid x-api-key"), NotAuthorized, "check api_key="),
        (400, failure("authentication_error", "no key"), NotAuthorized, "check api_key="),
        (402, failure("billing_error", "pay"), SpendLimitReached, "does not help"),
        (
            429,
            failure("rate_limit_error", "limit", error_code="enforced_spend_limit_reached"),
            SpendLimitReached,
            "HTTP 429, enforced_spend_limit_reached: limit",
        ),
        (
            429,
            failure("rate_limit_error", "limit", error_code="contract_spend_limit_reached"),
            SpendLimitReached,
            "limit",
        ),
        (
            400,
            failure("invalid_request_error", "Your credit balance is too low"),
            SpendLimitReached,
            "credit",
        ),
        (404, failure("not_found_error", "model: claude-x"), InvalidRequest, "check the model 'claude-x'"),
        (422, failure("invalid_request_error", "no"), InvalidRequest, "HTTP 422"),
        (408, failure("timeout_error", "late"), ProviderTimeout, "HTTP 408: late"),
        (504, failure("timeout_error", "late"), ProviderTimeout, "HTTP 504: late"),
        (429, failure("rate_limit_error", "slow down"), RateLimited, "HTTP 429: slow down"),
        (503, b"", Overloaded, "HTTP 503: no more is said"),
        (529, failure("overloaded_error", "busy"), Overloaded, "HTTP 529: busy"),
        (500, failure("api_error", "oops"), ProviderFailed, "HTTP 500: oops"),
        (502, b"<html><h1>Bad\n Gateway</h1></html>", ProviderFailed, "HTTP 502: <html><h1>Bad Gateway</h1>"),
        (409, b"{}", ProviderFailed, "HTTP 409"),
        (307, b"", InvalidRequest, "base_url must be where the server is"),
        (400, {"error": "just words"}, InvalidRequest, "HTTP 400: just words"),
        (400, {"error": {"message": 3, "details": []}}, InvalidRequest, "HTTP 400"),
        (400, b"[1]", InvalidRequest, "HTTP 400: [1]"),
        (500, b"\xff\xfe", ProviderFailed, "HTTP 500"),
    ],
)
def test_a_status_is_a_typed_error_with_advice(
    number: int, body: Any, kind: type[ProviderError], says: str
) -> None:
    error = status(number, body, request_id="req_1")

    assert type(error) is kind
    assert says in str(error)
    assert str(error).startswith("messages could not serve 'claude-x' to newsroom/critic: ")
    assert str(error).endswith(" (request req_1).")
    assert (error.provider, error.model, error.request_id) == ("messages", "claude-x", "req_1")


@pytest.mark.parametrize(
    "body",
    [
        failure("permission_error", "Your account may not use claude-x."),
        failure("permission_error", "Your API key does not have permission to use the specified resource."),
        failure("permission_error", "API key is valid, but not for this model: invalid model"),
        {"error": {"code": "unsupported_country_region_territory", "message": "Country not supported"}},
        b"<html>Forbidden</html>",
        b"",
    ],
)
def test_what_an_account_may_not_do_is_the_error_of_that_call(body: Any) -> None:
    """A key that is refused stops all calls; this one has only asked for what it may not have."""
    error = status(403, body)

    assert type(error) is InvalidRequest
    assert "the account may not do this" in str(error)
    assert "check api_key=" not in str(error)


def test_what_an_account_may_not_do_is_so_in_streams_and_batches_too() -> None:
    body = {"type": "errored", "error": failure("permission_error", "no")}

    assert type(from_event(ASKED, {}, "permission_error", "no")) is InvalidRequest
    assert type(from_status(ASKED, 0, {}, json.dumps(body).encode())) is InvalidRequest


@pytest.mark.parametrize(
    "body",
    [
        failure("authentication_error", "no"),
        failure("permission_error", "invalid x-api-key"),
        failure("permission_error", "API key not valid. Please pass a valid API key."),
        {"error": {"code": "invalid_api_key", "message": "no"}},
        {"error": "Incorrect API key provided: sk-123"},
        {"error": "The api_key has been revoked"},
        {"error": f"API key {KEY} is expired"},
    ],
)
def test_a_key_that_is_not_valid_is_not_authorized_whatever_the_status(body: Any) -> None:
    error = status(403, body)

    assert type(error) is NotAuthorized
    assert "check api_key=" in str(error)


def test_the_request_id_of_the_body_is_taken_where_headers_have_none() -> None:
    assert status(400, failure("invalid_request_error", "no")).request_id == "req_body"


def test_a_rate_limit_says_how_long_and_what_is_left() -> None:
    headers = {"retry-after": "17", "anthropic-ratelimit-requests-remaining": "0"}

    error = from_status(ASKED, 429, headers, b"")

    assert isinstance(error, RateLimited)
    assert error.retry_after == 17.0
    assert error.limits == RateLimits(requests=Allowance(None, 0))


@pytest.mark.parametrize("number", [503, 529])
def test_a_provider_without_capacity_may_say_how_long(number: int) -> None:
    error, silent = status(number, b"", retry_after="9"), status(number, b"")

    assert isinstance(error, Overloaded)
    assert isinstance(silent, Overloaded)
    assert (error.retry_after, silent.retry_after) == (9.0, None)


def test_where_a_server_points_to_is_shown_without_what_may_be_secret() -> None:
    error = status(307, b"", location="https://user:pw@other.example/v1?token=secret")

    assert "'https://other.example/v1?...'" in str(error)


def test_other_errors_have_limits_too_if_the_response_says_so() -> None:
    error = from_status(ASKED, 529, {"anthropic-ratelimit-requests-remaining": "4"}, b"")

    assert error.limits == RateLimits(requests=Allowance(None, 4))
    assert from_status(ASKED, 529, {}, b"").limits is None


def test_the_status_of_a_failure_is_kept() -> None:
    error = status(502, b"")

    assert isinstance(error, ProviderFailed)
    assert error.status == 502


@pytest.mark.parametrize(
    "body",
    [
        failure("authentication_error", f"invalid key {KEY}"),
        f"<p>{KEY}</p>".encode(),
        b"x" * (SHOWN - 5) + KEY.encode(),
        {"error": f"key: {KEY}"},
    ],
)
def test_a_server_that_sends_the_key_back_does_not_get_it_shown(body: Any) -> None:
    error = status(401, body)

    assert KEY[:6] not in str(error)
    assert KEY not in repr(ASKED)


def test_the_servers_words_are_cut() -> None:
    assert len(str(status(400, failure("invalid_request_error", "word " * 10_000)))) < 2 * SHOWN


@pytest.mark.parametrize(
    "type_, kind",
    [
        ("overloaded_error", Overloaded),
        ("rate_limit_error", RateLimited),
        ("api_error", ProviderFailed),
        ("invalid_request_error", InvalidRequest),
        ("authentication_error", NotAuthorized),
        ("timeout_error", ProviderTimeout),
        ("billing_error", SpendLimitReached),
        ("something_new", ProviderFailed),
    ],
)
def test_an_error_in_a_stream_is_of_the_kind_it_says(type_: str, kind: type[ProviderError]) -> None:
    error = from_event(ASKED, {"request-id": "req_1"}, type_, "words")

    assert type(error) is kind
    assert f"{type_}: words" in str(error)
    assert error.request_id == "req_1"


def test_a_result_of_a_batch_is_as_deep_as_it_is() -> None:
    body = {"type": "errored", "error": failure("invalid_request_error", "bad schema")}

    error = from_status(ASKED, 0, {}, json.dumps(body).encode())

    assert type(error) is InvalidRequest
    assert "invalid_request_error: bad schema" in str(error)


def test_html_instead_of_a_reply_tells_what_base_url_should_be() -> None:
    error = from_body(ASKED, {"content-type": "text/html"}, b"<html>login</html>", "JSON is malformed")

    assert type(error) is BadOutput
    assert "is not a message but text/html" in str(error)
    assert "it begins '<html>login</html>'" in str(error)
    assert "base_url must be the root of a server" in str(error)
    assert "http://127.0.0.1:1" in str(error)


@pytest.mark.parametrize("body", [b"", b" ", b'{"content": [{"ty'])
def test_json_that_breaks_off_is_a_broken_line(body: bytes) -> None:
    error = from_body(ASKED, {}, body, "Input data was truncated")

    assert type(error) is ProviderConnection
    assert f"breaks off after {len(body)} bytes" in str(error)


def test_a_silent_line_and_a_broken_one_are_told_apart() -> None:
    silent = from_line(ASKED, TimeoutError(), 30.0)
    broken = from_line(ASKED, ConnectionError("reset"), 30.0)

    assert type(silent) is ProviderTimeout
    assert "no reply in 30 s; raise timeout=" in str(silent)
    assert type(broken) is ProviderConnection
    assert "(reset); see whether http://127.0.0.1:1 can be reached" in str(broken)


def test_what_is_no_serving_of_a_model_is_called_what_it_is() -> None:
    asked = Asked(provider="messages", task="look at batch 'b1'")

    error = from_status(asked, 404, {}, b"")

    assert str(error).startswith("messages could not look at batch 'b1': HTTP 404")
    assert "check the id of the batch" in str(error)
