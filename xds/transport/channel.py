"""Messages between a server's own processes, in order, over a socket that both inherit.

A message is four bytes of length and that many bytes. Neither end blocks: what the other end has not read is buffered,
and ``unsent_bytes`` is its size.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

LENGTH_BYTES = 4


class Channel(asyncio.Protocol):
    """One end. ``on_message`` is called with every message, ``on_lost`` once the other end is gone."""

    def __init__(self, on_message: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    async def attach(self, end: socket.socket) -> None:
        """Start on a connected socket, which the channel owns from then on."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def send(self, message: bytes) -> None:
        """Send a message; it is dropped if the other end is gone."""
        if self._transport is not None:
            self._transport.write(len(message).to_bytes(LENGTH_BYTES, "big") + message)

    @property
    def unsent_bytes(self) -> int:
        """The bytes that the other end has not read yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        """Close the channel once everything has been sent."""
        if self._transport is not None:
            self._transport.close()

    # --- From the event loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            end = at + LENGTH_BYTES + int.from_bytes(buffer[at : at + LENGTH_BYTES], "big")
            if len(buffer) < end:
                break
            message = bytes(memoryview(buffer)[at + LENGTH_BYTES : end])
            at = end
            self._on_message(message)
        if at:
            del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()
