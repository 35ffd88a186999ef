"""Fetches a small document over HTTPS: one GET request, within a time limit and a limit of bytes.

Redirects are not followed and no proxy is used: the keys of an issuer are at the address that the settings say, or
nowhere. h11 reads the response, as it does for the admin port.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import h11

READ_BYTES = 64 * 1024
HEADERS_BYTES_MAX = 64 * 1024
TOKEN_BYTES_MAX = 64 * 1024
DEFAULT_PORTS = {"https": 443, "http": 80}


class FetchError(Exception):
    """A document can't be fetched; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What to fetch. ``token_file`` has a bearer token for the server, read for every request."""

    url: str
    ca: Path | None = None
    token_file: Path | None = None
    bytes_max: int
    timeout_s: float


def url_problem(url: str) -> str:
    """Return what is wrong with an address to fetch from, "" if nothing is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"is not a URL: {error}"
    if parts.scheme not in DEFAULT_PORTS or not host or port == 0:
        return "is not a URL; write https://HOST/PATH"
    try:
        host.encode("idna")
    except UnicodeError as error:
        return f"has a host name that is none: {error}"
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        return "is not https: whoever is between could put in keys of their own"
    if "@" in parts.netloc:
        return "has a user or a password in it; give a token by file"
    if parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        return "has a fragment, a space or a character that URLs write as %XX"
    return ""


async def fetch(source: Source) -> bytes:
    """Return the document. Raises FetchError, after ``timeout_s`` at the latest."""
    try:
        async with asyncio.timeout(source.timeout_s):
            return await _fetch(source)
    except TimeoutError:
        raise FetchError(f"no complete answer within {source.timeout_s:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"the server's certificate is not trusted: {error.verify_message}") from None
    except UnicodeError as error:  # from the host name; the token is checked
        raise FetchError(f"the host name is none: {error}") from None
    except OSError as error:
        raise FetchError(f"no connection: {error.strerror or error}") from None
    except h11.RemoteProtocolError as error:
        raise FetchError(f"the answer is not HTTP/1.1: {error}") from None
    except asyncio.IncompleteReadError:
        raise FetchError("the answer is cut off") from None


async def _fetch(source: Source) -> bytes:
    parts = urlsplit(source.url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    context, token = await asyncio.to_thread(_context_and_token, source, tls=parts.scheme == "https")
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=READ_BYTES)
    try:
        writer.write(_request(parts.netloc, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", token))
        return await _answer(reader, source.bytes_max)
    finally:
        writer.transport.abort()


def _context_and_token(source: Source, *, tls: bool) -> tuple[ssl.SSLContext | None, str]:
    token = ""
    if source.token_file is not None:
        with source.token_file.open("rb") as file:
            raw = file.read(TOKEN_BYTES_MAX + 1)
        with contextlib.suppress(UnicodeDecodeError):
            token = raw.decode("ascii").strip()
        if not token or len(raw) > TOKEN_BYTES_MAX or not token.isprintable():
            raise FetchError(f"{str(source.token_file)!r} has no token")
    return ssl.create_default_context(cafile=source.ca) if tls else None, token


def _request(host: str, target: str, token: str) -> bytes:
    headers = [("host", host), ("accept", "application/json"), ("connection", "close")]
    if token:
        headers.append(("authorization", f"Bearer {token}"))
    client = h11.Connection(h11.CLIENT)
    request = client.send(h11.Request(method="GET", target=target, headers=headers))
    return (request or b"") + (client.send(h11.EndOfMessage()) or b"")


async def _answer(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_BYTES_MAX)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "-")]))
    client.send(h11.EndOfMessage())
    body = bytearray()
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            if event.status_code != 200:
                raise FetchError(f"the server answers with {event.status_code}, not 200")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > bytes_max:
                raise FetchError(f"the answer has more than {bytes_max} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        elif not isinstance(event, h11.InformationalResponse):
            raise FetchError("the answer is cut off")
