"""gRPC clients of other languages behind one interface: grpc-go and grpc-java as processes, grpcio in this one.

Each opens channels and calls and passes on bytes; ``DeltaClient`` and ``SotwClient`` of ``support.wire`` work over any
of them. The programs are in ``tests/clients``; they are built once, into ``build/clients``.
"""

import asyncio
import base64
import contextlib
import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from support.processes import Child

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "clients"
BUILD = ROOT / "build" / "clients"
BUILD_TIMEOUT_S = 540
START_TIMEOUT_S = 30.0
CODES = {code.value[0]: code for code in grpc.StatusCode}


class ToolchainMissingError(Exception):
    """The toolchain of a client is not installed."""


def build_go(package: str = ".", name: str = "client") -> Path:
    """Build a package of the Go module in ``tests/clients/go`` and return the binary. Raises ToolchainMissingError."""
    _need("go", "install Go (https://go.dev/dl) and put it on the PATH")
    binary = BUILD / name
    with _alone():
        _run(["go", "build", "-trimpath", "-buildvcs=false", "-o", str(binary), package], SOURCES / "go")
    return binary


def build_java() -> Path:
    """Build ``tests/clients/java``, if a source is newer than its jar, and return the jar.

    Raises ToolchainMissingError.
    """
    _need("javac", "install a JDK of version 17 or newer (Debian: openjdk-17-jdk-headless)")
    _need("mvn", "install Maven (Debian: maven)")
    sources = [SOURCES / "java" / "pom.xml", *(SOURCES / "java" / "src").rglob("*.java")]
    jar = BUILD / "java" / "client.jar"
    with _alone():
        if not jar.exists() or jar.stat().st_mtime < max(source.stat().st_mtime for source in sources):
            _run(
                ["mvn", "--quiet", "--batch-mode", f"-Dclient.build={jar.parent}", "clean", "package"], SOURCES / "java"
            )
    return jar


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process of this checkout build at a time: tests run in parallel."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _need(tool: str, what_to_do: str) -> None:
    if shutil.which(tool) is None:
        raise ToolchainMissingError(f"no {tool} on this machine: {what_to_do}")


def _run(argv: Sequence[str], directory: Path) -> None:
    done = subprocess.run(argv, cwd=directory, timeout=BUILD_TIMEOUT_S, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`{' '.join(argv)}` failed in {directory}:\n{(done.stdout + done.stderr)[-4_000:]}"


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """The PEM files of a client: the CA it trusts, and its own certificate, if any."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class Call(Protocol):
    """One call of any client; ``read`` returns ``grpc.aio.EOF`` at the end, and then ``code`` the status."""

    async def write(self, message: bytes) -> None: ...
    async def read(self) -> Any: ...
    async def done_writing(self) -> None: ...
    async def code(self) -> grpc.StatusCode: ...
    async def details(self) -> str: ...
    def cancel(self) -> Any: ...


class Channel(Protocol):
    """One channel of any client. ``connected`` counts the connections made so far, if the client reports them."""

    def stream_stream(self, path: str) -> Callable[..., Call]: ...
    def unary_unary(self, path: str) -> Callable[..., Awaitable[bytes]]: ...
    async def close(self) -> None: ...


class Clients(Protocol):
    """Clients of one language."""

    name: str

    def channel(
        self, target: str, *, tls: TlsPaths | None = None, window: int = 0, keepalive_s: float = 0
    ) -> Channel: ...


# --- grpcio --------------------------------------------------------------------------------------------------------


class GrpcioClients:
    """grpc.aio in this process."""

    name = "grpcio"

    def channel(self, target: str, *, tls: TlsPaths | None = None, window: int = 0, keepalive_s: float = 0) -> Any:
        """Return a channel of its own connection; ``window`` bounds what may be under way on a stream.

        With ``keepalive_s`` it pings so often; grpc-go and grpc-java not more often than every ten seconds.
        """
        options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if window:
            options += [("grpc.http2.lookahead_bytes", window), ("grpc.http2.bdp_probe", 0)]
        if keepalive_s:
            options += [("grpc.keepalive_time_ms", int(keepalive_s * 1_000)), ("grpc.http2.max_pings_without_data", 0)]
        if tls is None:
            return grpc.aio.insecure_channel(target, options=options)
        shown = {}
        if tls.cert is not None and tls.key is not None:
            shown = {"private_key": tls.key.read_bytes(), "certificate_chain": tls.cert.read_bytes()}
        credentials = grpc.ssl_channel_credentials(root_certificates=tls.ca.read_bytes(), **shown)
        return grpc.aio.secure_channel(target, credentials, options=options)


# --- Other processes -----------------------------------------------------------------------------------------------


class ClientProcess(Child):
    """A client program: JSON lines in, JSON lines out, any number of channels and calls.

    One process serves many tests, each with its own event loop: a thread reads the program's output and passes it to
    the loop that waits for it.
    """

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        super().__init__(argv, name=f"{name}-client")
        self.env = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        self._numbers = itertools.count(1)
        self._takers: dict[tuple[str, int], tuple[asyncio.AbstractEventLoop, Callable[[dict[str, Any]], None]]] = {}
        self._ready = threading.Event()
        self._commands: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.complaints: list[str] = []

    def start(self) -> "ClientProcess":
        self._spawn(stdout=subprocess.PIPE)
        # Not on the event loop: the server that the program waits for may run on it.
        for work in (self._read, self._write):
            threading.Thread(target=work, name=self.name, daemon=True).start()
        assert self._ready.wait(START_TIMEOUT_S), f"{self.name} did not start\n{self.log_tail()}"
        return self

    def say(self, what: str, **fields: Any) -> None:
        """Send one command; never blocks."""
        self._commands.put(json.dumps({"do": what, **fields}).encode() + b"\n")

    def listen(self, kind: str, take: Callable[[dict[str, Any]], None]) -> int:
        """Pass the events of a new call or connection to ``take`` in the running loop; return its number."""
        number = next(self._numbers)
        self._takers[kind, number] = (asyncio.get_running_loop(), take)
        return number

    def forget(self, kind: str, number: int) -> None:
        """Ignore further events of a call or connection."""
        self._takers.pop((kind, number), None)

    def stop(self, *, timeout_s: float = 10.0) -> int:
        self._commands.put(None)
        return super().stop(timeout_s=timeout_s)

    def _write(self) -> None:
        assert self.process is not None
        while (line := self._commands.get()) is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it was ended meanwhile
                self.process.stdin.write(line)
                self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "started":
                self._ready.set()
            elif event["event"] == "failed":
                self.complaints.append(event["details"])
            else:
                kind = "connection" if event["event"] == "connection" else "call"
                loop, take = self._takers.get((kind, event[kind]), (None, None))
                with contextlib.suppress(RuntimeError):  # the test has ended, and its loop with it
                    if loop is not None:
                        loop.call_soon_threadsafe(take, event)


class RemoteClients:
    """Channels of a client process."""

    def __init__(self, name: str, process: ClientProcess) -> None:
        self.name = name
        self.process = process

    def channel(
        self, target: str, *, tls: TlsPaths | None = None, window: int = 0, keepalive_s: float = 0
    ) -> "RemoteChannel":
        """Return a channel of its own connection; ``window`` bounds what may be under way on a stream.

        With ``keepalive_s`` it pings so often; grpc-go and grpc-java not more often than every ten seconds.
        """
        return RemoteChannel(self.process, target, tls, window, keepalive_s)


class RemoteChannel:
    """A channel in a client process; ``states`` are gRPC's connectivity states so far."""

    def __init__(
        self, process: ClientProcess, target: str, tls: TlsPaths | None, window: int, keepalive_s: float
    ) -> None:
        self._process = process
        self.states: list[str] = []
        self.number = process.listen("connection", lambda event: self.states.append(event["state"]))
        files = None
        if tls is not None:
            files = {"ca": str(tls.ca)} | ({"cert": str(tls.cert), "key": str(tls.key)} if tls.cert else {})
        asked = {"target": target, "tls": files, "window": window, "keepalive_s": keepalive_s}
        process.say("connect", connection=self.number, **asked)

    def stream_stream(self, path: str) -> Callable[..., "RemoteCall"]:
        """Return a function that opens a call of a method."""

        def opened(**options: Any) -> RemoteCall:
            return RemoteCall(self._process, self.number, path, **options)

        return opened

    def unary_unary(self, path: str) -> Callable[[bytes], Awaitable[bytes]]:
        """Return a function that makes a unary call of a method. It raises RemoteCallError unless the status is OK."""

        async def called(message: bytes, **options: Any) -> bytes:
            call = RemoteCall(self._process, self.number, path, unary=True, **options)
            await call.write(message)
            await call.done_writing()
            answer = await call.read()
            if (code := await call.code()) is not grpc.StatusCode.OK:
                raise RemoteCallError(code, await call.details())
            assert isinstance(answer, bytes)
            return answer

        return called

    async def close(self) -> None:
        """Close the connection and its calls."""
        self._process.forget("connection", self.number)
        self._process.say("disconnect", connection=self.number)


class RemoteCallError(Exception):
    """A unary call failed. ``code`` and ``details`` are methods, as in grpc's own error."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = lambda: code
        self.details = lambda: details


@dataclass(slots=True)
class _End:
    code: grpc.StatusCode
    details: str
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    trailers: Mapping[str, list[str]] = field(default_factory=dict)


class RemoteCall:
    """A call in a client process. With ``paused`` it reads nothing before ``resume``.

    ``subtype`` makes the content-type ``application/grpc+SUBTYPE``, in grpc-go only.
    """

    def __init__(
        self,
        process: ClientProcess,
        connection: int,
        path: str,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
        compression: grpc.Compression = grpc.Compression.NoCompression,
        paused: bool = False,
        unary: bool = False,
        subtype: str = "",
    ) -> None:
        self._process = process
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended: asyncio.Future[_End] = asyncio.get_running_loop().create_future()
        self.number = process.listen("call", self._take)
        self._say(
            "open",
            connection=connection,
            path=path,
            kind=_kind(path),
            metadata=dict(metadata or ()),
            timeout_s=timeout or 0,
            compress="gzip" if compression is grpc.Compression.Gzip else "",
            paused=paused,
            unary=unary,
            subtype=subtype,
        )

    def _say(self, what: str, **fields: Any) -> None:
        self._process.say(what, call=self.number, **fields)

    def _take(self, event: dict[str, Any]) -> None:
        if event["event"] == "message":
            self._messages.put_nowait(base64.b64decode(event.get("message", "")))
            return
        if not self._ended.done():
            headers, trailers = event.get("headers") or {}, event.get("trailers") or {}
            self._ended.set_result(_End(CODES[event["code"]], event.get("details", ""), headers, trailers))
        self._messages.put_nowait(None)

    async def write(self, message: bytes) -> None:
        """Send a message, which is dropped after the end of the call."""
        self._say("write", message=base64.b64encode(message).decode())

    async def read(self) -> Any:
        """Return the next message, or ``grpc.aio.EOF``."""
        message = await self._messages.get()
        if message is not None:
            return message
        self._messages.put_nowait(None)
        return grpc.aio.EOF

    async def done_writing(self) -> None:
        """Half-close."""
        self._say("half_close")

    def resume(self) -> None:
        """Start to read."""
        self._say("resume")

    def cancel(self) -> None:
        """Reset the stream."""
        self._say("cancel")

    async def code(self) -> grpc.StatusCode:
        """Return the status, once the call has ended."""
        return (await self._ended).code

    async def details(self) -> str:
        """Return the status's message, once the call has ended."""
        return (await self._ended).details

    async def initial_metadata(self) -> list[tuple[str, str]]:
        """Return the response's headers, once the call has ended."""
        return [(name, value) for name, values in (await self._ended).headers.items() for value in values]

    async def trailing_metadata(self) -> list[tuple[str, str]]:
        """Return the trailers, once the call has ended."""
        return [(name, value) for name, values in (await self._ended).trailers.items() for value in values]


def _kind(path: str) -> str:
    if path.startswith("/grpc.health."):
        return "health"
    return "delta" if path.rpartition("/")[2].lower().startswith("delta") else "sotw"
