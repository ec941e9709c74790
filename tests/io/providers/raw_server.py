"""A server that answers with bytes as they are given, right or wrong, on the loopback interface."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs

Answer = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


@attrs.frozen
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawServer:
    """Keeps what it was sent; `answer` writes the response. The connection is closed after it unless `keeps`."""

    def __init__(self, answer: Answer, keeps: bool = False) -> None:
        self.answer = answer
        self.keeps = keeps
        self.received: list[Received] = []
        self.connections = 0
        self.closed = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                request = await _read(reader)
                self.received.append(request)
                await self.answer(request, writer)
                if not self.keeps:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body)


@asynccontextmanager
async def serving(answer: Answer, *, keeps: bool = False) -> AsyncIterator[RawServer]:
    """Run a server; all its connections are closed at the end."""
    raw = RawServer(answer, keeps)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(raw.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def response(
    body: bytes | str | dict[str, Any],
    status: int = 200,
    headers: dict[str, str] | None = None,
    content: str = "application/json",
) -> bytes:
    """Return a whole response; its length is the body's unless the headers say otherwise."""
    raw = (
        body
        if isinstance(body, bytes)
        else body.encode()
        if isinstance(body, str)
        else json.dumps(body).encode()
    )
    fields = {
        "content-type": content,
        "content-length": str(len(raw)),
        "connection": "close",
        "request-id": "req_42",
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + raw


def always(whole: bytes) -> Answer:
    """Answer everything with these bytes."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole)

    return answer


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection off, without a proper end."""
    import socket

    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def message(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """Return a reply of the Messages API."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 12, "output_tokens": 3},
        **fields,
    }


def failure(kind: str, text: str, **details: Any) -> dict[str, Any]:
    """Return an error of the Messages API."""
    error: dict[str, Any] = {"type": kind, "message": text}
    if details:
        error["details"] = details
    return {"type": "error", "error": error, "request_id": "req_body"}


def events(*texts: str, end: bool = True) -> bytes:
    """Return the event stream of a reply in pieces."""
    start = {"type": "message_start", "message": message(content=[], stop_reason=None)}
    all_of: list[dict[str, Any]] = [
        start,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    for text in texts:
        all_of.append(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        )
    all_of.append({"type": "content_block_stop", "index": 0})
    all_of.append(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
    )
    if end:
        all_of.append({"type": "message_stop"})
    return b"".join(event(each) for each in all_of)


def event(content: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return f"event: {content['type']}\ndata: {json.dumps(content)}\n\n".encode()


STREAM = {"content-type": "text/event-stream", "content-length": ""}
"""Headers of a response that ends with its connection."""

SHORT = b"".join(
    b"data: %b\n\n" % line
    for line in (
        b'{"type":"message_start","message":{"id":"m"}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}',
        b'{"type":"message_stop"}',
    )
)
"""The event stream of a reply, with nothing that need not be."""
