"""What one ``send`` and one ``recv`` on loopback cost on this machine: the floor under each delivery and its ACK.

    python bench/loopback.py

Every server spends at least one of each a delivery, whatever it is written in, so this part of a figure is the
machine's, but for some tenths of a µs of Python's calls and clock. It differs by a factor of two and more between
machines, and between hours of a virtual one.
"""

import socket
import time

MESSAGE_BYTES = 400
ROUNDS = 5
MESSAGES = 5_000


def measure(messages: int = MESSAGES, rounds: int = ROUNDS) -> tuple[float, float]:
    """Return what a ``send`` and what a ``recv`` of ``MESSAGE_BYTES`` takes, in µs: each the best of the rounds."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        with far:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            taken = [_one_round(near, far, messages) for _ in range(rounds)]
    return min(send for send, _ in taken), min(receive for _, receive in taken)


def _one_round(near: socket.socket, far: socket.socket, messages: int) -> tuple[float, float]:
    message = bytes(MESSAGE_BYTES)
    sending = receiving = 0.0
    for _ in range(messages):
        before = time.perf_counter()
        near.send(message)
        between = time.perf_counter()
        far.recv(MESSAGE_BYTES)
        sending += between - before
        receiving += time.perf_counter() - between
    return sending * 1e6 / messages, receiving * 1e6 / messages


def main() -> None:
    """Print the two figures."""
    send_us, receive_us = measure()
    print(f"send {send_us:.1f} µs, recv {receive_us:.1f} µs, of {MESSAGE_BYTES} bytes on loopback")


if __name__ == "__main__":
    main()
