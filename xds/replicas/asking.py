"""Asks the other replicas: all at once, for a bounded time and size; who does not answer is named, with the reason."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from pydantic import ValidationError

from xds._generated import replicas_pb2 as pb
from xds.address import Address
from xds.replicas.membership import Known, Member, Membership
from xds.replicas.questions import ANSWER_BYTES_MAX, Question
from xds.version import __version__

METHOD = "/xds_control_plane.replicas.v1.Replicas/Ask"
AT_ONCE_MAX = 16
"""Questions to all replicas at a time; further ones wait."""
REASON_CHARACTERS_MAX = 300
THREAD_BYTES_MIN = 64 * 1024
"""Answers from this size on are read on a thread."""
CONNECT_S = 3.0
"""Timeout of one attempt to connect, TLS and the first HTTP/2 frame included."""
REST_S = 1.0
"""How long a replica that did not answer is not asked again: questions that follow each other don't all wait for it."""
LATE_S = 0.1
"""How long a question waits for a replica that gave no answer to the last one; a later answer tells that it is back."""
NO_ADDRESS = "it gives no address at which it could be asked (replicas.advertise)"
A = TypeVar("A")


class UnansweredError(Exception):
    """A replica gave no answer that could be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What is shown to other replicas, and what their certificates are verified with."""

    token_file: Path | None = None
    ca: Path | None = None
    """None: the system's CAs."""
    cert: Path | None = None
    key: Path | None = None

    def stamp(self) -> tuple[Any, ...]:
        """Return what changes when one of the files does."""
        return tuple(_stamp(path) for path in (self.token_file, self.ca, self.cert, self.key))

    def token(self) -> str:
        """Return the token, "" without one. Raises UnansweredError."""
        return _read(self.token_file).decode("utf-8", "replace").strip() if self.token_file is not None else ""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel with TLS. Raises UnansweredError."""
        ca, cert, key = (None if path is None else _read(path) for path in (self.ca, self.cert, self.key))
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A replica without an answer. ``is_leased``: it is there, as far as etcd knows."""

    member: Member
    reason: str
    is_leased: bool

    def __str__(self) -> str:
        return f"{self.member}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers(Generic[A]):
    """The answers of the other replicas, and those that are missing."""

    found: Sequence[tuple[Member, A]] = ()
    missing: Sequence[Missing] = ()

    @property
    def missing_replicas(self) -> tuple[str, ...]:
        """The replicas that are missing, each with the reason, by name."""
        return tuple(sorted(map(str, self.missing)))


@dataclass(slots=True)
class _Channel:
    channel: aio.Channel
    api: str
    stamp: tuple[Any, ...]
    metadata: tuple[tuple[str, str], ...]
    rests_until: float = 0.0
    rests_because: str = ""
    """Why the last question got no answer, "" if it got one."""

    def rest(self, until: float, why: str) -> None:
        """Note that a question got no answer, and until when no other is asked."""
        self.rests_until, self.rests_because = until, why


class Asking:
    """Asks the members of ``membership``; each gets ``timeout_s``.

    One that gave no answer to the last question is waited for no longer than ``LATE_S``: a fleet that has a stopped
    replica is not slower for it.
    """

    def __init__(self, membership: Membership, credentials: Credentials, *, timeout_s: float) -> None:
        self._membership = membership
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._channels: dict[str, _Channel] = {}
        self._places = asyncio.Semaphore(AT_ONCE_MAX)
        self._late: set[asyncio.Task[pb.Answer | UnansweredError]] = set()

    async def stop(self) -> None:
        """Close all connections."""
        for each in self._late:
            each.cancel()
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(each.channel.close() for each in channels))

    async def ask(self, kind: Question[Any, A], query: Callable[[Member], Any]) -> Answers[A]:
        """Return the answers of all others, within the time limit. ``query`` returns what to ask of each."""
        others = list(self._membership.others.values())
        if not others:
            return Answers()
        async with self._places:
            await self._close_forgotten()
            told = await asyncio.gather(
                *(self._ask(known, kind, kind.query.dump_json(query(known.member))) for known in others)
            )
        found = [(known.member, each[0]) for known, each in zip(others, told, strict=True) if isinstance(each, tuple)]
        return Answers(found=found, missing=[each for each in told if isinstance(each, Missing)])

    async def ask_one(self, member: Member, kind: Question[Any, A], query: Any) -> A:
        """Return the answer of one replica. Raises UnansweredError."""
        asked = kind.query.dump_json(query)
        async with self._places:
            await self._close_forgotten()
            return await self._answer(member, kind, asked)

    async def _ask(self, known: Known, kind: Question[Any, A], asked: bytes) -> "tuple[A] | Missing":
        """Return the answer in a tuple, or why there is none. A silent replica is asked too: it may be there again."""
        try:
            return (await self._answer(known.member, kind, asked),)
        except UnansweredError as error:
            reason = str(error) if known.lost_at is None else f"its lease is lost; {error}"
            return Missing(member=known.member, reason=reason[:REASON_CHARACTERS_MAX], is_leased=known.lost_at is None)

    async def _answer(self, member: Member, kind: Question[Any, A], asked: bytes) -> A:
        if not member.api:
            raise UnansweredError(NO_ADDRESS)
        loop = asyncio.get_running_loop()
        to = await self._channel(member)
        if loop.time() < to.rests_until:
            raise UnansweredError(to.rests_because)
        told = await self._heard(to, member, kind.name, asked)
        if told.problem:
            raise UnansweredError(f"it answered: {told.problem}")
        if told.instance != member.instance:
            raise UnansweredError(f"another replica answers at {member.api} (replicas.advertise of {member.name})")
        try:
            if len(told.found) < THREAD_BYTES_MIN:
                return kind.answer.validate_json(told.found)
            return await asyncio.to_thread(kind.answer.validate_json, told.found)
        except ValidationError as error:
            where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))[:100]
            version = "" if told.version == __version__ else f", of version {told.version[:64]} and not {__version__}"
            raise UnansweredError(f"its answer{version} can't be read ({where or 'no JSON'})") from None

    async def _heard(self, to: _Channel, member: Member, what: str, asked: bytes) -> pb.Answer:
        """Return the answer; a replica that gave none to the last question is asked, but hardly waited for."""
        if not to.rests_because:
            return await self._noted(to, member, what, asked)
        why = to.rests_because
        to.rest(asyncio.get_running_loop().time() + self._timeout_s + REST_S, why)  # one such question at a time
        call = asyncio.create_task(self._late_answer(to, member, what, asked))
        self._late.add(call)
        call.add_done_callback(self._late.discard)
        await asyncio.wait((call,), timeout=LATE_S)
        if not call.done():
            raise UnansweredError(why)
        told = call.result()
        if isinstance(told, UnansweredError):
            raise told
        return told

    async def _late_answer(self, to: _Channel, member: Member, what: str, asked: bytes) -> pb.Answer | UnansweredError:
        """Return the answer or why there is none, since perhaps nobody waits for it any more."""
        try:
            return await self._noted(to, member, what, asked)
        except UnansweredError as error:
            return error

    async def _noted(self, to: _Channel, member: Member, what: str, asked: bytes) -> pb.Answer:
        """Return the answer, and note whether there was one."""
        try:
            told = await self._call(to, member, what, asked)
        except UnansweredError as error:
            to.rest(asyncio.get_running_loop().time() + REST_S, str(error))
            raise
        to.rest(0.0, "")
        return told

    async def _call(self, to: _Channel, member: Member, what: str, asked: bytes) -> pb.Answer:
        call: Any = to.channel.unary_unary(METHOD, request_serializer=pb.Question.SerializeToString)
        question = pb.Question(what=what, query=asked, instance=member.instance)
        try:
            answer: bytes = await call(question, metadata=to.metadata, timeout=self._timeout_s)
        except aio.AioRpcError as error:
            raise UnansweredError(self._why(error)) from None
        except asyncio.CancelledError:
            # Closing a channel cancels its calls, which looks as if the task that awaits one had been cancelled.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise UnansweredError("the connection to it was closed") from None
        try:
            return pb.Answer.FromString(answer)
        except DecodeError:
            raise UnansweredError("what it sent is no answer: it is of another version, or no replica") from None

    def _why(self, error: aio.AioRpcError) -> str:
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"it did not answer within {self._timeout_s:g} s (replicas.timeout_s)"
            case grpc.StatusCode.UNIMPLEMENTED:
                return "it does not know the question: it is of another version, or no replica"
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return f"it refuses this replica's token (replicas.token_file): {error.details()}"
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return f"its answer is too large, or it is overloaded: {error.details()}"
            case _:
                return f"it can't be reached: {error.details()}"

    async def _channel(self, member: Member) -> _Channel:
        """Return the connection to a replica, a new one if an address or a file has changed. Raises UnansweredError."""
        stamp = self._credentials.stamp()
        had = self._channels.get(member.instance)
        if had is not None and had.api == member.api and had.stamp == stamp:
            return had
        token = self._credentials.token()
        if token and not member.tls and not Address.parse(member.api).is_loopback:
            raise UnansweredError("it has no TLS, and the token would be sent to it in clear (api.tls_cert there)")
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", ANSWER_BYTES_MAX + 64 * 1024),
            ("grpc.enable_http_proxy", 0),  # else a proxy between replicas would see the token, or all of it
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.min_reconnect_backoff_ms", round(CONNECT_S * 1_000)),  # bounds an attempt, not the pause after it
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        if member.tls:
            channel = aio.secure_channel(member.api, self._credentials.channel_credentials(), options=options)
        else:
            channel = aio.insecure_channel(member.api, options=options)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        made = self._channels[member.instance] = _Channel(channel, member.api, stamp, metadata)
        if had is not None:  # closed once the new one is in its place: who comes meanwhile makes no other
            await had.channel.close()
        return made

    async def _close_forgotten(self) -> None:
        forgotten = [self._channels.pop(each) for each in self._channels.keys() - self._membership.others.keys()]
        await asyncio.gather(*(each.channel.close() for each in forgotten))


def _stamp(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnansweredError(f"{path} can't be read: {error.strerror}") from None
