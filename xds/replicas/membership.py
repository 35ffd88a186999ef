"""Which replicas there are: each keeps a key in etcd, under a lease, with the address of its push API.

The keys are below the store's prefix, in ``replicas/``, and no part of its log. A replica that vanishes without saying
so is remembered as silent for a while: an answer that lacks its nodes must say so.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from xds.process.background import Background
from xds.replica_settings import NAME
from xds.store.errors import UnavailableError
from xds.store.etcd_client import EtcdClient, end_of

log = structlog.get_logger("xds")
TTL_S = 10
"""The lease of a replica: one that is killed, or cut off from etcd, counts as silent after this time."""
ROUND_S = 1.0
"""How often the lease is renewed, and the other replicas are looked up."""
LEAVE_S = 1.0
"""How long a replica that ends tries to say so."""
START_S = 1.0
"""How long a start waits for etcd to answer."""
MEMBERS_MAX = 100
"""Replicas that are known, and as many that are silent."""
VALUE_BYTES_MAX = 4_096
"""The largest value of a replica's key that is read."""
Name = Annotated[str, Field(pattern=f"^{NAME}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a replica says of itself. ``instance`` is of one process: a restarted replica has another one."""

    instance: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Name
    api: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:\[\]%-]*$", max_length=300)]
    """HOST:PORT of its gRPC push API, "" if others can't reach it."""
    tls: bool
    """Whether that API speaks TLS."""
    epoch: Annotated[str, Field(max_length=64)]
    version: Annotated[str, Field(max_length=64, pattern=r"^[\w.+-]*$")]
    started_at_ms: Annotated[int, Field(ge=0, lt=2**63)]
    left: bool = False
    """It ends, and is to be forgotten at once."""

    def __str__(self) -> str:
        return f"{self.name} ({self.api})" if self.api else self.name


MEMBER = TypeAdapter(Member)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Another replica: ``lost_at`` is the loop's time since when it has no lease, None while it has one."""

    member: Member
    lost_at: float | None = None


class Membership:
    """Keeps this replica's key, and knows the others. ``me`` returns what this replica says of itself."""

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        me: Callable[[], Member],
        *,
        forget_after_s: float,
        ttl_s: int = TTL_S,
        round_s: float = ROUND_S,
    ) -> None:
        self._client = client
        self._prefix = prefix.strip("/").encode() + b"/replicas/"
        self._me = me
        self._forget_after_s = forget_after_s
        self._ttl_s = ttl_s
        self._round_s = round_s
        self._lease = 0
        self._put: Member | None = None
        self._others: dict[str, Known] = {}
        self._unreadable: set[bytes] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._looked_up = asyncio.Event()
        self.away = "they were not looked up yet"
        """Why the replicas can't be looked up at present, "" if they can."""

    @property
    def me(self) -> Member:
        """What this replica says of itself."""
        return self._me()

    @property
    def others(self) -> Mapping[str, Known]:
        """The other replicas by their instance."""
        return self._others

    async def start(self, background: Background) -> None:
        """Register, and look up the others, in the background; return after the first time, or after ``START_S``."""
        self._keeping = background.keep("follow the replicas", self._keep)
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._looked_up.wait()

    async def stop(self) -> None:
        """Say that this replica ends: its key stays as long as its lease, for all to see that."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        self._keeping = None
        if self._lease:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._write(replace(self._me(), left=True))
            except (UnavailableError, TimeoutError) as error:
                log.warning(
                    "the other replicas could not be told that this one ends", problem=str(error) or "no answer"
                )
        await self._client.close()

    async def _keep(self) -> None:
        is_logged = False
        while True:
            try:
                await self._round()
            except UnavailableError as error:
                self.away = str(error)
                if not is_logged:
                    log.warning("the replicas can't be looked up; those that were known are asked", problem=self.away)
                    is_logged = True
            else:
                self.away, is_logged = "", False
                self._looked_up.set()
            await asyncio.sleep(self._round_s)

    async def _round(self) -> None:
        """Renew the lease and the key, and read the keys of all."""
        me = self._me()
        if self._lease and not await self._client.renew_lease(self._lease):
            self._lease = 0  # etcd was away for longer than the lease
        if not self._lease:
            self._lease, self._put = await self._client.grant_lease(self._ttl_s), None
        if self._put != me:
            await self._write(me)
        found = await self._client.range(self._prefix, end_of(self._prefix), limit=2 * MEMBERS_MAX)
        members = [member for kv in found.kvs if (member := self._read(kv.key, kv.value)) is not None]
        if all(member.instance != me.instance for member in members):
            self._put = None  # somebody removed it
        self._take([member for member in members if member.instance != me.instance])

    async def _write(self, me: Member) -> None:
        await self._client.put(self._prefix + me.instance.encode(), MEMBER.dump_json(me), lease=self._lease)
        self._put = me

    def _read(self, key: bytes, value: bytes) -> Member | None:
        try:
            if len(value) > VALUE_BYTES_MAX:
                raise ValueError(f"has {len(value)} bytes")
            member = MEMBER.validate_json(value)
            if key != self._prefix + member.instance.encode():
                raise ValueError("is of another replica")
        except (ValidationError, ValueError) as error:
            if key not in self._unreadable and len(self._unreadable) < MEMBERS_MAX:
                self._unreadable.add(key)
                told = key.decode(errors="backslashreplace")
                log.error("etcd has a replica's key that can't be read; it is ignored", key=told, problem=str(error))
            return None
        return member

    def _take(self, members: list[Member]) -> None:
        """Update the others by those whose keys were found."""
        now = asyncio.get_running_loop().time()
        present = {member.instance: member for member in members if not member.left}
        left = {member.instance for member in members if member.left}
        for instance, member in list(present.items())[:MEMBERS_MAX]:
            if instance not in self._others:
                log.info("a replica was found", replica=str(member), version=member.version)
            self._others[instance] = Known(member=member)
        for instance, known in list(self._others.items()):
            if instance in present:
                continue
            why = self._why_forgotten(known, present.values(), left, now)
            if why:
                del self._others[instance]
                log.info("a replica is forgotten", replica=str(known.member), reason=why)
            elif known.lost_at is None:
                self._others[instance] = replace(known, lost_at=now)
                fields = {"replica": str(known.member), "forget_after_s": self._forget_after_s}
                log.warning("a replica has vanished: its lease is lost", **fields)
        self._forget_surplus()

    def _why_forgotten(self, known: Known, present: Collection[Member], left: set[str], now: float) -> str:
        member = known.member
        if member.instance in left:
            return "it ended"
        for other in (*present, self._me()):
            if other.started_at_ms >= member.started_at_ms and other.api == member.api != "":
                return f"{other.name} has its address"
        if known.lost_at is not None and now - known.lost_at >= self._forget_after_s:
            return "it was silent for too long"
        return ""

    def _forget_surplus(self) -> None:
        """Forget the replicas that have been silent for longest, beyond ``MEMBERS_MAX``."""
        silent = [known for known in self._others.values() if known.lost_at is not None]
        silent.sort(key=lambda known: known.lost_at or 0.0)
        for known in silent[: max(0, len(silent) - MEMBERS_MAX)]:
            del self._others[known.member.instance]
