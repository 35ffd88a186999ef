"""What one ``send`` and one ``recv`` on loopback cost on this machine: the floor under each delivery and its ACK.

    python bench/loopback.py

Every server spends at least one of each a delivery, whatever it is written in, so this part of a figure is the
machine's, but for some tenths of a µs of Python's calls and clock. It differs by a factor of two and more between
machines, and between hours of a virtual one.
"""

import socket
import time
from contextlib import ExitStack

from xds.process.descriptors import make_all_room

MESSAGE_BYTES = 400
ROUNDS = 5
MESSAGES = 8_000
PAIRS_MAX = 4_000
"""Of connections: each takes two descriptors."""


def measure(pairs: int = 1, *, messages: int = MESSAGES, rounds: int = ROUNDS) -> tuple[float, float]:
    """Return what a ``send`` and what a ``recv`` of ``MESSAGE_BYTES`` takes, in µs: each the best of the rounds.

    ``pairs`` connections take turns, ``PAIRS_MAX`` at most: what thousands need is in no cache of the processor.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        connected = []
        for _ in range(min(pairs, PAIRS_MAX)):
            near = stack.enter_context(socket.create_connection(listener.getsockname()))
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.append((near, stack.enter_context(listener.accept()[0])))
        taken = [_one_round(connected, messages) for _ in range(rounds)]
    return min(send for send, _ in taken), min(receive for _, receive in taken)


def _one_round(connected: list[tuple[socket.socket, socket.socket]], messages: int) -> tuple[float, float]:
    message = bytes(MESSAGE_BYTES)
    sending = receiving = 0.0
    for number in range(messages):
        near, far = connected[number % len(connected)]
        before = time.perf_counter()
        near.send(message)
        between = time.perf_counter()
        far.recv(MESSAGE_BYTES)
        sending += between - before
        receiving += time.perf_counter() - between
    return sending * 1e6 / messages, receiving * 1e6 / messages


def main() -> None:
    """Print the two figures, for one connection and for thousands."""
    make_all_room()
    for pairs in (1, PAIRS_MAX):
        send_us, receive_us = measure(pairs)
        print(f"{pairs:5,} connections: send {send_us:.1f} µs, recv {receive_us:.1f} µs, of {MESSAGE_BYTES} bytes")


if __name__ == "__main__":
    main()
