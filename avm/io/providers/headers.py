"""What the headers of a response say of limits: how much is left, when it is there again, how long to wait.

Two families of names are known: `anthropic-ratelimit-*` and `x-ratelimit-*`, as OpenAI and servers like it send. Times
come as a date (RFC 3339, HTTP) or as a span ("12", "6m0s", "20ms"). A date is compared with the response's own `date`,
never with the clock of this machine, which may be wrong. What cannot be read counts as not said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from avm.io.limits import Allowance, RateLimits

Headers = Mapping[str, str]
"""Header fields by name; either its `get` does not mind case, or all names are in lower case."""

_Names = tuple[str, str, str]


def _anthropic(kind: str) -> _Names:
    stem = f"anthropic-ratelimit-{kind}-"
    return (stem + "limit", stem + "remaining", stem + "reset")


def _openai(kind: str) -> _Names:
    return (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}")


# For each limit the names to try in turn. Tokens of no kind count as input, since prompts are most of them.
_REQUESTS = (_anthropic("requests"), _openai("requests"))
_INPUT = (_anthropic("input-tokens"), _openai("input-tokens"), _anthropic("tokens"), _openai("tokens"))
_OUTPUT = (_anthropic("output-tokens"), _openai("output-tokens"))
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def read_limits(headers: Headers) -> RateLimits | None:
    """Return what a response says of the limits; None if it says nothing."""
    requests, reads, writes = (
        _allowance(headers, _REQUESTS),
        _allowance(headers, _INPUT),
        _allowance(headers, _OUTPUT),
    )
    if requests is None and reads is None and writes is None:
        return None
    return RateLimits(requests=requests, input_tokens=reads, output_tokens=writes)


def read_retry_after(headers: Headers) -> float | None:
    """Return the seconds a response tells to wait; None if it does not say, or not in words that are known."""
    thousandths = _seconds(headers.get("retry-after-ms"))
    if thousandths is not None:
        return thousandths / 1000
    said = headers.get("retry-after")
    if said is None:
        return None
    seconds = _seconds(said)
    return seconds if seconds is not None else _until(_http_date(said), headers)


def _allowance(headers: Headers, names: tuple[_Names, ...]) -> Allowance | None:
    for limit, remaining, reset in names:
        most, left = headers.get(limit), headers.get(remaining)
        if most is None and left is None:
            continue
        found = Allowance(_whole(most), _whole(left), _reset(headers.get(reset), headers))
        if found.limit is not None or found.remaining is not None:
            return found
    return None


def _whole(text: str | None) -> int | None:
    try:
        # Fewer digits than Python refuses to read, and none but ASCII's.
        found = int(text) if text is not None and len(text) < 20 else None
    except ValueError:
        return None
    return None if found is None else max(0, found)


def _seconds(text: str | None) -> float | None:
    try:
        found = float(text) if text is not None else None
    except ValueError:
        return None
    return max(0.0, found) if found is not None and math.isfinite(found) else None


def _reset(text: str | None, headers: Headers) -> float | None:
    if not text:
        return None
    # Only dates have a "T" or an hour's colon in them.
    if ":" in text:
        return _until(_date(text), headers)
    seconds = _seconds(text)
    return seconds if seconds is not None else _span(text.strip())


def _span(text: str) -> float | None:
    match = _SPAN.fullmatch(text)
    if match is None or not text:
        return None
    return sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)


def _until(moment: float | None, headers: Headers) -> float | None:
    said = headers.get("date")
    now = _http_date(said) if said is not None else None
    return None if moment is None or now is None else max(0.0, moment - now)


# A reset is the same for all responses of a second.
@lru_cache(maxsize=64)
def _date(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _http_date(text)
    return _stamp(moment)


# Responses of one second share their date, and reading one takes longer than all else here.
@lru_cache(maxsize=16)
def _http_date(text: str) -> float | None:
    try:
        return _stamp(parsedate_to_datetime(text))
    except (ValueError, IndexError, TypeError):
        return None


def _stamp(moment: datetime) -> float | None:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):
        return None
