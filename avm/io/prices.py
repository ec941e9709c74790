"""Prices: what models cost, as far as it is known, and what a call came to.

One table, of the day it says. A model is found by its id, or by the beginning of it: "claude-sonnet-5-5" is also what
"claude-sonnet-5-5-20261007" costs. What is not in the table has no price: better none than a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from avm.io.providers.provider import Price
from avm.io.request import Usage

PRICES_OF = "2026-11-23"
"""The day on which the table was right."""

MILLION = 1_000_000
BATCH_SHARE = 0.5
"""What a call in a provider's batch costs of its price."""
WRITE, WRITE_HOUR = 1.25, 2.0
"""What writing to the prompt cache costs, of the input's price: for five minutes, for an hour."""


def _cached(input: float, output: float, read: float) -> Price:
    """Make a price of those that are listed; `read` is the share of the input's price."""
    return Price(
        input=input,
        output=output,
        cache_read=input * read,
        cache_write=input * WRITE,
        cache_write_hour=input * WRITE_HOUR,
    )


PRICES: Mapping[str, Price] = {
    "claude-haiku-5-5": _cached(0.10, 0.50, read=0.10),
    "claude-sonnet-5-5": _cached(2.0, 10.0, read=0.05),
    "claude-opus-5-5": _cached(4.0, 20.0, read=0.05),
    "claude-fable-5-1": _cached(10.0, 50.0, read=0.025),
}
"""US dollars for a million tokens, by the beginning of a model's id."""

LONG_PROMPTS: Mapping[str, tuple[int, float]] = {"claude-haiku-5-5": (100_000, 5.0)}
"""Models for which a prompt of more tokens than this costs so many times as much."""


def price_of(
    model: str, prices: Mapping[str, Price] | None = None, *, prompt_tokens: int = 0
) -> Price | None:
    """Return what a model costs, None if that is not known.

    Args:
        prices: come before the table, by the beginning of a model's id too.
        prompt_tokens: of the call that is meant; for some models a long prompt costs more.
    """
    own = _longest(model, prices) if prices else None
    if own is not None and prices is not None:
        return prices[own]
    found = _longest(model, PRICES)
    if found is None:
        return None
    most, factor = LONG_PROMPTS.get(found, (0, 1.0))
    price = PRICES[found]
    return _times(price, factor) if most and prompt_tokens > most else price


def cost(usage: Usage, price: Price, hour: bool = False, *, batch: bool = False) -> float:
    """Return what a call came to in US dollars.

    Args:
        hour: whether what it wrote to the prompt cache lives an hour.
        batch: whether it was made in a provider's batch.
    """
    write = price.cache_write_hour if hour else price.cache_write
    dollars = (
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_tokens * price.cache_read
        + usage.cache_write_tokens * write
    ) / MILLION
    return dollars * BATCH_SHARE if batch else dollars


def _longest(model: str, prices: Mapping[str, Price]) -> str | None:
    return max((id for id in prices if _begins(model, id)), key=len, default=None)


# "claude-sonnet-5" is not the beginning of "claude-sonnet-50", nor of "claude-sonnet-5-5", which is another model: a
# number of one or two digits belongs to the id, a date or a word behind it does not.
def _begins(model: str, id: str) -> bool:
    if not model.startswith(id):
        return False
    rest = model[len(id) :]
    if not rest or rest[0] in "@:":
        return True
    return rest[0] == "-" and not (rest[1:].isdigit() and len(rest) <= 3)


def _times(price: Price, factor: float) -> Price:
    return Price(**{name: value * factor for name, value in attrs.asdict(price).items()})
