"""Tools: typed functions a model may call. `@tool` reads the signature once and makes everything from it.

    @tool(timeout=5)
    async def count_words(text: str) -> int:
        \"\"\"Count the words of a text.\"\"\"
        return len(text.split())

The docstring is what the model reads; an `Args:` section describes the parameters. The schema is made of the
annotations and has the same bytes in every run, since a provider's prompt cache depends on them. The model's
arguments are checked strictly ("5" is no int, an unknown name is refused) before the function sees them.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, overload

import attrs
import msgspec

from avm.actors.event import ATOMS
from avm.errors import ToolDefinitionError, ToolError
from avm.io.toolgate import wrong_limit
from avm.tools.runner import ToolWorker

if TYPE_CHECKING:
    from avm.actors.actor import Actor
    from avm.io.request import CallTool

TIMEOUT = 60.0
"""Seconds a tool may take unless it says otherwise."""

OUTPUT_LIMIT = 50_000
"""Characters of a result the model gets unless the tool says otherwise; the middle of a longer one is cut."""

NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@attrs.frozen(slots=True, eq=False)
class Tool:
    """A function with what a model must know of it. Call it as the function it was made of."""

    name: str
    description: str
    schema: bytes
    """The JSON schema of the arguments: compact, keys sorted."""
    function: Callable[..., Any] = attrs.field(repr=False)
    arguments: type[msgspec.Struct] = attrs.field(repr=False)
    is_async: bool
    timeout: float | None = TIMEOUT
    output_limit: int = OUTPUT_LIMIT
    concurrency: int | None = None
    """Calls under way at once, of all agents together; None is no limit."""
    rate: float | None = None
    """Calls a second, of all agents together; None is no limit."""
    pure: bool = False
    """Whether equal calls under way are one."""

    worker: ClassVar[type[Actor]] = ToolWorker
    """The class of pool workers that run it."""

    async def execute(self, call: CallTool, worker: ToolWorker) -> object:
        """Run one call of a model: check its arguments, then the function, a plain `def` in a thread.

        Raises:
            ToolError: the arguments do not fit.
        """
        arguments = self.check(call.call.arguments)
        if self.is_async:
            return await self.function(**arguments)
        return await worker.run_blocking(functools.partial(self.function, **arguments))

    def check(self, text: str) -> dict[str, Any]:
        """Turn the arguments a model wrote into those of the function.

        Args:
            text: a JSON object; nothing at all means no arguments.

        Raises:
            ToolError: it is not JSON, or does not fit; says where, and what would.
        """
        try:
            found = msgspec.json.decode(text.strip() or "{}", type=self.arguments)
        except msgspec.DecodeError as error:
            raise ToolError(
                f"Wrong arguments for {self.name}: {error}. Expected a JSON object that fits {self.schema.decode()}."
            ) from error
        return {name: getattr(found, name) for name in self.arguments.__struct_fields__}

    def describe(self) -> dict[str, Any]:
        """Return what a provider sends: name, description and the schema of the arguments."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": msgspec.json.decode(self.schema),
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself: no check, no timeout, no pool."""
        return self.function(*args, **kwargs)


# A tool is code: it goes from an agent to the pool of the same process as it is.
ATOMS.add(Tool)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    timeout: float | None = TIMEOUT,
    output_limit: int = OUTPUT_LIMIT,
    concurrency: int | None = None,
    rate: float | None = None,
    pure: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = TIMEOUT,
    output_limit: int = OUTPUT_LIMIT,
    concurrency: int | None = None,
    rate: float | None = None,
    pure: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a typed function a tool.

    Args:
        name: what the model calls it; default is the function's name.
        timeout: seconds it may take from when it begins, None for no limit. A plain `def` runs in a thread, which
            cannot be stopped: after the timeout the model gets an error while the thread runs on.
        output_limit: characters of the result the model gets.
        concurrency: calls under way at once, of all agents together; the others wait.
        rate: calls a second, of all agents together; after a rest as many at once, at least one.
        pure: its result depends on its arguments only, and it changes nothing: equal calls under way become one.

    Raises:
        ToolDefinitionError: a parameter without annotation, of a type JSON cannot carry, or `*args`; no docstring;
            an option out of range.
    """
    options = {
        "timeout": timeout,
        "output_limit": output_limit,
        "concurrency": concurrency,
        "rate": rate,
        "pure": pure,
    }
    make = functools.partial(_make, name=name, options=options)
    return make if function is None else make(function)


def describe_all(tools: tuple[Tool, ...]) -> bytes:
    """Return the JSON array a provider sends for these tools: sorted by name, the same bytes in every run."""
    described = [t.describe() for t in sorted(tools, key=lambda t: t.name)]
    return msgspec.json.encode(described, order="deterministic")


def _make(function: Callable[..., Any], *, name: str | None, options: dict[str, Any]) -> Tool:
    called = name if name is not None else function.__name__
    if not NAME.fullmatch(called):
        raise _wrong(
            function, f"the name {called!r} must be 1 to 128 letters, digits, '_' or '-'; pass name="
        )
    _check_options(function, **options)
    doc = inspect.getdoc(function) or ""
    description, about = split_docstring(doc)
    if not description:
        raise _wrong(function, "it has no docstring; write one that tells the model what it is for")
    arguments = _arguments(function, called, about)
    return Tool(
        name=called,
        description=description,
        schema=_schema(function, arguments),
        function=function,
        arguments=arguments,
        is_async=inspect.iscoroutinefunction(function),
        **options,
    )


def _check_options(
    function: Callable[..., Any],
    timeout: float | None,
    output_limit: int,
    concurrency: int | None,
    rate: float | None,
    pure: bool,
) -> None:
    if timeout is not None and not timeout > 0:
        raise _wrong(function, f"timeout must be a number of seconds above 0 or None, got {timeout!r}")
    if output_limit < 200:
        raise _wrong(function, f"output_limit must be 200 characters or more, got {output_limit!r}")
    wrong = wrong_limit(concurrency, rate)
    if wrong:
        raise _wrong(function, wrong)
    if type(pure) is not bool:
        raise _wrong(function, f"pure must be True or False, got {pure!r}")


def split_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring in Google's form into its text and what it says of each parameter."""
    head, _, rest = doc.partition("\nArgs:\n")
    if doc.startswith("Args:\n"):
        head, rest = "", doc.removeprefix("Args:\n")
    about: dict[str, str] = {}
    last: str | None = None
    indent: int | None = None
    for line in rest.splitlines():
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth == 0:
            break
        if indent is None and line.strip():
            indent = depth
        found = re.match(r"\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)", line)
        if found and depth == indent:
            last = found[1]
            about[last] = found[2].strip()
        elif last is not None and line.strip():
            about[last] = f"{about[last]} {line.strip()}".strip()
    text = re.split(r"\n(?:Returns|Raises|Yields|Examples?):\n", head)[0]
    return text.strip(), about


def _arguments(function: Callable[..., Any], name: str, about: dict[str, str]) -> type[msgspec.Struct]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise _wrong(
            function, f"its annotations name something unknown ({error}); import it at run time"
        ) from error
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise _wrong(
                function, f"parameter {parameter} cannot be given by name; a model gives all by name"
            )
        if parameter.name not in hints:
            raise _wrong(
                function, f"parameter {parameter.name!r} has no annotation; the schema is made of them"
            )
        kind = hints[parameter.name]
        if parameter.name in about:
            kind = Annotated[kind, msgspec.Meta(description=about[parameter.name])]
        if parameter.default is parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, _default(parameter.default)))
    try:
        return msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
    except (TypeError, ValueError) as error:
        raise _wrong(function, f"its parameters cannot be told to a model: {error}") from error


def _default(value: Any) -> Any:
    # Each call gets its own list, dict or set, as callers in Python do not: a shared default would travel from agent
    # to agent.
    if isinstance(value, (list, dict, set, bytearray)):
        return msgspec.field(default_factory=functools.partial(copy.copy, value))
    return value


def _schema(function: Callable[..., Any], arguments: type[msgspec.Struct]) -> bytes:
    try:
        (root,), parts = msgspec.json.schema_components([arguments])
    except TypeError as error:
        raise _wrong(function, f"its parameters cannot be told to a model: {error}") from error
    name = root["$ref"].rsplit("/", 1)[1]
    schema = parts.pop(name)
    schema.pop("title", None)
    schema.setdefault("required", [])
    if parts:
        schema["$defs"] = parts
    return msgspec.json.encode(schema, order="deterministic")


def _wrong(function: Callable[..., Any], why: str) -> ToolDefinitionError:
    where = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
    return ToolDefinitionError(f"tool {where}: {why}.")
