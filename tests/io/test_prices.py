"""Prices of models and what calls come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io import Usage
from avm.io.prices import PRICES, cost, price_of
from avm.io.providers.provider import Price

TOKENS = st.integers(0, 10**6)
USAGES = st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS)


@pytest.mark.parametrize(
    "model, input, output, read, write, hour",
    [
        ("claude-haiku-5-5", 0.10, 0.50, 0.01, 0.125, 0.2),
        ("claude-sonnet-5-5", 2.0, 10.0, 0.1, 2.5, 4.0),
        ("claude-opus-5-5", 4.0, 20.0, 0.2, 5.0, 8.0),
        ("claude-fable-5-1", 10.0, 50.0, 0.25, 12.5, 20.0),
    ],
)
def test_the_table_has_the_prices_of_a_line(
    model: str, input: float, output: float, read: float, write: float, hour: float
) -> None:
    price = price_of(model)

    assert price is not None
    found = (price.input, price.output, price.cache_read, price.cache_write, price.cache_write_hour)
    assert found == pytest.approx((input, output, read, write, hour))


@pytest.mark.parametrize(
    "model", ["claude-sonnet-5-5-20261007", "claude-sonnet-5-5@x", "claude-sonnet-5-5-latest"]
)
def test_a_model_with_a_date_costs_what_the_model_costs(model: str) -> None:
    assert price_of(model) == PRICES["claude-sonnet-5-5"]


@pytest.mark.parametrize(
    "model", ["", "gpt-9", "claude-sonnet-5", "claude-sonnet-5-50", "claude-sonnet-5-5-1", "m"]
)
def test_a_model_that_is_not_listed_has_no_price(model: str) -> None:
    assert price_of(model) is None


def test_prices_of_the_program_come_before_the_table_and_the_longest_id_wins() -> None:
    mine = {
        "my": Price(input=1, output=2),
        "my-large": Price(input=3, output=4),
        "claude-opus-5-5": Price(input=0, output=0),
    }

    assert price_of("my-large-v2", mine) == mine["my-large"]
    assert price_of("my-small", mine) == mine["my"]
    assert price_of("claude-opus-5-5", mine) == mine["claude-opus-5-5"]
    assert price_of("claude-haiku-5-5", mine) == PRICES["claude-haiku-5-5"]


def test_a_long_prompt_costs_more_where_the_provider_says_so() -> None:
    usual, long = price_of("claude-haiku-5-5"), price_of("claude-haiku-5-5", prompt_tokens=100_001)

    assert usual is not None
    assert long is not None
    assert long.input == pytest.approx(5 * usual.input)
    assert price_of("claude-haiku-5-5", prompt_tokens=100_000) == usual
    assert price_of("claude-opus-5-5", prompt_tokens=10**6) == price_of("claude-opus-5-5")


def test_a_thousand_agents_on_one_prompt_cost_what_the_design_says() -> None:
    price = price_of("claude-sonnet-5-5")
    assert price is not None
    leader, follower = Usage(500, 300, 0, 15_000), Usage(500, 300, 15_000, 0)

    assert cost(leader, price) + 999 * cost(follower, price) == pytest.approx(5.536, abs=0.001)
    assert 1000 * cost(leader, price) == pytest.approx(41.5)
    assert 1000 * cost(Usage(15_500, 300), price) == pytest.approx(34.0)
    assert cost(leader, price, hour=True) - cost(leader, price) == pytest.approx(15_000 * 1.5 / 1e6)


@given(one=USAGES, other=USAGES, hour=st.booleans(), batch=st.booleans())
def test_calls_cost_together_what_they_cost_one_by_one(
    one: Usage, other: Usage, hour: bool, batch: bool
) -> None:
    price = PRICES["claude-opus-5-5"]
    both = Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cache_read_tokens + other.cache_read_tokens,
        one.cache_write_tokens + other.cache_write_tokens,
    )

    apart = cost(one, price, hour, batch=batch) + cost(other, price, hour, batch=batch)

    assert cost(both, price, hour, batch=batch) == pytest.approx(apart)
    assert cost(both, price, hour, batch=True) == pytest.approx(cost(both, price, hour) / 2)
