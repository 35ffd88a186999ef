"""The push API's operations as one caller may use them: REST and gRPC reach ``Operations`` only through this.

A right is checked by the name of a group alone, before anything is looked up, so that a refusal does not tell whether
the group exists. What a caller may read of several groups at once (history, watches, rules, nodes, problems) has only
the groups that it may read.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from xds.access.audit import AuditFilter, read_audit
from xds.access.errors import ForbiddenError, NoAuditError
from xds.access.rights import Caller, Right
from xds.api.admission import GONE, Admission, Call, until_lapsed
from xds.api.convergence import Convergence, Goal
from xds.api.explain import Explanation
from xds.api.fleet import HIDDEN_WHY, FleetStatus, name_of_missing, without_reasons
from xds.api.operations import (
    HISTORY_MAX,
    GroupInfo,
    Operations,
    ResourceDifference,
    RevisionAnswer,
    SnapshotAnswer,
    StoreCopy,
    UnknownNodeError,
    UnknownResourceError,
)
from xds.api.shown import has_secrets
from xds.model.groups import GroupTable
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.protocol.convergence import Debts
from xds.protocol.holders import Holders
from xds.protocol.inspection import Inspection, InspectQuery
from xds.protocol.status import NodesFound, NodesQuery
from xds.publishing.changes import Change, Published
from xds.publishing.edits import PutRules, UnknownGroupError, UpdateRules
from xds.routing.answer import Answer
from xds.routing.request import Request
from xds.store.entries import TEXT_CHARACTERS_MAX, EntrySummary, Stored
from xds.store.errors import IdReusedError

M = TypeVar("M", NodesFound, Holders, Inspection, Convergence, Debts)
T = TypeVar("T")
READ, WRITE, ROLLOUT, SECRETS, ADMIN = Right.READ, Right.WRITE, Right.ROLLOUT, Right.SECRETS, Right.ADMIN


class Permitted:
    """Operations for one call. Methods are those of ``Operations``, and raise ForbiddenError too."""

    __slots__ = ("_admission", "_call", "_caller", "_operations", "_sees_all")

    def __init__(self, operations: Operations, admission: Admission, call: Call) -> None:
        self._operations = operations
        self._admission = admission
        self._call = call
        self._caller: Caller = call.caller
        self._sees_all = call.caller.may_everywhere(READ)

    @property
    def sees_whole_changes(self) -> bool:
        """Whether the caller may read all groups, so that no part of a change is hidden from it."""
        return self._sees_all

    @property
    def call(self) -> Call:
        """The call that the operations are for."""
        return self._call

    # --- Changes -----------------------------------------------------------------------------------------------------

    async def publish(self, change: Change, *, version: str = "") -> Published:
        """Make a change; see ``Operations.publish``. Its author is the caller, if its identity is known."""
        self._must(WRITE, change.groups)
        if change.edit is not None:
            self._must_everywhere(ADMIN)
        await self._must_set_secrets(change.upserts)
        signed = self._signed(change)
        return await self._recorded(change, self._operations.publish(signed, version=version))

    async def reached(self, revision: int) -> None:
        """Return once every process serves a revision that the caller made; see ``Operations.reached``."""
        await self._operations.reached(revision)

    async def push_endpoints(self, group: str, endpoints: tuple[Resource, ...]) -> "asyncio.Future[Published]":
        """Queue assignments; see ``Operations.push_endpoints``."""
        self._must(WRITE, (group,))
        await self._must_set_secrets({group: endpoints})
        with self._discreet():
            outcome = await self._operations.push_endpoints(group, endpoints, author=self._caller.identity)
        self._admission.record_push(self._call, group, outcome)
        return outcome

    def record_unpushed(self, group: str, error: BaseException) -> None:
        """Record a push of endpoints that was refused before it was queued; for want of a right, that is done."""
        if not isinstance(error, ForbiddenError):
            detail = GONE if isinstance(error, asyncio.CancelledError) else str(error)
            self._admission.record_unpushed(self._call, group, detail)

    async def rollback(self, group: str, to: int, like: Change) -> Published:
        """Restore a group's state of a former revision; see ``Operations.restoring``."""
        self._must(ROLLOUT, (group,))
        asked = [like]

        async def restore() -> Published:
            asked[:] = [await self._operations.restoring(group, to, self._signed(like))]
            return await self._operations.publish(asked[0])

        return await self._recorded(like, restore(), groups=(group,), asked=asked, to=to)

    async def put_group(self, group: str, extends: str | None, like: Change) -> Published:
        """Create a group, or change the group it extends."""
        self._must_everywhere(ADMIN)
        change = self._operations.put_group(group, extends, self._signed(like))
        return await self._recorded(like, change, groups=(group,))

    async def delete_group(self, group: str, like: Change) -> Published:
        """Remove a group and its resources."""
        self._must_everywhere(ADMIN)
        change = self._operations.delete_group(group, self._signed(like))
        return await self._recorded(like, change, groups=(group,))

    async def edit_rules(self, rules: PutRules | UpdateRules, like: Change) -> Published:
        """Replace the rules and the group inheritance, or parts of them."""
        self._must_everywhere(ADMIN)
        return await self._recorded(like, self._operations.edit_rules(rules, self._signed(like)), rules=True)

    async def _recorded(
        self,
        change: Change,
        made: Awaitable[Published],
        groups: Collection[str] = (),
        asked: Sequence[Change] = (),
        **about: Any,
    ) -> Published:
        """Return the outcome of a change, and record it. ``asked`` has the change in full once that is known."""
        asked = asked or (change,)
        if change.edit is not None:
            about["rules"] = True
        if change.dry_run:
            about["dry_run"] = True
        try:
            with self._discreet(asked):
                published = await self._admission.recorded(
                    self._call, groups or change.groups, made, change_id=change.id, **about
                )
        except IdReusedError as error:
            if self._sees_all:
                raise
            raise IdReusedError(error.entry_id, await self.find(error.entry_id)) from None
        if published.warnings and not self._sees_all:
            return replace(published, warnings=self._problems(published.warnings, asked[0]))
        return published

    def _signed(self, change: Change) -> Change:
        """Return the change with the caller as its author. A given author becomes a note behind the identity.

        An identity has no spaces, so the first word of an author is the caller's whatever the note says.
        """
        identity = self._caller.identity
        if not identity:
            return change
        author = f"{identity} ({change.author})" if change.author not in ("", identity) else identity
        return replace(change, author=author[:TEXT_CHARACTERS_MAX])

    async def _must_set_secrets(self, upserts: Mapping[str, Iterable[Resource]]) -> None:
        """Raise ForbiddenError if a change sets secrets in groups in which the caller may not."""
        for group, resources in upserts.items():
            if self._caller.may(SECRETS, group):
                continue
            secret = (
                await asyncio.to_thread(_with_secrets, resources) if _are_many(resources) else _with_secrets(resources)
            )
            if secret is not None:
                label = f"{short_name(secret.type_url)}/{secret.name}"
                raise self._forbidden(f"{label} has secrets, and {self._lacking(SECRETS, group)}", group)

    # --- Reading -----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The revision that is served."""
        return self._operations.revision

    def group_revision(self, name: str) -> int:
        """Return the revision at which a group, or ``RULES``, last changed."""
        return self._operations.group_revision(name)

    @property
    def epoch(self) -> str:
        """The name of the log that revisions belong to."""
        return self._operations.epoch

    @property
    def stale_because(self) -> str:
        """Why the store can't be followed at present, "" if it can."""
        why = self._operations.stale_because
        return why if self._sees_all or not why else HIDDEN_WHY

    @property
    def table(self) -> GroupTable:
        """The groups and rules in force, as far as the caller may see them."""
        return self._seen_table(self._operations.table)

    @property
    def group_names(self) -> Collection[str]:
        """The groups that the caller may see."""
        names = self._operations.group_names
        return names if self._sees_all else frozenset(filter(self._sees, names))

    async def snapshot(
        self, group: str, revision: int | None = None, type_url: str | None = None, *, secrets: bool = False
    ) -> SnapshotAnswer:
        """Return a group's own resources; ``secrets`` says that their secrets will be shown."""
        self._must_read(group, secrets=secrets)
        with self._discreet(), self._showing(secrets, group):
            return await self._operations.snapshot(group, revision, type_url)

    async def listed(
        self, group: str, revision: int | None = None, type_url: str | None = None, *, prefix: str = "", limit: int = 0
    ) -> SnapshotAnswer:
        """Return a group's own resources, to be listed by name."""
        self._must_read(group)
        with self._discreet():
            return await self._operations.listed(group, revision, type_url, prefix=prefix, limit=limit)

    async def resource(
        self, group: str, type_url: str, name: str, revision: int | None = None, *, secrets: bool = False
    ) -> Resource:
        """Return one of a group's own resources."""
        self._must_read(group, secrets=secrets)
        try:
            with self._discreet(), self._showing(secrets, group):
                return await self._operations.resource(group, type_url, name, revision)
        except UnknownResourceError:
            if self._sees_all:
                raise
            text = f"the group {group!r} has no {name!r} among its own {short_name(type_url)}"
            raise UnknownResourceError(text) from None  # the other text may say which base has it

    async def diff(
        self, group: str, before: int, after: int | None = None, *, secrets: bool = False
    ) -> list[ResourceDifference]:
        """Return the differences between two revisions of a group."""
        self._must_read(group, secrets=secrets)
        with self._discreet(), self._showing(secrets, group):
            return await self._operations.diff(group, before, after)

    async def route(self, group: str, request: Request, revision: int | None = None) -> tuple[int, Answer]:
        """Return which way a request takes; the caller must be able to read what the group extends too."""
        self._must_read(group)

        def must_read(groups: Iterable[str]) -> None:
            if not all(map(self._sees, groups)):
                raise self._forbidden(f"{group!r} extends groups that {self._caller.identity} may not read", group)

        with self._discreet():
            return await self._operations.route(group, request, revision, must_read)

    async def history(self, *, limit: int, before: int | None = None, group: str = "") -> list[EntrySummary]:
        """Return the newest changes of groups that the caller may read, or of one group."""
        if group:
            self._must_read(group)
        if self._sees_all:
            return await self._operations.history(limit=limit, before=before, group=group)
        found: list[EntrySummary] = []
        with self._discreet():
            while len(found) < limit:
                page = await self._operations.history(limit=HISTORY_MAX, before=before, group=group)
                found += [seen for summary in page if (seen := self._seen_change(summary)) is not None]
                if len(page) < HISTORY_MAX:
                    break
                before = page[-1].revision
        return found[:limit]

    async def show(self, revision: int, *, secrets: bool = False) -> RevisionAnswer:
        """Return a change in full."""
        self._must_have_any(READ)
        found = await self._operations.show(revision)
        if not self._sees_all:
            summary = self._seen_change(found.summary)
            if summary is None:
                raise self._forbidden(f"revision {revision} changes no group that {self._caller.identity} may read")
            groups = {each.key.group for each in found.differences}
            visible = set(filter(self._sees, groups))
            seen = [each for each in found.differences if each.key.group in visible]
            before, after = (
                None if table is None else self._seen_table(table) for table in (found.rules_before, found.rules_after)
            )
            created = frozenset(filter(self._sees, found.created))
            found = RevisionAnswer(
                summary=summary, differences=seen, rules_before=before, rules_after=after, created=created
            )
        if secrets:
            self._must_show_secrets({each.key.group for each in found.differences})
        return found

    async def find(self, entry_id: str) -> int | None:
        """Return the revision of the change with that id, None if there is none in the caller's groups."""
        self._must_have_any(READ)
        revision = await self._operations.find(entry_id)
        if revision is None or self._sees_all:
            return revision
        summaries = await self._operations.history(limit=1, before=revision + 1)
        return revision if summaries and self._seen_change(summaries[0]) is not None else None

    async def must_be_kept(self, after: int) -> None:
        """Raise CompactedError or NotYetError if a watch can't begin after that revision, or BusyError."""
        self._must_have_any(READ)
        self._admission.watches.must_have_room(self._call.source)
        await self._operations.must_be_kept(after)

    async def watch(self, after: int, *, secrets: bool = False, values: bool = True) -> AsyncIterator[list[Stored]]:
        """Yield every change of the caller's groups after a revision, as ``Operations.watch`` does.

        Ends with UnauthenticatedError once the credentials of the caller have lapsed.

        Raises BusyError if the caller has as many watches as may be.
        """
        self._must_have_any(SECRETS if secrets else READ)
        with self._admission.watches.place(self._call.source), self._admission.lapse_of(self._call) as lapse:
            async for page in until_lapsed(self._operations.watch(after, values=values), lapse):
                seen = page if self._sees_all else [each for each in map(self._seen_entry, page) if each is not None]
                if not secrets and seen:
                    yield seen
                for each in seen if secrets else ():
                    self._must_show_secrets({key.group for key in each.entry.operations})
                    yield [each]

    def groups(self) -> list[GroupInfo]:
        """Return the groups that the caller may read, by name."""
        if self._sees_all:
            return self._operations.groups()
        return [self._operations.group(name) for name in sorted(self.group_names)]

    def group(self, name: str) -> GroupInfo:
        """Return one group."""
        self._must_read(name)
        with self._discreet():
            return self._operations.group(name)

    async def status(self) -> FleetStatus:
        """Return how the fleet stands; the server's files, limits, reasons and problems only to who may read all."""
        self._must_have_any(READ)
        if self._sees_all:
            return await self._operations.status()
        return without_reasons(await self._operations.status(self._sees))

    async def nodes(self, query: NodesQuery) -> NodesFound:
        """Return the progress of the nodes that match a query, of groups that the caller may read."""
        if query.group is not None:
            self._must_read(query.group)
        elif not self._sees_all:
            globs = (glob for grant in self._caller.grants if READ in grant.rights for glob in grant.groups)
            query = replace(query, group_globs=tuple(globs))
        with self._discreet():
            found = await self._operations.nodes(query)
        return found if self._sees_all else self._seen_nodes(found)

    async def holders(self, group: str, type_url: str, name: str) -> Holders:
        """Return which clients have which version of a group's resource, of groups that the caller may read."""
        self._must_read(group)
        found = await self._operations.holders(group, type_url, name)
        if self._sees_all:
            return found
        seen = (each for each in found.holdings if self._sees(each.group))
        return _naming_missing(
            found, holdings=tuple(each for each in seen if self._is_told(each.group, type_url, name))
        )

    def _is_told(self, group: str, type_url: str, name: str) -> bool:
        inherited = self._operations.inherited(group, self._sees)
        return not inherited.hides or inherited.is_seen(type_url, name)

    async def inspect(self, query: InspectQuery) -> Inspection:
        """Return the connections of a node in full, and its NACKs, of groups that the caller may read.

        A resource that the node's group inherits needs the right of the group that has it.
        """
        self._must_have_any(READ)
        if not self._sees_all:
            await self.node(query.id)  # raises UnknownNodeError
        found = await self._operations.inspect(query)
        if self._sees_all:
            return found
        clients = [each for each in found.clients if self._sees(each.summary.group)]
        if not clients:
            await self.node(query.id)  # it may be gone from a group that the caller may read
        told = [await self._operations.seen_client(each, self._sees) for each in clients]
        return _naming_missing(found, clients=tuple(told), nacks=self._operations.seen_nacks(found.nacks, self._sees))

    async def explain(self, node_id: str, type_url: str, name: str) -> list[Explanation]:
        """Return why a node has a resource, or not; see ``Operations.explain``."""
        self._must_have_any(READ)
        return await self._operations.explain(node_id, type_url, name, None if self._sees_all else self._sees)

    async def converge(self, goal: Goal, timeout_s: float) -> AsyncIterator[Convergence]:
        """Yield how many nodes have accepted a revision; see ``Operations.converge``.

        Ends with UnauthenticatedError once the credentials of the caller have lapsed, or with BusyError if the caller
        has as many watches as may be.
        """
        if goal.group is not None:
            self._must_read(goal.group)
        else:
            self._must_have_any(READ)
        sees = None if self._sees_all else self._sees
        place = self._admission.watches.place(self._call.source)
        with place, self._discreet(), self._admission.lapse_of(self._call) as lapse:
            async for found in until_lapsed(self._operations.converge(goal, timeout_s, sees), lapse):
                yield found if self._sees_all else _naming_missing(found)

    async def debts(self) -> Debts:
        """Return what the connected nodes owe, of groups that the caller may read."""
        self._must_have_any(READ)
        found = await self._operations.debts()
        if self._sees_all:
            return found
        return _naming_missing(found.of(self._sees))

    @property
    def gone_changes(self) -> dict[str, int]:
        """For each group that the caller may read and that has gone nodes, a number that changes as these do."""
        return {group: number for group, number in self._operations.gone_changes.items() if self._sees(group)}

    async def node(self, node_id: str) -> NodesFound:
        """Return the progress of one node."""
        self._must_have_any(READ)
        found = await self._operations.node(node_id)
        seen = self._seen_nodes(found)
        if not seen.nodes:
            raise UnknownNodeError(f"no node {node_id!r} is connected, and none left lately")
        return seen

    def must_answer_replicas(self) -> None:
        """Raise ForbiddenError if the caller may not ask what another replica asks: it has the nodes of all groups."""
        self._must_everywhere(READ)

    @asynccontextmanager
    async def backup(self) -> AsyncIterator[StoreCopy]:
        """Copy the store's file; see ``Operations.backup``."""
        self._must_everywhere(ADMIN)
        async with self._operations.backup() as made:
            self._admission.record(self._call, revision=made.revision, size_bytes=made.size_bytes)
            yield made

    async def rebalance(self, share: float, over_s: float) -> int:
        """End a share of the xDS connections; see ``Operations.rebalance``."""
        self._must_everywhere(ADMIN)
        connections = await self._operations.rebalance(share, over_s)
        self._admission.record(self._call, share=share, over_s=over_s, connections=connections)
        return connections

    async def audit(self, wanted: AuditFilter) -> list[dict[str, Any]]:
        """Return records of this server's audit log, newest first. Raises NoAuditError."""
        self._must_everywhere(ADMIN)
        audit = self._admission.audit
        if audit is None or audit.path is None:
            raise NoAuditError("this server has no audit log in a file (access.audit, access.audit_file)")
        return await asyncio.to_thread(read_audit, audit.path, wanted)

    # --- Rights ------------------------------------------------------------------------------------------------------

    def _sees(self, group: str) -> bool:
        return self._caller.may(READ, group)

    def _must(self, right: Right, groups: Iterable[str]) -> None:
        with self._admission.refusing(self._call):
            self._caller.must(right, groups)

    def _must_everywhere(self, right: Right) -> None:
        with self._admission.refusing(self._call):
            self._caller.must_everywhere(right)

    def _must_have_any(self, right: Right) -> None:
        with self._admission.refusing(self._call):
            self._caller.must_have_any((right,))

    def _must_read(self, group: str, *, secrets: bool = False) -> None:
        self._must(READ, (group,))
        if secrets:
            self._must(SECRETS, (group,))

    @contextmanager
    def _showing(self, secrets: bool, group: str) -> Iterator[None]:
        """Record that a group's secrets are shown, once they are read without an error."""
        yield
        if secrets:
            self._record_shown((group,))

    def _must_show_secrets(self, groups: Collection[str]) -> None:
        """Raise ForbiddenError if the caller may not see the secrets of some groups; record that they are shown."""
        self._must(SECRETS, groups)
        if groups:
            self._record_shown(groups)

    def _record_shown(self, groups: Collection[str]) -> None:
        self._admission.record(self._call, groups=tuple(groups), secrets="shown")

    def _forbidden(self, text: str, group: str = "") -> ForbiddenError:
        """Record a refusal, and return its error."""
        error = ForbiddenError(text, group=group)
        with suppress(ForbiddenError), self._admission.refusing(self._call):
            raise error
        return error

    def _lacking(self, right: Right, group: str) -> str:
        try:
            self._caller.must(right, (group,))
        except ForbiddenError as error:
            return str(error)
        return ""

    # --- What the caller sees ----------------------------------------------------------------------------------------

    @contextmanager
    def _discreet(self, asked: Sequence[Change] = (Change(),)) -> Iterator[None]:
        """Leave out of errors what they say of groups that the caller may not read.

        ``asked`` has the change that is refused, as far as it is known by then.
        """
        if self._sees_all:
            yield
            return
        try:
            yield
        except ChangesetRejectedError as error:
            raise ChangesetRejectedError(self._problems(error.problems, asked[0])) from None
        except UnknownGroupError as error:
            raise UnknownGroupError(error.group, self.group_names, revision=error.revision) from None

    def _problems(self, problems: tuple[Problem, ...], change: Change) -> tuple[Problem, ...]:
        seen = self._operations.seen_problems(problems, self._sees, change)
        if len(seen) == len(problems):
            return seen
        what = "groups that you may not read have problems with the change"
        return (*seen, Problem(what=what, hint="ask someone who may read all groups"))

    def _seen_table(self, table: GroupTable) -> GroupTable:
        if self._sees_all:
            return table
        return replace(
            table,
            rules=tuple(rule for rule in table.rules if self._sees(rule.group)),
            extends={name: base for name, base in table.extends.items() if self._sees(name)},
            external=(),
            names=tuple(filter(self._sees, table.names)),
            kept=tuple(filter(self._sees, table.kept)),
        )

    def _seen_nodes(self, found: NodesFound) -> NodesFound:
        """Return the nodes of groups that the caller may read; the server's problems name any group."""
        seen = (each for each in found.nodes if self._sees(each.group))
        if self._sees_all:
            return replace(found, nodes=tuple(seen), problems=())
        nodes = tuple(self._operations.seen_node(each, self._sees) for each in seen)
        return _naming_missing(found, nodes=nodes, problems=())

    def _seen_change(self, summary: EntrySummary) -> EntrySummary | None:
        groups = tuple(each for each in summary.groups if self._sees(each.group))
        if not groups:
            return None
        return replace(
            summary, groups=groups, operations=sum(each.added + each.changed + each.removed for each in groups)
        )

    def _seen_entry(self, stored: Stored) -> Stored | None:
        if self._sees_all:
            return stored
        entry = stored.entry
        seen = {key: value for key, value in entry.operations.items() if self._sees(key.group)}
        if not seen:
            return None
        added = frozenset(key for key in entry.added if key in seen)
        return Stored(stored.revision, replace(entry, operations=seen, added=added))


SECRETS_AT_ONCE = 100
"""Resources that are searched for secrets in the event loop; more are on a thread."""


def _naming_missing(found: M, **changes: Any) -> M:
    """Return an answer with changes, and with the names alone of the replicas that did not answer."""
    return replace(found, missing_replicas=tuple(map(name_of_missing, found.missing_replicas)), **changes)


def _are_many(resources: Iterable[Resource]) -> bool:
    return isinstance(resources, tuple) and len(resources) > SECRETS_AT_ONCE


def _with_secrets(resources: Iterable[Resource]) -> Resource | None:
    return next(filter(has_secrets, resources), None)
