"""What `@tool` makes of a function: schema, strict check of arguments, errors at import."""

import enum
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pytest

from avm.errors import ToolDefinitionError, ToolError
from avm.tools import Tool, describe_all, tool


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@attrs.frozen
class Place:
    city: str
    country: str | None = None


@tool(timeout=5)
async def forecast(
    place: Place, days: int = 3, unit: Unit = Unit.CELSIUS, kind: Literal["rain", "sun"] = "sun"
) -> str:
    """Tell the weather.

    Only for cities.

    Args:
        place: where; a city
            and its country.
        days: how many days ahead.

    Returns:
        A sentence.
    """
    return f"{kind} in {place.city}"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def schema_of(made: Tool) -> dict[str, Any]:
    return msgspec.json.decode(made.schema)


def test_the_name_and_the_docstring_are_what_the_model_reads() -> None:
    assert forecast.name == "forecast"
    assert forecast.description == "Tell the weather.\n\nOnly for cities."


def test_the_schema_is_made_of_the_annotations() -> None:
    schema = schema_of(add)

    assert schema == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }


def test_parameters_are_described_by_the_docstring_and_defaults_make_them_optional() -> None:
    schema = schema_of(forecast)

    assert schema["required"] == ["place"]
    assert schema["properties"]["days"] == {
        "type": "integer",
        "default": 3,
        "description": "how many days ahead.",
    }
    assert schema["properties"]["place"]["description"] == "where; a city and its country."
    assert schema["properties"]["kind"]["enum"] == ["rain", "sun"]


def test_nested_types_are_defined_beside_the_arguments() -> None:
    schema = schema_of(forecast)

    assert schema["$defs"]["Place"]["properties"]["city"] == {"type": "string"}
    assert "forecast_arguments" not in schema["$defs"]


def test_the_bytes_of_a_schema_are_the_same_whatever_the_order_of_definition() -> None:
    @tool
    def zebra(x: int) -> int:
        """Last."""
        return x

    assert describe_all((zebra, add)) == describe_all((add, zebra))
    assert describe_all((add,)).startswith(b'[{"description":"Add two numbers."')


def test_arguments_become_values_of_the_annotated_types() -> None:
    found = forecast.check('{"place": {"city": "Rome"}, "unit": "fahrenheit"}')

    assert found == {"place": Place("Rome"), "days": 3, "unit": Unit.FAHRENHEIT, "kind": "sun"}


def test_no_text_at_all_means_no_arguments() -> None:
    @tool
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert now.check("") == {}


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"a": "1", "b": 2}', "Expected `int`, got `str` - at `$.a`"),
        ('{"a": 1}', "missing required field `b`"),
        ('{"a": 1, "b": 2, "c": 3}', "unknown field `c`"),
        ('{"a": 1,', "Input data was truncated"),
        ("ls -la", "JSON is malformed"),
        ("[1, 2]", "Expected `object`, got `array`"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_wrong_and_what_would_fit(text: str, says: str) -> None:
    with pytest.raises(ToolError) as caught:
        add.check(text)

    assert says in str(caught.value)
    assert '"required":["a","b"]' in str(caught.value)


def test_a_default_that_can_change_is_not_shared_between_calls() -> None:
    @tool
    def collect(found: list[str] = []) -> int:  # noqa: B006
        """Collect."""
        return len(found)

    collect.check("{}")["found"].append("x")

    assert collect.check("{}") == {"found": []}


def test_a_tool_can_be_called_as_the_function_it_was() -> None:
    assert add(2, b=3) == 5


def test_the_name_can_be_chosen() -> None:
    @tool(name="sum-of-two", timeout=None)
    def s(a: int) -> int:
        """Sum."""
        return a

    assert (s.name, s.timeout) == ("sum-of-two", None)


def test_a_tool_has_no_limits_and_is_not_pure_unless_it_says_so() -> None:
    @tool(concurrency=2, rate=0.5, pure=True)
    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    assert (look_up.concurrency, look_up.rate, look_up.pure) == (2, 0.5, True)
    assert (add.concurrency, add.rate, add.pure) == (None, None, False)


def test_annotations_of_the_user_keep_their_bounds() -> None:
    @tool
    def roll(sides: Annotated[int, msgspec.Meta(ge=2, le=100)]) -> int:
        """Roll a die.

        Args:
            sides: of the die.
        """
        return sides

    assert schema_of(roll)["properties"]["sides"] == {
        "type": "integer",
        "minimum": 2,
        "maximum": 100,
        "description": "of the die.",
    }
    with pytest.raises(ToolError, match=r"at `\$.sides`"):
        roll.check('{"sides": 1}')


def no_docstring(a: int) -> int:
    return a


def no_annotation(a):  # type: ignore[no-untyped-def]
    """Do it."""


def many(*args: int) -> None:
    """Do it."""


def odd_type(a: object, b: "Missing") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do it."""


def not_json(a: complex) -> None:
    """Do it."""


@pytest.mark.parametrize(
    "function, says",
    [
        (no_docstring, "it has no docstring"),
        (no_annotation, "parameter 'a' has no annotation"),
        (many, "cannot be given by name"),
        (odd_type, "'Missing'"),
        (not_json, "cannot be told to a model"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_at_import(function: Any, says: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(function)

    assert says in str(caught.value)
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"timeout": 0}, "timeout must be a number of seconds above 0 or None, got 0"),
        ({"name": "two words"}, "the name 'two words' must be"),
        ({"output_limit": 10}, "output_limit must be 200 characters or more, got 10"),
        ({"concurrency": 0}, "concurrency must be a whole number of 1 or more, or None, got 0"),
        ({"concurrency": 1.5}, "concurrency must be a whole number of 1 or more, or None, got 1.5"),
        ({"rate": 0}, "rate must be a number of calls a second above 0, or None, got 0"),
        ({"rate": float("nan")}, "rate must be a number of calls a second above 0, or None, got nan"),
        ({"rate": float("inf")}, "rate must be a number of calls a second above 0, or None, got inf"),
        ({"rate": "often"}, "rate must be a number of calls a second above 0, or None, got 'often'"),
        ({"pure": 1}, "pure must be True or False, got 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(**options)(add.function)

    assert says in str(caught.value)
