"""Values that fit a JSON schema, drawn with a source of randomness: what a model might write as arguments of a tool.

It knows the part of JSON Schema that tools are described with: types, enum, const, anyOf and oneOf, references into
$defs, the limits of numbers, lengths and items, additional properties. Values are small and often at an edge: 0, the
empty text, the limit itself. What it does not know (patterns, formats) is text.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

WORDS = ("a", "order", "Ada", "two words", "ünïcode ✓", "x" * 60, "line\nbreak", '"quoted"', "0", "")
"""Texts of schemas that say nothing else."""

DEEP = 6
"""From this depth on everything is as small as the schema allows, so that recursive schemas come to an end."""


def draw_value(schema: Mapping[str, Any] | bool, random: Random) -> Any:
    """Draw a value that fits a schema; `random` decides all."""
    root = schema if isinstance(schema, Mapping) else {}
    return _Drawing(root, random).value(schema, 0)


class _Drawing:
    """One value being drawn; `root` is where references lead."""

    def __init__(self, root: Mapping[str, Any], random: Random) -> None:
        self._root = root
        self._random = random

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return self._any(depth)
        if "$ref" in schema:
            return self.value(self._referred(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._random.choice(list(schema["enum"]))
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self.value(
                self._plainest(options) if depth >= DEEP else self._random.choice(options), depth + 1
            )
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = self._random.choice(kind)
        return self._typed(str(kind), schema, depth)

    def _typed(self, kind: str, schema: Mapping[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._text(schema)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
        return self._object(schema, depth) if "properties" in schema else self._any(depth)

    # An option that needs no others of its kind: null, or whatever is no reference.
    def _plainest(self, options: list[Any]) -> Any:
        plain = [o for o in options if isinstance(o, Mapping) and o.get("type") == "null"]
        flat = [o for o in options if isinstance(o, Mapping) and "$ref" not in o]
        return (plain or flat or options)[0]

    def _referred(self, path: str) -> Any:
        found: Any = self._root
        for part in path.removeprefix("#").strip("/").split("/"):
            found = found.get(part, {}) if isinstance(found, Mapping) and part else found
        return found

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        made: dict[str, Any] = {}
        for name, inner in schema.get("properties", {}).items():
            if name in required or (depth < DEEP and self._random.random() < 0.5):
                made[name] = self.value(inner, depth + 1)
        more = schema.get("additionalProperties")
        if isinstance(more, Mapping) and depth < DEEP:
            for n in range(self._random.randint(0, 2)):
                made[f"key{n}"] = self.value(more, depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        fixed = schema.get("prefixItems")
        if fixed:
            return [self.value(inner, depth + 1) for inner in fixed]
        least = int(schema.get("minItems", 0))
        most = min(int(schema.get("maxItems", least + 3)), least + 3)
        length = least if depth >= DEEP else self._random.randint(least, most)
        items = schema.get("items", {})
        made: list[Any] = []
        for _ in range(length):
            item = self.value(items, depth + 1)
            if not (schema.get("uniqueItems") and item in made):
                made.append(item)
        return made

    def _text(self, schema: Mapping[str, Any]) -> str:
        least = int(schema.get("minLength", 0))
        most = schema.get("maxLength")
        text = self._random.choice(WORDS)
        text = text + "x" * (least - len(text))
        return text if most is None else text[: int(most)]

    def _integer(self, schema: Mapping[str, Any]) -> int:
        low, high = (int(limit) for limit in self._limits(schema, 1))
        edges = [n for n in (low, high, 0, 1, -1, 7, 1000) if low <= n <= high]
        found = self._random.randint(low, high) if self._random.random() < 0.5 else self._random.choice(edges)
        step = int(schema.get("multipleOf", 1)) or 1
        rounded = found - found % step
        return rounded if rounded >= low else rounded + step

    def _number(self, schema: Mapping[str, Any]) -> float:
        low, high = self._limits(schema, 0)
        edges = [x for x in (low, high, 0.0, 0.5, -1.5) if low <= x <= high]
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        edges = [x for x in edges if x not in (above, below)]
        if edges and self._random.random() < 0.5:
            return float(self._random.choice(edges))
        return low + (high - low) * (0.001 + 0.998 * self._random.random())

    # `step` is what an exclusive limit is away from the nearest number inside.
    def _limits(self, schema: Mapping[str, Any], step: int) -> tuple[float, float]:
        low, high = schema.get("minimum"), schema.get("maximum")
        if "exclusiveMinimum" in schema:
            low = schema["exclusiveMinimum"] + step
        if "exclusiveMaximum" in schema:
            high = schema["exclusiveMaximum"] - step
        if low is None:
            low = -1000 if high is None else high - 1000
        return low, (low + 2000 if high is None else high)

    def _any(self, depth: int) -> Any:
        choices: list[Any] = [None, True, 0, 1.5, self._random.choice(WORDS)]
        if depth < DEEP:
            choices += [[], [1], {"key": "value"}]
        return self._random.choice(choices)
