"""A client of etcd's v3 API on grpcio: transactions, ranges, watches and leases, on any member that answers.

Source: etcd's API reference, v3.4 and newer (``protos/xds_control_plane/etcd.proto`` is a subset).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from xds._generated import etcd_pb2 as pb
from xds.store.errors import UnavailableError

KV, WATCH, AUTH = "/etcdserverpb.KV/", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Auth/Authenticate"
LEASE = "/etcdserverpb.Lease/"
TRY_S = 0.5
"""Timeout of a request to one member: a member that is partitioned from the others answers only after seven seconds.
Once all members have timed out, the timeout is doubled, then quadrupled, until one answers."""
CONNECT_S = 3.0
"""Timeout of one attempt to connect, TLS and the first HTTP/2 frame included. With 100 ms, a slow member is never
reached; with gRPC's default of 20 s, a member that accepts and does not answer delays the others for that long."""
KEEPALIVE_S, KEEPALIVE_TIMEOUT_S = 10.0, 10.0
"""Interval of keepalive pings, and timeout of their answers, after which the connection is made anew: TCP takes 15
minutes to notice that a member is unreachable. etcd allows a ping every five seconds (``--grpc-keepalive-min-time``).
"""
AUTHENTICATE_S = 2.0  # checking a password is slow by design
PROGRESS_S = 1.0
MESSAGE_BYTES_MAX = 512 * 1024 * 1024
HAS_LEADER = ("hasleader", "true")
"""Metadata that makes a member without a leader refuse requests at once, and end its watches."""
UNDECIDED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
TRY_NEXT = (*UNDECIDED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED)
"""Also: the member has no leader, or was restarted and no longer accepts the token."""
M = TypeVar("M", bound=Message)


class AwayError(UnavailableError):
    """No member could answer; the same request may succeed later."""


class LostReplyError(Exception):
    """The reply to a request was lost: it may have been carried out, or may still be."""


class _FailedError(Exception):
    """A request failed. ``words``: what etcd, or a proxy before it, says of it, without the password and the token."""

    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class _ClosedMeanwhileError(Exception):
    """The client was closed during a request, which may have been carried out."""


class WatchCompactedError(Exception):
    """etcd has compacted the revision from which to watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions:
    """How to connect to etcd."""

    endpoints: tuple[str, ...]
    """HOST:PORT of each member."""
    ca: Path | None = None
    """The CA of the servers' certificates; with it, connections use TLS."""
    cert: Path | None = None
    """The client certificate, if etcd requires one, with its ``key``."""
    key: Path | None = None
    user: str = ""
    password: str = ""


class EtcdClient:
    """Sends requests to one member, and to the next one if it does not answer."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        self._at = 0
        self._token = ""
        self._silences = 0
        self._watched: tuple[int, asyncio.Timeout] | None = None
        self._closed = False
        self._channels = [_channel(endpoint, options) for endpoint in options.endpoints]

    async def close(self) -> None:
        """Close all connections. Pending calls fail."""
        self._closed = True
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> pb.RangeResponse:
        """Read a key, or all keys up to ``end``, at an etcd revision (0: now). Raises UnavailableError."""
        request = pb.RangeRequest(key=key, range_end=end, revision=revision, limit=limit, keys_only=keys_only)
        return await self._read(KV + "Range", request, pb.RangeResponse)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        """Set a key, on every member in turn until one answers. It may be set more than once.

        With ``lease``, etcd deletes the key once the lease has expired. Raises UnavailableError, also if it has.
        """
        await self._read(KV + "Put", pb.PutRequest(key=key, value=value, lease=lease), pb.PutResponse)

    async def delete(self, key: bytes, end: bytes = b"") -> None:
        """Delete a key, or all keys up to ``end``."""
        await self._read(KV + "DeleteRange", pb.DeleteRangeRequest(key=key, range_end=end), pb.DeleteRangeResponse)

    async def grant_lease(self, ttl_s: int) -> int:
        """Return a new lease, which expires unless it is renewed every ``ttl_s`` seconds.

        Where a reply is lost, another lease may be left, which expires.
        """
        granted = await self._read(LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s), pb.LeaseGrantResponse)
        return granted.ID

    async def renew_lease(self, lease: int) -> bool:
        """Renew a lease; return False if it has expired."""
        request = pb.LeaseKeepAliveRequest(ID=lease)  # a stream in etcd's API, of one message each way here
        return (await self._read(LEASE + "LeaseKeepAlive", request, pb.LeaseKeepAliveResponse)).TTL > 0

    async def transact(
        self, compare: Sequence[pb.Compare], success: Sequence[pb.RequestOp], failure: Sequence[pb.RequestOp]
    ) -> pb.TxnResponse:
        """Do ``success`` if all compares hold, else ``failure``, at most once.

        Raises LostReplyError if the outcome is unknown, UnavailableError if nothing was done; the latter is an
        AwayError if a retry may succeed.
        """
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        try:
            return await self._ask(KV + "Txn", request, pb.TxnResponse)
        except _ClosedMeanwhileError as error:
            raise LostReplyError(str(error)) from None
        except _FailedError as error:
            self._next()
            if error.code in UNDECIDED:
                raise LostReplyError(error.words) from None
            kind = AwayError if error.code in TRY_NEXT else UnavailableError
            raise kind(f"etcd: {error.words}") from None

    async def watch(self, key: bytes, end: bytes, revision: int) -> AsyncIterator[pb.WatchResponse]:
        """Yield the changes of keys from ``key`` to ``end`` since an etcd revision, and empty progress responses.

        Ends if the member sends nothing for 3 s, has no leader, or fails any other request. Raises
        WatchCompactedError.
        """
        await self._authenticate()
        self._must_be_open()
        member = self._at
        call = self._channels[member].stream_stream(
            WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )(metadata=self._metadata())
        asking: asyncio.Task[None] | None = None
        try:
            create = pb.WatchCreateRequest(key=key, range_end=end, start_revision=revision)
            async with asyncio.timeout(TRY_S):
                await call.write(pb.WatchRequest(create_request=create))
            asking = asyncio.create_task(_ask_progress(call))
            while True:
                async with asyncio.timeout(3 * PROGRESS_S) as patience:
                    self._watched = (member, patience)
                    response: Any = await call.read()
                self._watched = None
                if response is aio.EOF:
                    return
                if response.canceled:
                    if response.compact_revision:
                        raise WatchCompactedError
                    return
                yield response
        except (aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
            return
        finally:
            self._watched = None
            if asking is not None:
                asking.cancel()
            call.cancel()
            if self._at == member:
                self._next()

    async def _read(self, path: str, request: Message, response_class: type[M]) -> M:
        """Try every member in turn, twice. Raises AwayError if none answers, UnavailableError if one refuses."""
        why = ""
        for number in range(2 * len(self._channels)):
            try:
                return await self._ask(path, request, response_class)
            except _ClosedMeanwhileError as error:
                raise UnavailableError(str(error)) from None
            except AwayError as error:  # no answer to the authentication
                why = str(error)
            except _FailedError as error:
                why = f"{self._options.endpoints[self._at]}: {error.words}"
                self._next()
                if error.code not in TRY_NEXT:
                    raise UnavailableError(f"etcd refuses ({why})") from None
            if number >= len(self._channels):
                await asyncio.sleep(0.1)
        raise AwayError(f"etcd does not answer ({why})")

    async def _ask(self, path: str, request: Message, response_class: type[M]) -> M:
        await self._authenticate()
        self._must_be_open()
        call = self._channels[self._at].unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_class.FromString,
        )
        token = self._token
        patience_s = TRY_S * 2 ** min(self._silences // len(self._channels), 2)
        try:
            answer: M = await call(
                request, metadata=self._metadata(), timeout=patience_s * (1 + request.ByteSize() // 1_000_000)
            )
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._silences += 1
            elif error.code() is grpc.StatusCode.UNAUTHENTICATED and self._token == token:
                self._token = ""
            raise _FailedError(error.code(), self._words_of(error, token)) from None
        except asyncio.CancelledError:
            # Closing a channel cancels its calls, which looks as if the task that awaits one had been cancelled.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise _ClosedMeanwhileError("the connection to etcd was closed") from None
            raise
        self._silences = 0
        return answer

    def _must_be_open(self) -> None:
        if self._closed:
            raise UnavailableError("the connection to etcd is closed")

    async def _authenticate(self) -> None:
        options = self._options
        if not options.user or self._token:
            return
        self._must_be_open()
        call = self._channels[self._at].unary_unary(
            AUTH,
            request_serializer=pb.AuthenticateRequest.SerializeToString,
            response_deserializer=pb.AuthenticateResponse.FromString,
        )
        request = pb.AuthenticateRequest(name=options.user, password=options.password)
        try:
            self._token = (await call(request, timeout=AUTHENTICATE_S)).token
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                self._must_be_open()
            raise
        except aio.AioRpcError as error:
            endpoint = options.endpoints[self._at]
            self._next()
            if error.code() in UNDECIDED:
                raise AwayError(f"{endpoint}: {self._words_of(error)}") from None
            words = self._words_of(error)
            raise UnavailableError(f"etcd refuses the user {options.user!r}: {words}") from None

    def _words_of(self, error: aio.AioRpcError, token: str = "") -> str:
        """Return what etcd, or a proxy before it, says of a failure, without the password and the request's token."""
        words = str(error.details())
        for secret in sorted(filter(None, (self._options.password, token)), key=len, reverse=True):
            words = words.replace(secret, "[redacted]")
        return words

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (HAS_LEADER, ("token", self._token)) if self._token else (HAS_LEADER,)

    def _next(self) -> None:
        """Switch to the next member, for the watch too: a partitioned member still serves watches for seconds."""
        failed, self._at = self._at, (self._at + 1) % len(self._channels)
        if self._watched is not None and self._watched[0] == failed:
            patience, self._watched = self._watched[1], None
            if not patience.expired():
                patience.reschedule(asyncio.get_running_loop().time())


async def _ask_progress(call: Any) -> None:
    """Request progress responses, which show that the member is alive, until cancelled or the call ends."""
    try:
        while True:
            await asyncio.sleep(PROGRESS_S)
            await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
    except (aio.AioRpcError, asyncio.InvalidStateError):
        return


def _channel(endpoint: str, options: EtcdOptions) -> aio.Channel:
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.min_reconnect_backoff_ms", round(CONNECT_S * 1_000)),  # bounds an attempt, not the pause after it
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_S * 1_000)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1_000)),
        ("grpc.http2.ping_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1_000)),  # also applies to bandwidth probes
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if options.ca is None:
        arguments.append(("grpc.enable_http_proxy", 0))  # else an http_proxy would see everything, with the password
        return aio.insecure_channel(endpoint, options=arguments)
    credentials = grpc.ssl_channel_credentials(
        options.ca.read_bytes(),
        None if options.key is None else options.key.read_bytes(),
        None if options.cert is None else options.cert.read_bytes(),
    )
    return aio.secure_channel(endpoint, credentials, options=arguments)


def put_op(key: bytes, value: bytes) -> pb.RequestOp:
    """Return the operation that sets a key."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def get_op(key: bytes) -> pb.RequestOp:
    """Return the operation that reads a key."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def unchanged_since(key: bytes, mod_revision: int) -> pb.Compare:
    """Return the comparison that holds if a key was last set at an etcd revision; 0: if it does not exist."""
    return pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=key, mod_revision=mod_revision)


def end_of(prefix: bytes) -> bytes:
    """Return the first key after all keys that begin with a prefix."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
