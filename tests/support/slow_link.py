"""A TCP link to a local port that delivers the server's bytes with a delay, like a distant network.

It runs in its own process, ``SlowLink``, so that a busy test does not slow it down.
"""

import asyncio
import sys
import time
from pathlib import Path

from support.ports import free_port
from support.processes import Child
from support.waiting import until_due

CHUNK_BYTES = 64 * 1024


class SlowLink(Child):
    """Listens on ``port`` while it is entered; bytes from ``target`` arrive ``delay_s`` late, in order."""

    def __init__(self, target: int, delay_s: float) -> None:
        self.port = free_port()
        argv = [sys.executable, "-m", "support.slow_link", str(self.port), str(target), str(delay_s)]
        super().__init__(argv, name="slow-link")
        self.env["PYTHONPATH"] = str(Path(__file__).parent.parent)

    async def wait_ready(self) -> None:
        """Wait until it listens."""
        await self.wait_log("listening", timeout_s=20.0)


async def _serve(port: int, target: int, delay_s: float) -> None:
    async def connected(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", target)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(client, to_server))
                group.create_task(_hold_back(server, late, delay_s))
                group.create_task(_deliver(late, to_client))
        except* OSError:
            to_client.close()

    async with await asyncio.start_server(connected, "127.0.0.1", port) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def _hold_back(source: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]], delay_s: float) -> None:
    while data := await source.read(CHUNK_BYTES):
        late.put_nowait((time.monotonic() + delay_s, data))
    late.put_nowait((time.monotonic() + delay_s, b""))


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    sink.close()


async def _deliver(late: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
    while True:
        due, data = await late.get()
        await until_due(due)
        if not data:
            sink.close()
            return
        sink.write(data)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
