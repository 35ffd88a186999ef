"""Decides who may make a call, for REST and gRPC alike, and records it in the audit log.

``NEEDS`` has the rights of every call. They are checked by the headers, before a body is read; ``Permitted`` then
checks the groups of the call, and hides what the caller may not see.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xds.access.audit import DONE, FORBIDDEN, REJECTED, TEXT_CHARACTERS_MAX, UNAUTHENTICATED, UNKNOWN, AuditLog
from xds.access.authenticator import Authenticator
from xds.access.errors import ForbiddenError, UnauthenticatedError
from xds.access.rights import CHANGING, Caller, Right
from xds.api.run_in_thread import CALLER
from xds.api.watches import Watches
from xds.process.background import Background
from xds.publishing.changes import DIRECTORY, Published
from xds.reporting.merged_log import MergedLog
from xds.store.errors import OutcomeUnknownError
from xds.telemetry.server_measures import ServerMeasures

T = TypeVar("T")
READ, WRITE, ROLLOUT, ADMIN = Right.READ, Right.WRITE, Right.ROLLOUT, Right.ADMIN

NEEDS: dict[str, frozenset[Right]] = {
    **dict.fromkeys(("Apply", "Replace", "PushEndpoints", "PutResource", "DeleteResource"), frozenset({WRITE})),
    "ApplyGroups": frozenset({WRITE, ADMIN}),
    "Rollback": frozenset({ROLLOUT}),
    **dict.fromkeys(("GetResource", "GetSnapshot", "ListResources", "Diff"), frozenset({READ})),
    **dict.fromkeys(("History", "FindRevision", "GetRevision", "Watch"), frozenset({READ})),
    **dict.fromkeys(("ListGroups", "GetGroup", "GetRules", "ListNodes", "GetNode"), frozenset({READ})),
    **dict.fromkeys(("WaitForConvergence", "GetStatus", "FindRoute", "AskReplica"), frozenset({READ})),
    **dict.fromkeys(("InspectNode", "ExplainNode"), frozenset({READ})),
    **dict.fromkeys(("PutGroup", "DeleteGroup", "PutRules", "UpdateRules"), frozenset({ADMIN})),
    **dict.fromkeys(("BackUpStore", "ListAudit", "Rebalance"), frozenset({ADMIN})),
    "WhoAmI": frozenset(),
}
"""Each call to the rights of which its caller needs one, in some group; none: everyone whose identity is known.

A call without an entry is refused.
"""
CHANGES = frozenset(what for what, needed in NEEDS.items() if needed & {WRITE, ROLLOUT, ADMIN}) - {"ListAudit"}
"""The calls of which every outcome is recorded."""
LAPSE_S = 0.5
"""How often the credentials of open streams are checked: a stream ends within this time of their end."""
FINISH_S = 5.0
"""How long the end of a server waits for the outcome of changes to be recorded."""
PUSHES_S = 1.0
"""Endpoint pushes of a caller into a group within this time are one record."""
REQUEST_ID_CHARACTERS_MAX = 128
GONE = "the caller left before the answer"
GROUP_CHARACTERS_MAX = 500
REFUSALS: dict[str, Any] = {"sources_max": 1_000, "source_kinds_max": 100, "characters_max": 1024 * 1024}
"""What is recorded of refusals within a minute: a caller's kinds, and the characters of all before they are merged."""
MORE_KINDS = "more kinds of refusals than are recorded one by one in a minute"


@dataclass(slots=True)
class Fate:
    """What is recorded of a call: which groups it is about, and whether its outcome is recorded, or will be."""

    groups: tuple[str, ...] = ()
    is_told: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call whose caller is known: what it is, from where, and the credentials that were shown."""

    what: str
    caller: Caller
    peer: str
    request_id: str
    authorization: str = field(default="", repr=False)
    certificates: tuple[bytes, ...] = field(default=(), repr=False)
    fate: Fate = field(default_factory=Fate, repr=False)

    @property
    def source(self) -> str:
        """Who shares what callers share: the caller's identity, or its host if the API asks for no credentials."""
        return self.caller.identity or f"at {self.peer.rpartition(':')[0] or self.peer}"


class Admission:
    """Authenticates callers, checks the rights of calls, and records what came of them.

    Without ``authenticator`` everyone may do everything. Without ``audit`` nothing is recorded; nor while the API asks
    for no credentials, unless ``records_all``.
    """

    def __init__(
        self,
        authenticator: Authenticator | None = None,
        audit: AuditLog | None = None,
        *,
        records_all: bool = False,
        measured: ServerMeasures | None = None,
        watches: Watches | None = None,
    ) -> None:
        self.watches = watches or Watches()
        self.measured = measured or ServerMeasures()
        """Where calls and refusals are counted."""
        self._authenticator = authenticator or Authenticator()
        self._audit = audit
        self._records_all = records_all
        self._refusals = None if audit is None else MergedLog(_Refusals(audit), **REFUSALS)
        self._streams: dict[Call, asyncio.Future[None]] = {}
        self._checking: asyncio.TimerHandle | None = None
        self._recording: set[asyncio.Future[Any]] = set()
        self._pushes: dict[tuple[str, str], _Pushes] = {}
        self._keys_problems: Callable[[], tuple[str, ...]] = tuple

    @property
    def audit(self) -> AuditLog | None:
        """The audit log, if there is one that is in use."""
        return self._audit if self._records_all or self._authenticator.is_needed else None

    @property
    def asks_for_credentials(self) -> bool:
        """Whether callers must show credentials."""
        return self._authenticator.is_needed

    async def start(self, background: Background) -> None:
        """Follow the keys of the issuers of OIDC tokens, and revoked certificates; write when tokens were last used."""
        if (last_used := self._authenticator.last_used) is not None:
            background.keep(
                "write when tokens were used", lambda: last_used.follow(lambda: self._authenticator.token_ids)
            )
        if (names_of := self._authenticator.names_of) is not None:
            background.keep("follow the revoked certificates of callers", names_of.follow)
        if self._authenticator.issuers:
            from xds.access.oidc import OidcTokens  # PyJWT takes a few MB

            oidc = OidcTokens(self._authenticator.issuers)
            await oidc.start(background)
            self._authenticator.verify_jwt = oidc
            self._keys_problems = lambda: oidc.problems

    def reload(self) -> bool:
        """Read the files of tokens and identities again; return whether there are any and they can be used."""
        return self._authenticator.reload()

    @property
    def problem(self) -> str:
        """Why files of tokens, keys of issuers or the audit log are not as they should be, "" if all are."""
        self._authenticator.refresh()
        audit = "" if self._audit is None else self._audit.problem
        return "; ".join(filter(None, (*self._authenticator.problems, *self._keys_problems(), audit)))

    # --- Callers -----------------------------------------------------------------------------------------------------

    def admit(
        self, what: str, *, authorization: str, certificates: tuple[bytes, ...], peer: str, request_id: str = ""
    ) -> Call:
        """Return the call of a caller whose identity is known. Raises UnauthenticatedError."""
        try:
            caller = self._authenticator.authenticate(authorization, certificates)
        except UnauthenticatedError as error:
            self.measured.credentials_refused[error.reason] += 1
            self._refused(what, error.who or "unknown", UNAUTHENTICATED, error.reason, peer, request_id, str(error))
            raise
        given = request_id[:REQUEST_ID_CHARACTERS_MAX]
        named = given if given.isascii() and given.isprintable() else ""
        made = named or (secrets.token_hex(8) if self._audit is not None else "")
        call = Call(what, caller, peer, made, authorization, certificates)
        CALLER.set(call.source)
        return call

    def must_change(self, call: Call) -> None:
        """Raise ForbiddenError if the caller of a call that changes something may change nothing."""
        with self.refusing(call):
            call.caller.must_have_any(CHANGING)

    def must_be_permitted(self, call: Call, group: str | None = None) -> None:
        """Raise ForbiddenError if the caller may not make the call, in ``group`` if it is known."""
        needed = NEEDS[call.what]
        with self.refusing(call):
            if not needed:
                return
            if group is None:
                call.caller.must_have_any(needed)
            elif not any(call.caller.may(right, group) for right in needed):
                call.caller.must(min(needed), (group,))

    @contextmanager
    def refusing(self, call: Call) -> Iterator[None]:
        """Record a ForbiddenError that is raised inside."""
        try:
            yield
        except ForbiddenError as error:
            call.fate.is_told = True
            self.measured.rights_refused += 1
            self._refused(
                *(call.what, call.caller.identity, FORBIDDEN, "right", call.peer, call.request_id, str(error)),
                groups=(error.group,) if error.group else (),
            )
            raise

    def record_misdirected(
        self,
        what: str,
        *,
        authorization: str,
        certificates: tuple[bytes, ...],
        peer: str,
        request_id: str,
        reason: str,
        detail: str,
    ) -> None:
        """Record a request that is refused for its host or its origin, if it shows the credentials of a caller."""
        if self._refusals is None:
            return
        try:
            caller = self._authenticator.authenticate(authorization, certificates)
        except UnauthenticatedError:
            return
        if caller.identity:
            self._refused(what, caller.identity, FORBIDDEN, reason, peer, request_id, detail)

    def _refused(
        self,
        what: str,
        who: str,
        outcome: str,
        reason: str,
        peer: str,
        request_id: str,
        detail: str,
        groups: Collection[str] = (),
    ) -> None:
        if self._refusals is None:
            return
        host = peer.rpartition(":")[0] or peer
        groups = tuple(each[:GROUP_CHARACTERS_MAX] for each in groups)
        told = detail if outcome == FORBIDDEN else ""
        self._refusals.warning(
            "refused",
            kind=hash((outcome, who, what, groups, reason, told)),  # the texts may be long
            source=who if outcome == FORBIDDEN else host,
            examples={"calls": what, "peers": host, "all_groups": ", ".join(groups), "callers": who},
            what=what,
            who=who,
            outcome=outcome,
            reason=reason,
            detail=detail[:TEXT_CHARACTERS_MAX],
            peer=peer,
            request_id=request_id[:REQUEST_ID_CHARACTERS_MAX],
            groups=groups,
        )

    # --- Streams -----------------------------------------------------------------------------------------------------

    @contextmanager
    def lapse_of(self, call: Call) -> "Iterator[asyncio.Future[None]]":
        """Yield a future that gets an UnauthenticatedError once the credentials of a call are not what they were."""
        lapse: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams[call] = lapse
        if self._checking is None:
            self._checking = asyncio.get_running_loop().call_later(LAPSE_S, self._check)
        try:
            yield lapse
        finally:
            del self._streams[call]
            if lapse.done() and not lapse.cancelled():
                lapse.exception()  # marks it as retrieved
            lapse.cancel()

    def _check(self) -> None:
        self._checking = None
        for call, lapse in self._streams.items():
            try:
                caller = self._authenticator.authenticate(call.authorization, call.certificates)
            except UnauthenticatedError as error:
                _end(lapse, error)
            else:
                if caller != call.caller:
                    _end(
                        lapse,
                        UnauthenticatedError("the rights of the caller have changed: call again", reason="changed"),
                    )
        if self._streams:
            self._checking = asyncio.get_running_loop().call_later(LAPSE_S, self._check)

    # --- The audit log -----------------------------------------------------------------------------------------------

    def record(self, call: Call, outcome: str = DONE, **fields: Any) -> None:
        """Record what came of a call."""
        call.fate.is_told = True
        if (audit := self.audit) is not None:
            caller = call.caller.identity
            audit.record(call.what, who=caller, outcome=outcome, peer=call.peer, request_id=call.request_id, **fields)

    def record_unmade(self, call: Call, detail: str) -> None:
        """Record that a call has changed nothing, if it was to, and nothing is recorded of it yet."""
        if call.what in CHANGES and not call.fate.is_told:
            self.record(call, REJECTED, groups=call.fate.groups, detail=detail)

    @contextmanager
    def recording_unmade(self, call: Call) -> Iterator[None]:
        """Record a call that changes nothing because of an error that is raised inside."""
        try:
            yield
        except BaseException as error:
            self.record_unmade(call, GONE if isinstance(error, asyncio.CancelledError) else str(error))
            raise

    def record_directory(self, outcome: str, **fields: Any) -> None:
        """Record what came of a change of the followed directory."""
        if (audit := self.audit) is not None:
            audit.record("Apply", who=DIRECTORY, outcome=outcome, **fields)

    async def recorded(
        self, call: Call, groups: Collection[str], change: Awaitable[Published], **fields: Any
    ) -> Published:
        """Return the outcome of a change, and record it, also if the caller has gone meanwhile."""
        call.fate.is_told = True
        if self.audit is None:
            return await change
        task = asyncio.ensure_future(self._outcome(call, groups, change, fields))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)
        return await asyncio.shield(task)

    async def _outcome(
        self, call: Call, groups: Collection[str], change: Awaitable[Published], fields: dict[str, Any]
    ) -> Published:
        try:
            published = await change
        except Exception as error:
            outcome = UNKNOWN if isinstance(error, OutcomeUnknownError) else REJECTED
            self.record(call, outcome, groups=tuple(groups), detail=str(error), **fields)
            await self._written()
            raise
        about = fields | {"revision": published.revision, "changed": len(published.changed)}
        self.record(call, DONE, groups=tuple(groups), again=published.again or None, **about)
        await self._written()
        return published

    async def _written(self) -> None:
        """Return once what was recorded is in the file, before the answer; see ``AuditLog.written``."""
        if self.audit is not None:
            await self.audit.written()

    def record_push(self, call: Call, group: str, outcome: "asyncio.Future[Published]") -> None:
        """Record what comes of a push of endpoints, with others of the same caller and group."""
        call.fate.is_told = True
        if self.audit is not None:
            outcome.add_done_callback(lambda done: self._pushed(call, group, done))

    def record_unpushed(self, call: Call, group: str, detail: str) -> None:
        """Record a push of endpoints that was refused before it was queued, with others of the caller and group."""
        call.fate.is_told = True
        if self.audit is not None:
            pushes = self._pushes_of(call, group[:GROUP_CHARACTERS_MAX])
            pushes.count += 1
            pushes.failed += 1
            pushes.detail = detail[:TEXT_CHARACTERS_MAX]

    def _pushes_of(self, call: Call, group: str) -> "_Pushes":
        key = call.caller.identity, group
        pushes = self._pushes.get(key)
        if pushes is None:
            pushes = self._pushes[key] = _Pushes(call)
            asyncio.get_running_loop().call_later(PUSHES_S, self._end_pushes, key)
        return pushes

    def _pushed(self, call: Call, group: str, outcome: "asyncio.Future[Published]") -> None:
        pushes = self._pushes_of(call, group)
        pushes.count += 1
        if outcome.cancelled() or (error := outcome.exception()) is not None:
            pushes.failed += 1
            pushes.detail = "" if outcome.cancelled() else str(error)
        else:
            revision = outcome.result().revision
            pushes.first, pushes.last = pushes.first or revision, revision

    def _end_pushes(self, key: tuple[str, str]) -> None:
        if (pushes := self._pushes.pop(key, None)) is None:
            return
        outcome = REJECTED if pushes.failed == pushes.count else DONE
        first = pushes.first if pushes.first != pushes.last else None
        fields = {"failed": pushes.failed or None, "detail": pushes.detail, "first_revision": first}
        self.record(
            pushes.call,
            outcome,
            groups=(key[1],) if key[1] else (),
            pushes=pushes.count,
            revision=pushes.last or None,
            **fields,
        )

    async def finish(self) -> None:
        """Record what is still under way, and close; ``FINISH_S`` at most."""
        if self._recording:
            await asyncio.wait(set(self._recording), timeout=FINISH_S)
        await self._written()
        self.close()

    def close(self) -> None:
        """Write what is still to be recorded, and close the audit log."""
        if (last_used := self._authenticator.last_used) is not None:
            last_used.write(self._authenticator.token_ids)
        for key in list(self._pushes):
            self._end_pushes(key)
        if self._checking is not None:
            self._checking.cancel()
        if self._audit is not None:
            assert self._refusals is not None
            self._refusals.flush()
            self._audit.close()


@dataclass(slots=True)
class _Pushes:
    """The pushes of a caller into a group since the first one that is not recorded yet."""

    call: Call
    count: int = 0
    failed: int = 0
    first: int = 0
    last: int = 0
    detail: str = ""


class _Refusals:
    """Passes merged refusals to the audit log."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def warning(
        self,
        _: str,
        *,
        what: str,
        who: str,
        outcome: str,
        of_more_kinds: bool = False,
        calls: Collection[str] = (),
        peers: Collection[str] = (),
        callers: Collection[str] = (),
        all_groups: Collection[str] = (),
        **fields: Any,
    ) -> None:
        """Record a refusal, or how many there were: of one kind, or of further kinds of one caller, or of all."""
        fields["peers"] = peers if len(peers) > 1 else ()
        if of_more_kinds:
            who = who if len(callers) < 2 else "several"
            more = {"callers": callers if len(callers) > 1 else (), "calls": calls, "groups": all_groups}
            fields = fields | more | {"reason": None, "detail": MORE_KINDS}
            what = "refused calls"
        self._audit.record(what, who=who, outcome=outcome, **fields)


async def until_lapsed(source: AsyncIterator[T], lapse: "asyncio.Future[None]") -> AsyncIterator[T]:
    """Yield the items of a source until ``lapse`` has an error, which is raised then."""
    while True:
        waiting = asyncio.ensure_future(_next(source))
        try:
            await asyncio.wait((waiting, lapse), return_when=asyncio.FIRST_COMPLETED)
            if lapse.done():
                lapse.result()
            found = waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        if found is None:
            return
        yield found[0]


async def _next(source: AsyncIterator[T]) -> tuple[T] | None:
    try:
        return (await anext(source),)
    except StopAsyncIteration:
        return None


def _end(lapse: "asyncio.Future[None]", error: Exception) -> None:
    if not lapse.done():
        lapse.set_exception(error)
