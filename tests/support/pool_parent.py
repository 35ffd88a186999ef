"""The parent of two ``support.pool_worker``: prints their pids as JSON, then runs until it is killed.

With an argument, a worker that is silent for that many seconds is killed; every end is printed.
"""

import json
import socket
import sys

import uvloop

from xds.transport.pool import Pool, PooledProcess, PoolEvents


def on_start(worker: PooledProcess) -> None:
    worker.channel.send(b'{"do": "beat"}')


async def main(silent_s_max: float) -> None:
    import asyncio

    def on_message(worker: PooledProcess, message: bytes) -> None:
        if json.loads(message)["said"] == "ready":
            pool.mark_ready(worker)

    def on_end(worker: PooledProcess, code: int, replaced: bool) -> None:
        print(json.dumps({"ended": worker.pid, "code": code}), flush=True)

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    events = PoolEvents(on_start=on_start, on_message=on_message, on_end=on_end, on_problem=print)
    pool = Pool("support.pool_worker", sockets, events, silent_s_max=silent_s_max)
    await pool.start()
    print(json.dumps({"pids": [worker.pid for worker in pool.workers]}), flush=True)
    while sys.stdin.readable() and await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"pids": [worker.pid for worker in pool.workers]}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0))
