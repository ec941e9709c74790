"""What is wrong with a spec, in words: who, which field, what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from avm.actors.actor import Actor
from avm.errors import SpecError


def unknown_options(who: str, function: Callable[..., object], unknown: Mapping[str, object]) -> SpecError:
    """Return the error for keywords that are no option of `function`; it names the nearest one."""
    options = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    name, value = next(iter(unknown.items()))
    near = difflib.get_close_matches(name, options, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    if "kwargs" in options and not near:
        hint = f" If it is for the actor, pass kwargs={{{name!r}: ...}}."
    return SpecError(f"{who}: options must be among {', '.join(options)}, got {name}={brief(value)}.{hint}")


@lru_cache(maxsize=1024)
def call_fault(actor: type, positional: int, keywords: tuple[str, ...]) -> str | None:
    """Say why a class cannot be called with so many arguments and these keywords; None if it can."""
    try:
        signature = inspect.signature(actor)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*(None,) * positional, **dict.fromkeys(keywords))
    except TypeError as fault:
        return str(fault)
    return None


def is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def wrong(who: str, field: str, expected: str, found: object) -> SpecError:
    return SpecError(f"{who}: {field} must be {expected}, got {shown(found)}.")


def choice(values: Sequence[str]) -> str:
    quoted = [repr(v) for v in values]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def shown(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else brief(value)


def call_hint(value: object) -> str:
    """Say what to do about a class or function given where its result is due."""
    if isinstance(value, type) and issubclass(value, Actor):
        return f" Write child('...', {value.__name__})."
    return f" Call it: {getattr(value, '__name__', '...')}(...)." if callable(value) else ""


def brief(value: object) -> str:
    if isinstance(value, type):
        return value.__name__
    try:
        return cut(repr(value), 40)
    except BaseException as error:
        return f"<{type(value).__name__}: its repr failed with {type(error).__name__}>"


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
