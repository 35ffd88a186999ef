"""Protocol errors of a peer, with the error code to answer them with (RFC 9113, 5.4)."""


class ConnectionFault(Exception):  # noqa: N818 - a fault of the peer, not an error of ours
    """The connection can't go on: GOAWAY with ``code``, then close (RFC 9113, 5.4.1).

    ``limit`` names the limit that was reached, if it is one (``xds/limits.py``).
    """

    def __init__(self, code: int, text: str, limit: str = "") -> None:
        self.code = code
        self.text = text
        self.limit = limit
        super().__init__(text)


class StreamFault(Exception):  # noqa: N818
    """One stream can't go on: RST_STREAM with ``code`` (RFC 9113, 5.4.2). ``limit`` is as above."""

    def __init__(self, stream_id: int, code: int, text: str, limit: str = "") -> None:
        self.stream_id = stream_id
        self.code = code
        self.limit = limit
        super().__init__(text)
