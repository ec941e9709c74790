"""A home that is open to be looked at and to be harmed, and what it is filled with."""

import random

import attrs

from avm.memory.cold import records
from avm.memory.cold.home import Home
from avm.memory.cold.opening import open_cold
from avm.memory.cold.records import conversation_id
from avm.memory.cold.verify import verify

TOOLS = [{"name": "look", "parameters": {}}]


def text(seed, size):
    """Return a text that hardly shrinks."""
    return random.Random(seed).randbytes(size // 2).hex()


def said(seed, size=100):
    return {"role": "user", "content": text(seed, size)}


class Opened:
    """A home that is open, and what to do harm to it with."""

    def __init__(self, path):
        self.home = Home.open(path)
        self.cold = open_cold(self.home, durable=False)
        self.file = str(self.home.cold_path)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.cold.close()
        self.home.close()

    def verify(self):
        return verify(self.cold, self.home.files)

    def problem(self):
        """Return the only problem there is."""
        (problem,) = self.verify().problems
        return problem

    def manifest(self, name):
        value = self.cold.read("conversation", [conversation_id(name)])[0]
        return records.decode_manifest(value, self.file)

    def write(self, table, key, value):
        self.cold.commit([(table, key, value)])

    def change(self, name, **fields):
        """Write a manifest with other fields than are true."""
        manifest = attrs.evolve(self.manifest(name), **fields)
        self.write("conversation", conversation_id(name), records.encode_manifest(manifest))

    def flip(self, table, key, at=-10):
        value = bytearray(self.cold.read(table, [key])[0])
        value[at] ^= 0x20
        self.write(table, key, bytes(value))
