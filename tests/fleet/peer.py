"""A client stream with the h2 library as its server, in memory: an independent check of every byte it sends."""

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from xds.fleet.content import Message, Parser
from xds.fleet.http2 import opening
from xds.fleet.shared import SharedByStreams
from xds.fleet.stream import ClientStream, FaultError

RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


class Wire(asyncio.Transport):
    """A transport that buffers written bytes until ``take``."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed, "nothing is written after close"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


class Recorder(ClientStream):
    """A stream that records the calls of its hooks."""

    def __init__(self, shared: SharedByStreams) -> None:
        super().__init__(shared)
        self.messages: list[Message] = []
        self.faults: list[FaultError] = []
        self.pongs = 0

    def took(self, message: Message) -> None:
        self.messages.append(message)

    def ended(self, fault: FaultError) -> None:
        self.faults.append(fault)

    def ponged(self) -> None:
        self.pongs += 1


class Pair:
    """A client stream and an h2 server, wired to each other."""

    def __init__(self, *, window_bytes: int = 1 << 20, server_window: int = 65_535) -> None:
        head = opening(authority="test:1", sotw=False, tls=False, window_bytes=window_bytes)
        self.shared = SharedByStreams(opening=head, window_bytes=window_bytes, parser=Parser(sotw=False))
        self.client = Recorder(self.shared)
        self.wire = Wire()
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        codes = h2.settings.SettingCodes
        given = {codes.INITIAL_WINDOW_SIZE: server_window, codes.MAX_FRAME_SIZE: 16_384}
        self.server.local_settings = h2.settings.Settings(client=False, initial_values=given)
        self.server.initiate_connection()
        self.received = bytearray()
        self.events: list[h2.events.Event] = []
        self.client.connection_made(self.wire)
        self.exchange()

    def exchange(self, piece_bytes: int = 1 << 30) -> None:
        """Carry bytes both ways until neither side has more; the client receives them in pieces."""
        while True:
            said = self.wire.take()
            if said:
                for event in self.server.receive_data(said):
                    self.events.append(event)
                    if isinstance(event, h2.events.DataReceived):
                        self.received += event.data
            answer = self.server.data_to_send()
            for at in range(0, len(answer), piece_bytes):
                self.client.data_received(answer[at : at + piece_bytes])
            if not answer and not self.wire.written:
                return

    def respond(self, **headers: str) -> None:
        """Send the response's headers."""
        self.server.send_headers(1, [*RESPONSE_HEADERS, *headers.items()])
