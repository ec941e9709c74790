"""`avm run module:tree`: start a supervision tree from a Python module and run it until it ends or a signal
comes.

Standard output is only for `--json-status`. What a person reads goes to standard error: reports as the log,
one line at
the start, and one at the end that says why it ended, as the exit status does: 0 the tree ended in order or
`--duration` is over, 1 it failed, 2 the command is wrong, 130 SIGINT, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import importlib
import inspect
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avm.errors import AVMError, ColdStoreError, HomeError, StartError, VMError
from avm.memory import parse_size
from avm.observe import LogReports
from avm.supervision import ChildSpec
from avm.vm import VM, VMStatus, run

STATUS_SECONDS = 1.0


class TargetError(AVMError):
    """MODULE:TREE of the command line does not lead to a tree."""


def run_command(argv: Sequence[str]) -> int:
    """Carry out `avm run` with these arguments; return the exit status."""
    options = _parser().parse_args(argv)
    _log_to_stderr()
    try:
        tree = load_tree(options.target)
        why = run(_until_it_ends, tree, options)
    except TargetError as error:
        return _say(str(error), 2)
    except (HomeError, ColdStoreError) as error:
        return _say(f"--home: {error}", 2)
    except (StartError, VMError) as error:
        return _say("\n  ".join([str(error), *getattr(error, "__notes__", [])]), 1)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return _say(why, 0)


def load_tree(target: str) -> ChildSpec:
    """Import a module and return the tree that one of its attributes is, or that a function of no arguments
    returns.

    Raises:
        TargetError: there is no such module or attribute, or what is there is no tree. An error inside the
            module, or inside the function, is its `__cause__`.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise TargetError(f"the tree must be written MODULE:TREE, as in newsroom:tree, got {target!r}.")
    found = _attribute(_module(module_name), module_name, attribute)
    if isinstance(found, ChildSpec):
        return found
    if not callable(found) or isinstance(found, type):
        raise TargetError(f"{target} must be a tree or a function that returns one, got {_what(found)}.")
    tree = _call(target, found)
    if not isinstance(tree, ChildSpec):
        raise TargetError(
            f"{target}() must return a tree made by supervisor() or child(), got {_what(tree)}."
        )
    return tree


# -- the command line ----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="avm run", description="Run a supervision tree until it ends.")
    parser.add_argument(
        "target", metavar="MODULE:TREE", help="a tree, or a function of no arguments that returns one"
    )
    parser.add_argument(
        "--memory",
        default="2GB",
        type=_size,
        metavar="SIZE",
        help="ceiling of what the process takes (default: %(default)s)",
    )
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="keep the agents' conversations there, and go on from what is there",
    )
    parser.add_argument("--duration", type=_seconds, metavar="S", help="stop in order after so many seconds")
    parser.add_argument(
        "--json-status", action="store_true", help="write the status to standard output every second, as JSON"
    )
    return parser


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return seconds


def _log_to_stderr() -> None:
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)


def _say(line: str, status: int) -> int:
    print(f"avm run: {line}", file=sys.stderr)
    return status


# -- running -------------------------------------------------------------------------------------------------


async def _until_it_ends(tree: ChildSpec, options: argparse.Namespace) -> str:
    """Run the tree; return why it ended, if that is no error."""
    reports = LogReports()
    try:
        async with VM(tree, memory=options.memory, home=options.home, observers=[reports]) as vm:
            actors = vm.status(depth=0).actors
            print(f"avm run: {tree.id} is up, {actors} actors; Ctrl+C stops it.", file=sys.stderr)
            writing = asyncio.create_task(_write_status(vm)) if options.json_status else None
            try:
                async with asyncio.timeout(options.duration) as clock:
                    await vm.wait_stopped()
            except TimeoutError:
                if not clock.expired():
                    raise
            finally:
                if writing is not None:
                    writing.cancel()
                    await asyncio.wait([writing])
                    _write_line(vm.status(depth=0), final=True)
    finally:
        reports.close()
    return f"stopped after {options.duration:g} s." if clock.expired() else f"{tree.id} ended in order."


async def _write_status(vm: VM) -> None:
    while True:
        await asyncio.sleep(STATUS_SECONDS)
        _write_line(vm.status(depth=0), final=False)


def _write_line(status: VMStatus, *, final: bool) -> None:
    io = status.io
    line = {
        "uptime": round(status.uptime, 3),
        "actors": status.actors,
        "active": status.active,
        "waiting": dict(status.waiting),
        "mailbox": status.mailbox,
        "restarts": status.restarts,
        "dead_letters": dict(status.dead_letters),
        "store_bytes": status.store.account_bytes if status.store is not None else 0,
        "requests": io.requests if io is not None else 0,
        "provider": io.provider if io is not None else None,
    }
    print(json.dumps({**line, "final": True} if final else line), flush=True)


# -- finding the tree ----------------------------------------------------------------------------------------


def _module(name: str) -> Any:
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} is no name of a module; write it as in `import`, without .py.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(f"there is no module {name!r} here or among the installed ones.") from error
        raise TargetError(f"module {name!r} needs {error.name!r}, which is not installed.") from error
    except Exception as error:
        raise TargetError(f"module {name!r} could not be imported: {_failure(error)}.") from error


def _attribute(module: Any, module_name: str, attribute: str) -> Any:
    found = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TargetError(f"module {module_name!r} has no {attribute!r}.{hint}") from None
    return found


def _call(target: str, function: Any) -> Any:
    needed = _needed(function)
    if needed:
        raise TargetError(
            f"{target} needs arguments ({', '.join(needed)}), and avm run has none to give. "
            "Give them defaults, or write a function without any that calls it."
        )
    try:
        result = function()
    except Exception as error:
        raise TargetError(f"{target}() failed: {_failure(error)}.") from error
    if inspect.iscoroutine(result):
        result.close()
        raise TargetError(f"{target} must be a plain function that returns a tree, got an async one.")
    return result


def _needed(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _failure(error: Exception) -> str:
    text = str(error).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _what(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"{found!r:.80}"
