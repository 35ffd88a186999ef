"""This replica among the others that share its store: registered, asked by them, and asking them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import structlog

from xds.address import Address
from xds.process.background import Background
from xds.replica_settings import ReplicaSettings
from xds.replicas.advertised import advertised
from xds.replicas.answering import Answering
from xds.replicas.asking import Answers, Asking, Credentials
from xds.replicas.membership import Member, Membership
from xds.replicas.questions import Question
from xds.store.etcd_client import EtcdClient, EtcdOptions
from xds.version import __version__

log = structlog.get_logger("xds")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What this replica says of itself, apart from its address."""

    tls: bool
    epoch: Callable[[], str]


class Replicas:
    """Create it, add what it answers to ``answering``, and start it once the push API listens."""

    def __init__(self, settings: ReplicaSettings, etcd: EtcdOptions, prefix: str, own: Own, token_file: Any) -> None:
        """``token_file`` is shown to the others if ``settings`` name none."""
        self._settings = settings
        self._etcd = etcd
        self._own = own
        self._instance = uuid4().hex
        self._address: Address | None = None
        self._started_at_ms = time.time_ns() // 1_000_000
        self.answering = Answering(self._instance)
        """What the other replicas may ask this one."""
        self.membership = Membership(EtcdClient(etcd), prefix, self._me, forget_after_s=settings.forget_after_s)
        credentials = Credentials(
            token_file=settings.token_file or token_file, ca=settings.ca, cert=settings.cert, key=settings.key
        )
        self._asking = Asking(self.membership, credentials, timeout_s=settings.timeout_s)

    def _me(self) -> Member:
        return Member(
            instance=self._instance,
            name=self.name,
            api="" if self._address is None else str(self._address),
            tls=self._own.tls,
            epoch=self._own.epoch(),
            version=__version__,
            started_at_ms=self._started_at_ms,
        )

    @property
    def name(self) -> str:
        """The name of this replica."""
        return self._settings.own_name

    async def start(self, background: Background, listen: Address | None) -> None:
        """Register, and look for the others. ``listen`` is the address of the push API, with its port."""
        self._address, why = await asyncio.to_thread(advertised, self._settings, listen, self._etcd.endpoints)
        if self._address is None:
            hint = "give an api.listen that other machines reach, or replicas.advertise; or replicas.advertise=off"
            log.warning("other replicas can't ask this one: their answers will lack its nodes", problem=why, hint=hint)
        await self.membership.start(background)
        me = self.membership.me
        log.info("registered among the replicas", replica=str(me), others=len(self.membership.others))

    async def stop(self) -> None:
        """Say that this replica ends, and close all connections."""
        await self.membership.stop()
        await self._asking.stop()

    async def ask(self, kind: Question[Any, A], query: Callable[[Member], Any]) -> Answers[A]:
        """Ask all other replicas; see ``Asking.ask``."""
        return await self._asking.ask(kind, query)
