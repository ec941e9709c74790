"""A Messages API on the loopback interface: real HTTP and real streams, a simulated model, and a ledger.

    async with MessagesServer(limits=Limits(requests=50), latency="120ms~0.35") as server:
        client = AsyncAnthropic(api_key="any", base_url=server.base_url)
        ...
        server.ledger().usd(price)

It has the API's errors in the API's words, token buckets with their headers, a prompt cache that is readable once a
response has begun, batches, and every way a response can break (`ServerFault`). On the command line:

    python -m avm.testing.messages_server --port 8080 --latency 120ms~0.35 --requests 4000
"""

from avm.testing.messages_server.call import Call
from avm.testing.messages_server.faults import ServerFault
from avm.testing.messages_server.ledger import Ledger, TokenCounts
from avm.testing.messages_server.reply import ServerReply
from avm.testing.messages_server.server import MessagesServer

__all__ = ["Call", "Ledger", "MessagesServer", "ServerFault", "ServerReply", "TokenCounts"]
