"""A worker of ``xds.transport.pool`` whose first message is its command: JSON ``{"do": …}``.

``serve``: send its pid, then echo every message. ``beat``: the same, and a message every 20 ms. ``exit``: end with a
code. ``hang``: send nothing, read nothing. ``last-words``: at SIGUSR1, send many messages and die.
"""

import json
import os
import select
import signal
import socket
import sys
from typing import Any


def say(end: socket.socket, **fields: Any) -> None:
    data = json.dumps({"pid": os.getpid()} | fields).encode()
    end.sendall(len(data).to_bytes(4, "big") + data)


def hear(end: socket.socket) -> dict[str, Any]:
    head = end.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        sys.exit(0)  # the parent has ended
    heard: dict[str, Any] = json.loads(end.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    return heard


def main() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    end = socket.socket(fileno=int(sys.argv[1]))
    told = hear(end)
    if told["do"] == "exit":
        sys.exit(told["code"])
    if told["do"] == "hang":
        hung_up = select.poll()
        hung_up.register(end, 0)  # reports the end of the connection only
        hung_up.poll()
        sys.exit(0)
    if told["do"] == "last-words":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    say(end, said="ready", sid=os.getsid(0))
    if told["do"] == "last-words":
        signal.sigwait([signal.SIGUSR1])
        for number in range(100):
            say(end, said="word", number=number)
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        if told["do"] == "beat" and not select.select([end], [], [], 0.02)[0]:
            say(end, said="beat")
            continue
        heard = hear(end)
        say(end, said="heard", what=heard)


if __name__ == "__main__":
    main()
