"""A faithful gRPC client on the ``h2`` library, which raises whenever the server violates HTTP/2.

It sends window updates only on ``credit``, so that a test decides to the byte what the server may send.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from support.native_peer import DELTA_ADS, Answer, request_fields

INITIAL_WINDOW_SIZE = SettingCodes.INITIAL_WINDOW_SIZE
MAX_FRAME_SIZE = SettingCodes.MAX_FRAME_SIZE


class H2Client:
    """One connection. With ``generous`` it sends window updates for all received data."""

    def __init__(
        self,
        port: int,
        *,
        settings: dict[SettingCodes, int] | None = None,
        generous: bool = False,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self.timeout_s = timeout_s
        self.generous = generous
        raw = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = tls.wrap_socket(raw, server_hostname="localhost") if tls is not None else raw
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        if settings:
            self.h2.local_settings = Settings(client=True, initial_values=dict(self.h2.local_settings) | settings)
        self.h2.initiate_connection()
        self.answers: dict[int, Answer] = {}
        self.data_frames: list[tuple[int, int]] = []  # stream, size with padding
        self.ended = False
        self.flush()
        self.wait(lambda: self._settled and self._told)

    _settled = _told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    # --- Out -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send h2's pending output."""
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def open(
        self, data: bytes = b"", *, path: str = DELTA_ADS, fields: Iterable[tuple[str, str]] = (), end: bool = False
    ) -> int:
        """Open the next stream, send data on it, and return its number."""
        stream_id = self.h2.get_next_available_stream_id()
        self.answers[stream_id] = Answer()
        head = [*request_fields(path), *fields]
        self.h2.send_headers(stream_id, head, end_stream=end and not data)
        self.flush()
        if data:
            self.send(stream_id, data, end=end)
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send data, as the server's windows allow."""
        rest = memoryview(data)
        while rest:
            self.wait(lambda: self.h2.local_flow_control_window(stream_id) > 0)
            size = min(len(rest), self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            self.h2.send_data(stream_id, bytes(rest[:size]), end_stream=end and size == len(rest))
            self.flush()
            rest = rest[size:]

    def credit(self, increment: int, stream_id: int | None = None) -> None:
        """Send a window update for a stream, or for the connection."""
        self.h2.increment_flow_control_window(increment, stream_id)
        self.flush()

    def update(self, settings: dict[SettingCodes, int]) -> None:
        """Change our settings and wait until the server has acknowledged them."""
        self._settled = False
        self.h2.update_settings(settings)
        self.flush()
        self.wait(lambda: self._settled)

    def reset(self, stream_id: int) -> None:
        """Cancel a stream."""
        self.h2.reset_stream(stream_id, 8)
        self.flush()

    # --- In --------------------------------------------------------------------------------------------------------

    def wait(self, done: Callable[[], Any], timeout_s: float | None = None) -> None:
        """Read until ``done()``. Raises TimeoutError, and ConnectionError at the end of the connection."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while not done():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the server said nothing more")
            self.socket.settimeout(left_s)
            data = self.socket.recv(65_536)
            if not data:
                self.ended = True
                if done():
                    return
                raise ConnectionError("the server closed the connection")
            for event in self.h2.receive_data(data):
                self.note(event)
            self.flush()

    def settled(self) -> None:
        """Send a ping, and read everything up to its answer."""
        pongs = self._pongs
        self.h2.ping(b"settled?")
        self.flush()
        self.wait(lambda: self._pongs > pongs)

    _pongs = 0

    def note(self, event: events.Event) -> None:
        """Handle an event of h2; a subclass may handle more."""
        if isinstance(event, events.SettingsAcknowledged):
            self._settled = True
        elif isinstance(event, events.RemoteSettingsChanged):
            self._told = True
        elif isinstance(event, events.PingAckReceived):
            self._pongs += 1
        elif isinstance(event, events.ResponseReceived):
            self.answers[event.stream_id].headers = dict(event.headers)
        elif isinstance(event, events.TrailersReceived):
            self.answers[event.stream_id].trailers = dict(event.headers)
        elif isinstance(event, events.DataReceived):
            self.data_frames.append((event.stream_id, event.flow_controlled_length))
            self.answers[event.stream_id].data += event.data
            if self.generous and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, events.StreamEnded):
            self.answers[event.stream_id].ended = True
        elif isinstance(event, events.StreamReset):
            self.answers[event.stream_id].resets.append(int(event.error_code))
