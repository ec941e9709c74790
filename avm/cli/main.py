"""The command `avm`: the main job, or one of the other commands if its name comes first."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

BROKEN_PIPE = 141
"""The exit status of a program whose reader went away: 128 + SIGPIPE, as the shell counts."""

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        # Before or after the loop, which takes signals itself.
        print("avm: stopped by SIGINT.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads what would be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else ""
    if command == "run":
        from avm.cli.run import run_command

        return run_command(arguments[1:])
    if command == "replay":
        from avm.cli.replay import replay_command

        return replay_command(arguments[1:])
    if command == "store":
        from avm.cli.store import store_command

        return store_command(arguments[1:])
    if command in ("--version", "-V"):
        import avm

        print(f"avm {avm.__version__}")
        return 0
    if command and not command.startswith("-"):
        print(
            f"avm: there is no command {command!r}. `avm run MODULE:TREE` runs a tree, `avm replay FILE` a "
            "failed simulation, `avm store stat HOME` looks into a home, `avm --agents N` is the main job.",
            file=sys.stderr,
        )
        return 2
    from avm.cli.job import job_command

    return job_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
