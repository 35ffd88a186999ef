"""What a peer does wrong on HTTP/2, with the answer that RFC 9113 gives it."""


class ConnectionFault(Exception):  # noqa: N818 - RFC 9113 calls these errors of the connection; it is the peer's fault
    """The connection can't go on: GOAWAY with ``code``, then close (RFC 9113, 5.4.1)."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(text)


class StreamFault(Exception):  # noqa: N818
    """One stream can't go on: RST_STREAM with ``code`` (RFC 9113, 5.4.2)."""

    def __init__(self, stream_id: int, code: int, text: str) -> None:
        self.stream_id = stream_id
        self.code = code
        super().__init__(text)
