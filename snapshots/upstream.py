"""Stand-in services: ``upstream.py 8081=service-a 8082=service-b`` answers its name on each port, until Ctrl-C.

With ``--cert`` and ``--key`` (PEM files) it speaks TLS. It needs nothing but Python.
"""

import argparse
import asyncio
import contextlib
import functools
import signal
import ssl
from collections.abc import Mapping


async def answer(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of one HTTP/1.1 connection with the name; requests have no body."""
    body = f"{name}\n"
    response = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\ncontent-type: text/plain\r\n\r\n{body}".encode()
    # Python 3.11 prints a traceback for each connection that is cancelled, as all are at the end.
    ended = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
    with contextlib.suppress(*ended):
        close = False
        while not close:
            close = b"connection: close" in (await reader.readuntil(b"\r\n\r\n")).lower()
            writer.write(response)
            await writer.drain()
    writer.close()


async def serve(
    names: Mapping[int, str], tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1"
) -> list[asyncio.Server]:
    """Start one server a port and return them."""

    return [
        await asyncio.start_server(functools.partial(answer, name), host, port, ssl=tls) for port, name in names.items()
    ]


async def run(names: Mapping[int, str], tls: ssl.SSLContext | None, host: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    servers = await serve(names, tls, host=host)
    for port, name in names.items():
        print(f"{name} on {'https' if tls else 'http'}://{host}:{port}", flush=True)
    await stop.wait()
    for server in servers:
        server.close()


def _assignment(text: str) -> tuple[int, str]:
    port, _, name = text.partition("=")
    if not port.isdecimal() or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT=NAME")
    return int(port), name


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Stand-in HTTP services that answer their name.")
    parser.add_argument("services", nargs="+", type=_assignment, metavar="PORT=NAME")
    parser.add_argument("--cert", help="certificate chain, a PEM file: speak TLS")
    parser.add_argument("--key", help="its private key, a PEM file")
    parser.add_argument("--host", default="127.0.0.1", help="the address to answer on (127.0.0.1)")
    arguments = parser.parse_args()
    tls = None
    if arguments.cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments.cert, arguments.key)
    asyncio.run(run(dict(arguments.services), tls, arguments.host))


if __name__ == "__main__":
    main()
