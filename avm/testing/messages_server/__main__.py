"""`python -m avm.testing.messages_server`: the Messages server until it is interrupted, then its ledger as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from random import Random

import uvloop

from avm.errors import SpecError
from avm.io.limits import Limits
from avm.io.providers.provider import Price
from avm.io.providers.scripted import Latency
from avm.testing.messages_server.batches import SECONDS
from avm.testing.messages_server.cache import MIN_TOKENS
from avm.testing.messages_server.call import Call
from avm.testing.messages_server.faults import Faults, ServerFault
from avm.testing.messages_server.server import MessagesServer

FAULTS = {
    "spend_limit": ServerFault.spend_limit(),
    "hang": ServerFault.hang(),
    "html": ServerFault.html(),
    "reset": ServerFault.reset(),
    "cut": ServerFault.cut(4),
    "half": ServerFault.half(),
    "wrong_length": ServerFault.wrong_length(),
    "endless": ServerFault.endless(),
    "error_event": ServerFault.error_event(),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server as the command line says; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        server = _server(options)
    except SpecError as error:
        print(f"messages_server: {error}", file=sys.stderr)
        return 2
    uvloop.run(_serve(server, options.price))
    return 0


async def _serve(server: MessagesServer, price: Price | None) -> None:
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    async with server:
        print(server.base_url, flush=True)
        await interrupted.wait()
    print(json.dumps(server.ledger().record(price), indent=2), flush=True)


def _server(options: argparse.Namespace) -> MessagesServer:
    return MessagesServer(
        latency=options.latency,
        limits=Limits(
            requests=options.requests,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            concurrency=options.concurrency,
        ),
        cache=not options.no_cache,
        faults=_faults(options.fault, options.seed),
        seed=options.seed,
        api_key=options.api_key,
        models=options.model,
        context=options.context,
        max_output_tokens=options.max_output_tokens,
        min_cached_tokens=options.min_cached_tokens,
        capacity=options.capacity,
        delta_characters=options.delta_characters,
        batch_seconds=options.batch_seconds,
        host=options.host,
        port=options.port,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m avm.testing.messages_server",
        description="Serve the Messages API with a simulated model. Prints the base URL; GET /ledger and an interrupt "
        "(Ctrl-C) give the ledger as JSON.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    add("--port", type=int, default=8080, help="0 takes any that is free (%(default)s)")
    add(
        "--latency",
        type=_latency,
        default=Latency(),
        metavar="TIME",
        help="until a response begins: 120ms, 0.2s or 120ms~0.35, log-normal (none)",
    )
    add("--requests", type=int, metavar="N", help="allowed a minute (no limit)")
    add("--input-tokens", type=int, metavar="N", help="allowed a minute, cache reads not counted (no limit)")
    add("--output-tokens", type=int, metavar="N", help="allowed a minute (no limit)")
    add("--concurrency", type=int, metavar="N", help="requests at once above which they get 429 (no limit)")
    add("--capacity", type=int, metavar="N", help="requests at once above which they get 529 (no limit)")
    add("--no-cache", action="store_true", help="do not cache prompts")
    add("--min-cached-tokens", type=int, default=MIN_TOKENS, metavar="N", help="(%(default)s)")
    add("--model", action="append", metavar="NAME", help="a model that is known; may be repeated (all)")
    add("--context", type=int, metavar="N", help="tokens of prompt and reply together (no limit)")
    add("--max-output-tokens", type=int, metavar="N", help="the most max_tokens may be (no limit)")
    add("--api-key", metavar="KEY", help="the only key taken (any)")
    add(
        "--delta-characters", type=int, default=16, metavar="N", help="of one delta of a stream (%(default)s)"
    )
    add("--batch-seconds", type=float, default=SECONDS, metavar="S", help="a batch takes (%(default)g)")
    add(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="KIND:SHARE",
        help=f"a share (0 to 1) of requests meets a fault: a status from 400 to 599, or {', '.join(FAULTS)}",
    )
    add("--seed", type=int, default=0, help="of latencies and faults (%(default)s)")
    add(
        "--price",
        type=_price,
        metavar="IN,OUT,READ,WRITE,HOUR",
        help='USD for a million tokens; the last ledger then has "usd"',
    )
    return parser


def _faults(shares: Sequence[tuple[ServerFault, float]], seed: int) -> Faults | None:
    if not shares:
        return None
    random = Random(seed)

    def choose(number: int, call: Call) -> ServerFault | None:
        drawn = random.random()
        for fault, share in shares:
            drawn -= share
            if drawn < 0:
                return fault
        return None

    return choose


def _latency(text: str) -> Latency:
    try:
        return Latency.parse(text)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fault(text: str) -> tuple[ServerFault, float]:
    kind, _, share = text.partition(":")
    try:
        fault = ServerFault.status(int(kind)) if kind.isdecimal() else FAULTS[kind]
        if not 0 <= float(share) <= 1:
            raise ValueError(share)
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(
            f"must read as KIND:SHARE, for example 529:0.02 or hang:0.001, got {text!r}"
        ) from None
    return fault, float(share)


def _price(text: str) -> Price:
    try:
        input, output, read, write, hour = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be five numbers, for example 2,10,0.1,2.5,4, got {text!r}"
        ) from None
    return Price(input=input, output=output, cache_read=read, cache_write=write, cache_write_hour=hour)


if __name__ == "__main__":
    sys.exit(main())
