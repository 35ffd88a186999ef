"""Append to a SQLite store, and print each acknowledged revision, until killed."""

import asyncio
import sys
from pathlib import Path

from xds.store.entries import Entry, Key
from xds.store.sqlite import SqliteStore

WIDTH = 5


async def main() -> None:
    """Append without end: every entry sets the same few resources to its number."""
    store = await SqliteStore.open(Path(sys.argv[1]))
    number = (await store.state()).revision
    while True:
        number += 1
        operations: dict[Key, bytes | None] = {Key("g", "t", str(n)): b"%d" % number for n in range(WIDTH)}
        print(await store.append(Entry(id=f"id-{number}", operations=operations), number - 1), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
