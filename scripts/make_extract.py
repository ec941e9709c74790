#!/usr/bin/env python3
"""Make the workload that ships inside the package: the first conversations of a larger file.

    scripts/make_extract.py tau_airline.jsonl.zst avm/cli/data/tau_airline_extract.jsonl.zst

What is taken is taken whole and unchanged. The same input gives the same output, byte for byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avm.memory import read_conversations, write_conversations

COUNT = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="a file of conversations")
    parser.add_argument("extract", type=Path, help="the file to write")
    parser.add_argument("--count", type=int, default=COUNT, help="how many (default: %(default)s)")
    options = parser.parse_args()

    conversations = list(read_conversations(options.source))
    chosen = conversations[: options.count]
    write_conversations(options.extract, chosen)
    size = options.extract.stat().st_size
    print(f"{options.extract}: {len(chosen)} of {len(conversations)} conversations, {size:,} bytes")


if __name__ == "__main__":
    main()
