"""The push API's operations, for every protocol: changes, reading at a revision, history, groups, nodes."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TypeVar

from xds.api.convergence import Convergence, Goal, watch_convergence
from xds.api.explain import HIDDEN_GROUP, Explanation, Facts, explain
from xds.api.fleet import FleetStatus, ServerStatus, group_statuses, name_of_missing
from xds.api.inherited import Inherited
from xds.api.run_in_thread import LARGE_BYTES, run_in_thread
from xds.api.seen import seen_then
from xds.model.catalog import Catalog
from xds.model.closest import closest
from xds.model.groups import DEFAULT_GROUP, GroupTable, lineage_of
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import ENDPOINTS, short_name
from xds.model.xdstp import canonical
from xds.protocol.convergence import Debts
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.inspection import Held, InspectedClient, Inspection, InspectQuery, NackSeen
from xds.protocol.paging import NodeState
from xds.protocol.status import NODES_MAX, NodesFound, NodesQuery, NodeSummary
from xds.publishing.changes import Change, Published
from xds.publishing.codec import read_table, restored
from xds.publishing.edits import DeleteGroup, PutGroup, PutRules, UnknownGroupError, UpdateRules
from xds.publishing.plan import operations_of
from xds.publishing.publisher import Publisher
from xds.registry.known_nodes import KnownNode, KnownNodes
from xds.routing.answer import Answer
from xds.routing.evaluate import find_way
from xds.routing.request import Request
from xds.routing.resources import Resources
from xds.schema.notices import Notices
from xds.schema.pool import load_schema
from xds.schema.restore import labelled
from xds.schema.warnings import warnings_of
from xds.schema.wire import is_content_hash
from xds.store.entries import EntrySummary, Key, State, Stored, must_be_kept, summary_of
from xds.store.errors import (
    EpochChangedError,
    NoBackupError,
    NotYetError,
    OutcomeUnknownError,
    StoreError,
    UnavailableError,
)

HISTORY_MAX = 1_000
VERSION_CHARACTERS_MAX = 200
VERSIONS_NODES_MAX = 10_000
"""Nodes of each process whose Envoy versions are counted."""
VERSIONS_KEPT_S = 10.0
"""How long the counts are used, as counting visits every node."""
WARNINGS_MAX = 100
"""Warnings in the answer to one change."""
COPY_SUFFIX = ".copy"
"""The end of the name of a copy of the store that is being sent."""
GROUPS_SHOWN_MAX = 3
WATCH_PAGE = 100
WATCH_BYTES = 1024 * 1024
"""Changes, and bytes of several of them, that a watch reads at a time: the most that it holds for a slow reader."""
TIMES_KEPT_MAX = 1_000
"""Revisions of which it is remembered when they were made."""
TIMES_PAGE = 100
TIMES_READS_MAX = 20
"""How often the history is read to answer one question for when revisions were made."""
OVER_S_MAX = 86_400
"""The longest time over which connections are moved."""


class CantMoveError(Exception):
    """This transport can't move connections."""

    def __init__(self) -> None:
        super().__init__(
            "transport.kind=grpcio can't move connections: set connections.age_max_s, or use the native one"
        )


class UnknownResourceError(Exception):
    """The group has no such resource at that revision."""


class UnknownNodeError(Exception):
    """No stream of a node with that id is open."""


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """A group's own resources at a revision, by type and name."""

    revision: int
    resources: tuple[Resource, ...]
    changed_at: int
    """The revision at which the group last changed, or ``revision`` for a former one."""

    @property
    def size_bytes(self) -> int:
        """The total size of the encoded resources; of very many an estimate."""
        return size_of(self.resources, lambda each: len(each.encoded))


@dataclass(frozen=True, slots=True)
class ResourceDifference:
    """One resource that differs between two revisions; None where it does not exist."""

    key: Key
    before: Resource | None
    after: Resource | None

    @property
    def change(self) -> str:
        """What was done with it: ``added``, ``changed`` or ``removed``."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def size_bytes(self) -> int:
        """The encoded size of both."""
        return sum(len(each.encoded) for each in (self.before, self.after) if each is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group: what it extends, whether it comes from a directory, and the number of its own resources by type."""

    name: str
    extends: str | None
    kept: bool
    resources: dict[str, int]
    revision: int
    """The revision at which the group last changed, or a later one after a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionAnswer:
    """A change in full: every resource before and after it, and the groups and rules, None if it left them."""

    summary: EntrySummary
    differences: list[ResourceDifference]
    rules_before: GroupTable | None
    rules_after: GroupTable | None
    created: frozenset[str] = frozenset()
    """The groups with changed resources that did not exist before."""

    @property
    def size_bytes(self) -> int:
        """The encoded size of all resources; of very many an estimate."""
        return size_of(self.differences, lambda each: each.size_bytes)


SIZED_MAX = 1_000
"""Items whose sizes are added up; the size of more is estimated by those."""
ITEM_BYTES = 64
"""Bytes whose reading costs as much as sorting and listing a resource."""
I = TypeVar("I")  # noqa: E741


def size_of(items: Sequence[I], size_bytes: Callable[[I], int]) -> int:
    """Return the total size of items; of more than ``SIZED_MAX`` an estimate, and more than what is done at once."""
    size = sum(map(size_bytes, items[:SIZED_MAX]))
    return size if len(items) <= SIZED_MAX else max(size * len(items) // SIZED_MAX, LARGE_BYTES + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopy:
    """A copy of the store's file."""

    revision: int
    size_bytes: int
    store: Path
    """The store that was copied."""
    copy: Path


class Operations:
    """The push API's operations on one control plane: its publisher, its resources and its nodes."""

    def __init__(
        self,
        publisher: Publisher,
        catalog: Catalog,
        *,
        nodes: Callable[[NodesQuery], Awaitable[NodesFound]],
        debts: Callable[[], Awaitable[Debts]],
        status: Callable[[], Awaitable[ServerStatus]],
        inspect: Callable[[InspectQuery], Awaitable[Inspection]],
        holders: Callable[[HoldersQuery], Awaitable[Holders]],
        rebalance: Callable[[float, float], Awaitable[int]],
        on_rejected: Callable[[], None] = lambda: None,
        notices: Notices | None = None,
        known: KnownNodes | None = None,
    ) -> None:
        """``notices``: what is warned of in the resources of a change; None: nothing. ``known``: the nodes seen."""
        self._known = KnownNodes() if known is None else known
        self._publisher = publisher
        self._catalog = catalog
        self._nodes = nodes
        self._debts = debts
        self._status = status
        self._inspect = inspect
        self._holders = holders
        self._made_at_ms: dict[int, int] = {}
        self._rebalance = rebalance
        self._on_rejected = on_rejected
        self._notices = notices
        self._versions: dict[str, Counter[str]] = {}
        self._versions_until_s = 0.0
        self._backing_up = asyncio.Lock()
        self._routing = asyncio.Lock()

    # --- Changes -----------------------------------------------------------------------------------------------------

    async def publish(self, change: Change, *, version: str = "") -> Published:
        """Make a change; ``version`` labels the resources it sets. Raises the errors of ``Publisher.publish``."""
        if version:
            if wrong := _label_problem(version):
                raise ChangesetRejectedError([Problem(what=wrong, field="version")])
            upserts = {g: tuple(labelled(each, version) for each in all_) for g, all_ in change.upserts.items()}
            change = replace(change, upserts=upserts)
        try:
            published = await self._publisher.publish(change)
        except ChangesetRejectedError:
            self._on_rejected()
            raise
        warnings = await self._warnings(change, published)
        return replace(published, warnings=(*published.warnings, *warnings)) if warnings else published

    async def _warnings(self, change: Change, published: Published) -> tuple[Problem, ...]:
        """Return the warnings about the resources that a change added or changed."""
        notices = self._notices
        if notices is None or not change.upserts:
            return ()
        changed = set(published.changed)
        resources = {
            group: [each for each in upserts if Key(group, each.type_url, each.name) in changed]
            for group, upserts in change.upserts.items()
        }
        nodes = await self._versions_by_group() if notices.versions else {}

        def find() -> tuple[Problem, ...]:
            found: list[Problem] = []
            for group, upserts in resources.items():
                found += islice(warnings_of(upserts, notices, group=group, nodes=nodes.get(group, {})), WARNINGS_MAX)
            return tuple(found[:WARNINGS_MAX])

        return await run_in_thread(sum(len(each.encoded) for all_ in resources.values() for each in all_), find)

    async def _versions_by_group(self) -> dict[str, Counter[str]]:
        """Return the connected nodes' number by group whose resources they get, and by the version of their Envoy."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._versions_until_s:
            return self._versions
        found: dict[str, Counter[str]] = {}
        try:
            nodes = (await self._nodes(NodesQuery(limit=VERSIONS_NODES_MAX))).nodes
        except StreamRefusedError:
            return {}  # no worker answers; the change was made all the same
        for node in nodes:
            name, _, version = node.node.user_agent.partition(" ")
            if name == "envoy" and version:
                for group in lineage_of(self._catalog.table, node.group):
                    found.setdefault(group, Counter())[version] += 1
        self._versions, self._versions_until_s = found, now_s + VERSIONS_KEPT_S
        return found

    async def push_endpoints(
        self, group: str, endpoints: tuple[Resource, ...], *, author: str = ""
    ) -> "asyncio.Future[Published]":
        """Queue assignments, merged with those of the author that wait, and return the future of their outcome.

        Raises ChangesetRejectedError.
        """
        wrong = [each for each in endpoints if each.type_url != ENDPOINTS]
        if wrong:
            label = f"{short_name(wrong[0].type_url)}/{wrong[0].name}"
            what = "only endpoints are pushed this way"
            raise ChangesetRejectedError([Problem(what=what, group=group, resource=label)])
        latest = {each.name: each for each in endpoints}
        change = Change(upserts={group: tuple(latest.values())}, author=author, mergeable=True)
        return await self._publisher.submit(change)

    async def reached(self, revision: int) -> None:
        """Return once every process serves a revision that was made, or after a second; see ``Publisher.reached``."""
        await self._publisher.reached(revision)

    async def restoring(self, group: str, to: int, like: Change) -> Change:
        """Return the change that restores a group's state of a former revision. ``like`` has author, message and id.

        The former state never changes; what differs from it is computed on the newest state when the change is made.
        Raises OutcomeUnknownError if the former state can't be read any more and a change with the id was made.
        """
        try:
            snapshot = await self._snapshot_to_restore(group, to)
        except StoreError as error:
            if like.id and await self._known_revision(like.id) is not None:
                raise OutcomeUnknownError(like.id, str(error)) from error
            raise
        return replace(like, upserts={group: snapshot.resources}, replace=(group,))

    async def _snapshot_to_restore(self, group: str, to: int) -> SnapshotAnswer:
        try:
            return await self.snapshot(group, to)
        except NotYetError:
            await self._publisher.reach_newest()
            return await self.snapshot(group, to)

    async def put_group(self, group: str, extends: str | None, like: Change) -> Published:
        """Create a group, or change the group it extends. Raises UnknownGroupError too."""
        return await self.publish(replace(like, edit=PutGroup(group, extends)))

    async def delete_group(self, group: str, like: Change) -> Published:
        """Remove a group and its resources. Raises UnknownGroupError, and ChangesetRejectedError while it is in use."""
        return await self.publish(replace(like, edit=DeleteGroup(group)))

    async def edit_rules(self, rules: PutRules | UpdateRules, like: Change) -> Published:
        """Replace the rules and the group inheritance, or parts of them; existing groups stay."""
        return await self.publish(replace(like, edit=rules))

    # --- Reading -----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The revision that is served."""
        return self._publisher.revision

    def group_revision(self, name: str) -> int:
        """Return the revision at which a group, or ``RULES``, last changed, or a later one after a restart."""
        return self._publisher.group_revision(name)

    @property
    def epoch(self) -> str:
        """The name of the log that revisions belong to: a restore from a backup changes it."""
        return self._publisher.store.epoch

    @property
    def stale_because(self) -> str:
        """Why the store can't be followed at present, "" if it can."""
        return self._publisher.stale_because or self._publisher.store.away

    @property
    def table(self) -> GroupTable:
        """The groups and rules in force."""
        return self._catalog.table

    @property
    def group_names(self) -> Collection[str]:
        """The groups that are served."""
        return self._catalog.snapshots.keys()

    async def snapshot(self, group: str, revision: int | None = None, type_url: str | None = None) -> SnapshotAnswer:
        """Return a group's own resources. Raises UnknownGroupError, CompactedError and NotYetError."""
        return await self.listed(group, revision, type_url)

    async def listed(
        self, group: str, revision: int | None = None, type_url: str | None = None, *, prefix: str = "", limit: int = 0
    ) -> SnapshotAnswer:
        """Return a group's own resources whose names begin with ``prefix``, at most ``limit`` unless 0; see above."""
        if revision is None or revision == self.revision:
            self._must_be_known(group)
            at, changed_at, own_now = self.revision, self.group_revision(group), self._catalog.own_by_type(group)
            count = sum(map(len, own_now.values()))
            found = await run_in_thread(count * ITEM_BYTES, lambda: _chosen(own_now, type_url, prefix, limit))
            return SnapshotAnswer(at, found, changed_at)
        if revision < 0:
            raise NotYetError(revision, self.revision)
        state = await self._publisher.store.state(revision)
        size_bytes = ITEM_BYTES * len(state.resources)
        then = await run_in_thread(size_bytes, lambda: _chosen_then(state, group, type_url, prefix, limit))
        if then is None:
            raise UnknownGroupError(group, self._catalog.snapshots, revision=revision)
        return SnapshotAnswer(revision, then, revision)

    async def resource(self, group: str, type_url: str, name: str, revision: int | None = None) -> Resource:
        """Return one of a group's own resources. Raises UnknownResourceError too."""
        found: Resource | None
        if revision is None:
            self._must_be_known(group)
            found = self._catalog.own_resource(group, type_url, canonical(name))
        else:
            snapshot = await self.listed(group, revision, type_url, prefix=canonical(name), limit=1)
            found = next((each for each in snapshot.resources if each.name == canonical(name)), None)
        if found is None:
            raise UnknownResourceError(self._no_resource(group, type_url, name))
        return found

    def _no_resource(self, group: str, type_url: str, name: str) -> str:
        """Return a message that says where the resource is, if the group inherits it, or suggests similar names."""
        text = f"the group {group!r} has no {name!r} among its own {short_name(type_url)}"
        for base in lineage_of(self._catalog.table, group)[1:]:
            if self._catalog.own_resource(base, type_url, name) is not None:
                return f"{text}: it is in {base!r}, which the group extends"
        close = closest(name, self._catalog.own_names(group, type_url), count=2)
        return f"{text}: did you mean {' or '.join(map(repr, close))}?" if close else text

    async def diff(self, group: str, before: int, after: int | None = None) -> list[ResourceDifference]:
        """Return the differences between two revisions of a group, by type and name."""
        old, new = await self.snapshot(group, before), await self.snapshot(group, after)
        count = len(old.resources) + len(new.resources)
        return await run_in_thread(count * ITEM_BYTES, lambda: _differences(group, old.resources, new.resources))

    async def route(
        self, group: str, request: Request, revision: int | None, must_read: Callable[[Iterable[str]], None]
    ) -> tuple[int, Answer]:
        """Return which way a request takes through the resources that a group's nodes see, and at which revision.

        ``must_read`` is called with the group and those that it extends. Raises UnknownGroupError, CompactedError and
        NotYetError.
        """
        if revision is None or revision == self.revision:
            self._must_be_known(group)
            must_read(lineage_of(self._catalog.table, group))
            revision, seen = self.revision, partial(Resources.seen, load_schema(), self._catalog.snapshots[group])
        else:
            await self.snapshot(group, revision, "")  # raises where there is none
            state = await self._publisher.store.state(revision)
            lineage = lineage_of(read_table(state.groups, f"revision {revision}"), group)
            must_read(lineage)
            seen = partial(seen_then, state.resources, lineage, f"revision {revision}")
        async with self._routing:
            return revision, await asyncio.to_thread(lambda: find_way(seen(), request))

    async def history(self, *, limit: int, before: int | None = None, group: str = "") -> list[EntrySummary]:
        """Return at most ``limit`` changes, newest first: those before a revision, or the newest.

        With a ``group``, only the changes of its own resources. Raises UnknownGroupError if it neither exists nor has
        changes.
        """
        oldest, newest = await self._publisher.store.kept()
        until = newest if before is None else min(newest, before - 1)
        found: list[EntrySummary] = []
        while until > oldest and len(found) < limit:
            after = max(oldest, until - (HISTORY_MAX if group else limit))
            page = await self._publisher.store.summaries(after, until - after)
            found += [
                summary
                for summary in reversed(page)
                if not group or any(each.group == group for each in summary.groups)
            ]
            until = after
        if group and not found:
            self._must_be_known(group)
        return found[:limit]

    async def show(self, revision: int) -> RevisionAnswer:
        """Return a change in full. Raises CompactedError and NotYetError."""
        store = self._publisher.store
        oldest, newest = await store.kept()
        must_be_kept(revision, oldest=oldest + 1, newest=newest)
        (stored,) = await store.entries(revision - 1, 1)
        before = await store.state(revision - 1)
        size_bytes = stored.entry.size_bytes + ITEM_BYTES * (len(stored.entry.operations) + len(before.resources))
        return await run_in_thread(size_bytes, lambda: _revision_answer(stored, before))

    async def find(self, entry_id: str) -> int | None:
        """Return the revision of the change with that id, None if there is no such change.

        None is returned only once this replica has read all of the store: another replica may have made the change.
        Raises StoreError.
        """
        revision = await self._known_revision(entry_id)
        if revision is None:
            await self._publisher.reach_newest()
            revision = await self._known_revision(entry_id)
        return revision

    async def _known_revision(self, entry_id: str) -> int | None:
        found = await self._publisher.store.find([entry_id])
        return found[entry_id].revision if entry_id in found else None

    async def must_be_kept(self, after: int) -> None:
        """Raise CompactedError or NotYetError if a watch can't begin after that revision."""
        oldest, newest = await self._publisher.store.kept()
        must_be_kept(after, oldest=oldest, newest=newest)

    async def watch(self, after: int, *, values: bool = True) -> AsyncIterator[list[Stored]]:
        """Yield every change after a revision, in order, without end: as many at once as there are, up to a page.

        Without ``values`` the resources of a change are empty. A change is told once it is served. Raises
        CompactedError, EpochChangedError and UnavailableError.
        """
        publisher, epoch = self._publisher, self.epoch
        while True:
            while publisher.revision <= after and self.epoch == epoch:
                if not await publisher.next_move():
                    return
            if self.epoch != epoch:
                raise EpochChangedError
            try:
                page = await self._page_after(after)
            except UnavailableError:
                if publisher.is_stopping:
                    return
                raise
            if page:
                after = page[-1].revision
                if not values:
                    page = [each.without_values() for each in page]
                yield page
            elif not await publisher.next_move():
                return

    async def _page_after(self, after: int) -> list[Stored]:
        """Return the changes after a revision that have ``WATCH_BYTES`` together, at least one if there is one."""
        store, left = self._publisher.store, WATCH_BYTES
        limit = min(WATCH_PAGE, self._publisher.revision - after)
        if limit > 1:
            for at, summary in enumerate(await store.summaries(after, limit)):
                left -= summary.size_bytes
                if left < 0:
                    limit = max(at, 1)
                    break
        return await store.entries(after, limit)

    def groups(self) -> list[GroupInfo]:
        """Return all groups by name."""
        return [self.group(name) for name in sorted(self._catalog.snapshots)]

    def group(self, name: str) -> GroupInfo:
        """Return one group. Raises UnknownGroupError."""
        self._must_be_known(name)
        table = self._catalog.table
        own = self._catalog.own_by_type(name)
        counts = {type_url: len(own[type_url]) for type_url in sorted(own) if own[type_url]}
        return GroupInfo(
            name=name,
            extends=table.extends.get(name),
            kept=name in table.kept,
            resources=counts,
            revision=self.group_revision(name),
        )

    @asynccontextmanager
    async def backup(self) -> AsyncIterator[StoreCopy]:
        """Copy the store's file beside it; the copy is deleted at the end. One at a time. Raises StoreError."""
        store = self._publisher.store
        if (path := store.path) is None:
            raise NoBackupError
        async with self._backing_up:
            await asyncio.to_thread(_remove_copies, path)
            copy = path.with_name(f"{path.name}.{os.getpid()}{COPY_SUFFIX}")
            try:
                revision = await store.backup(copy)
                size_bytes = (await asyncio.to_thread(copy.stat)).st_size
                whole = await asyncio.to_thread(path.resolve)
                yield StoreCopy(revision=revision, size_bytes=size_bytes, store=whole, copy=copy)
            finally:
                await asyncio.shield(asyncio.to_thread(_remove_copies, path))

    async def status(self, sees: Callable[[str], bool] | None = None) -> FleetStatus:
        """Return how the fleet stands; with ``sees``, only of the groups that it returns true for."""
        server = await self._status()
        try:
            debts = await self._debts()
        except StreamRefusedError:  # no worker answers
            debts = Debts(revision=self.revision, by_group={}, missing_workers=server.workers.silent)
        groups = {name: snapshot.revision for name, snapshot in self._catalog.snapshots.items()}
        if sees is not None:
            groups = {name: revision for name, revision in groups.items() if sees(name)}
            server = replace(server, gone={name: count for name, count in server.gone.items() if sees(name)})
        return FleetStatus(
            server=server,
            revision=self.revision,
            epoch=self.epoch,
            groups=await group_statuses(debts, server.gone, groups, revision=self.revision, at_ms=self._times_of),
            missing_workers=debts.missing_workers,
            missing_replicas=debts.missing_replicas,
        )

    async def _times_of(self, revisions: Iterable[int]) -> Mapping[int, int]:
        """Return when revisions were made, in Unix milliseconds, of those that are in the history."""
        known = self._made_at_ms
        wanted = set(revisions)
        lacking = sorted(wanted - known.keys())
        for _ in range(TIMES_READS_MAX):
            if not lacking:
                break
            try:
                summaries = await self._publisher.store.summaries(lacking[0] - 1, TIMES_PAGE)
            except StoreError:  # it is not kept any more, or the store is away
                lacking = lacking[1:]
                continue
            known.update((summary.revision, summary.at_ms) for summary in summaries if summary.revision in wanted)
            lacking = [each for each in lacking[1:] if each not in known]
        while len(known) > TIMES_KEPT_MAX:
            del known[next(iter(known))]
        return {each: known[each] for each in wanted if each in known}

    async def nodes(self, query: NodesQuery) -> NodesFound:
        """Return the progress of the nodes that match a query, from the workers that answer.

        Raises StreamRefusedError if none does, and UnknownGroupError.
        """
        if query.group is not None:
            self._must_be_known(query.group)
        return await self._nodes(query)

    async def node(self, node_id: str) -> NodesFound:
        """Return the progress of one node: an entry for each of its connections, or one if it is gone.

        Raises UnknownNodeError, and StreamRefusedError if a worker that did not answer may have the node.
        """
        found = await self._nodes(NodesQuery(id=node_id, known=True))
        if not found.nodes and (missing := _missing(found)):
            text = f"{missing} did not answer, and may have the node {node_id!r}"
            raise StreamRefusedError(Status.UNAVAILABLE, text)
        if not found.nodes:
            raise UnknownNodeError(f"no node {node_id!r} is connected, and none left lately")
        return found

    async def debts(self) -> Debts:
        """Return what the connected nodes owe, by group. Raises StreamRefusedError if no worker answers."""
        return await self._debts()

    async def holders(self, group: str, type_url: str, name: str) -> Holders:
        """Return which clients have which version of a group's resource: those of the group and of what extends it.

        Raises StreamRefusedError if no worker answers.
        """
        table = self._catalog.table
        groups = tuple(each for each in self._catalog.snapshots if group in lineage_of(table, each))
        return await self._holders(HoldersQuery(type_url=type_url, name=name, groups=groups))

    def inherited(self, group: str, sees: Callable[[str], bool]) -> Inherited:
        """Say which resources of a group's nodes are told to who may read the groups that ``sees`` returns true for."""
        return Inherited(self._catalog, group, sees)

    async def seen_client(self, client: InspectedClient, sees: Callable[[str], bool]) -> InspectedClient:
        """Return a connection with the resources of the groups that ``sees`` returns true for."""
        group, revision = client.summary.group, client.summary.accepted_revision
        inherited = self.inherited(group, sees)
        if not inherited.hides:
            return client
        if inherited.needs_before(client):
            with suppress(StoreError):  # it is not kept any more: what nobody has now is not told
                before = (await self._publisher.store.state(revision)).resources
                inherited = Inherited(self._catalog, group, sees, before, revision)
        return inherited.client(client)

    def seen_node(self, node: NodeSummary, sees: Callable[[str], bool]) -> NodeSummary:
        """Return a node with what it rejected of the groups that ``sees`` returns true for."""
        inherited = self.inherited(node.group, sees)
        return inherited.summary(node) if inherited.hides else node

    def seen_problems(
        self, problems: Iterable[Problem], sees: Callable[[str], bool], change: Change
    ) -> tuple[Problem, ...]:
        """Return the problems of a change that are told to who reads the groups that ``sees`` returns true for."""
        asked = cache(lambda: operations_of(change, self._catalog))
        shown = (self._seen_problem(each, sees, asked) for each in problems)
        return tuple(each for each in shown if each is not None)

    def _seen_problem(
        self, problem: Problem, sees: Callable[[str], bool], asked: Callable[[], dict[Key, Resource | None]]
    ) -> Problem | None:
        if not problem.group:
            return problem
        if not sees(problem.group):
            return None
        inherited = self.inherited(problem.group, sees)
        return inherited.problem(problem, asked) if inherited.hides else problem

    def seen_nacks(self, nacks: Iterable[NackSeen], sees: Callable[[str], bool]) -> tuple[NackSeen, ...]:
        """Return NACKs of nodes of the groups that ``sees`` returns true for, as far as they are about these."""
        found = ((self.inherited(each.group, sees), each) for each in nacks if sees(each.group))
        return tuple(inherited.nack(each) if inherited.hides else each for inherited, each in found)

    async def inspect(self, query: InspectQuery) -> Inspection:
        """Return the connections of a node, each with its resources, or with those that differ; and its NACKs.

        No connections if it is gone. Raises UnknownNodeError, and StreamRefusedError as ``node`` does, or if only a
        replica or worker that did not answer can tell.
        """
        found = await self._inspect(query)
        if not found.clients:
            _must_be_gone((await self.node(query.id)).nodes, found)
        if not query.differs:
            return found
        return replace(found, clients=tuple([await self._with_bodies(each) for each in found.clients]))

    async def _with_bodies(self, client: InspectedClient) -> InspectedClient:
        """Find in the history what a client has and its process no longer does, as after a NACK."""
        lacking = [each for each in client.differences if each.has is None and each.has_version]
        if not lacking:
            return client
        revision = client.summary.accepted_revision
        try:
            state = await self._publisher.store.state(revision)
        except StoreError:  # it is not kept any more: the version alone is told
            return client
        groups = lineage_of(self._catalog.table, client.summary.group)

        def former(held: Held) -> Held:
            for group in groups:
                key = Key(group, held.type_url, held.name)
                found = _restored(key, state.resources.get(key), revision)
                if found is not None and found.version == held.has_version:
                    return replace(held, has=found)
            return held

        return replace(
            client, differences=tuple(former(each) if each in lacking else each for each in client.differences)
        )

    async def explain(
        self, node_id: str, type_url: str, name: str, sees: Callable[[str], bool] | None = None
    ) -> list[Explanation]:
        """Return why a node has a resource, or not, for each of its connections; one if it has none.

        With ``sees``, nothing is said of nodes of groups, and of groups, for which it returns false.
        """
        name = canonical(name)
        found = await self._nodes(NodesQuery(id=node_id, known=True))
        inspection = await self._inspect(InspectQuery(id=node_id, type_url=type_url, name=name))
        facts = Facts(
            node_id=node_id,
            type_url=type_url,
            name=name,
            nacks=inspection.nacks if sees is None else self.seen_nacks(inspection.nacks, sees),
            missing=(*found.missing_workers, *_missing_replicas(found, sees)),
        )
        clients = [each for each in inspection.clients if sees is None or sees(each.summary.group)]
        told = [
            explain(self._facts(await self._facts_of(facts, client, sees), client.summary, sees)) for client in clients
        ]
        gone = [each for each in found.nodes if each.state is NodeState.GONE and (sees is None or sees(each.group))]
        if told:
            return told
        _must_be_gone(tuple(each for each in found.nodes if sees is None or sees(each.group)), inspection)
        return [explain(self._facts(replace(facts, left=_left(gone[0])), gone[0], sees) if gone else facts)]

    async def _facts_of(self, facts: Facts, client: InspectedClient, sees: Callable[[str], bool] | None) -> Facts:
        """Add what a connection says; only whether it subscribes, if the resource is of a group that is not seen."""
        seen = client if sees is None else await self.seen_client(client, sees)
        return replace(
            facts,
            summary=client.summary,
            gets_secrets=client.gets_secrets,
            standing=(seen if seen.standings else client).standings[0] if client.standings else None,
            hides_versions=bool(client.standings) and not seen.standings,
        )

    def _facts(self, facts: Facts, node: NodeSummary, sees: Callable[[str], bool] | None) -> Facts:
        """Add what the rules and the groups say."""
        catalog, type_url, name = self._catalog, facts.type_url, facts.name
        placement = catalog.place(node.node)
        group = placement.group or node.group
        lineage = lineage_of(catalog.table, group) if group in catalog.snapshots else (group,)
        owners = {each: catalog.own_resource(each, type_url, name) for each in catalog.snapshots}
        shown = {each: each if sees is None or sees(each) else HIDDEN_GROUP for each in (*lineage, group)}
        others = [each for each in owners if owners[each] and each not in lineage and (sees is None or sees(each))]
        return replace(
            facts,
            table=catalog.table,
            node=node.node,
            placement=placement if placement.group is None else placement._replace(group=shown[group]),
            is_hidden=shown[group] == HIDDEN_GROUP,
            lineage=tuple(shown[each] for each in lineage),
            versions={shown[each]: own.version for each in reversed(lineage) if (own := owners.get(each)) is not None},
            elsewhere=tuple(others[:GROUPS_SHOWN_MAX]),
            wanted_at=catalog.snapshots[group].view(type_url).changed_at(name) if group in catalog.snapshots else 0,
        )

    async def converge(
        self, goal: Goal, timeout_s: float, sees: Callable[[str], bool] | None = None
    ) -> AsyncIterator[Convergence]:
        """Yield how many nodes have accepted a revision, until enough have; see ``watch_convergence``.

        With ``sees``, only the nodes of the groups that it returns true for are counted and named. Raises
        ChangesetRejectedError, UnknownGroupError, and StreamRefusedError if no worker answers.
        """
        goal.check(timeout_s)
        if goal.group is not None:
            self._must_be_known(goal.group)

        async def debts() -> Debts:
            found = await self._debts()
            return found if sees is None else found.of(sees)

        async def nodes(query: NodesQuery) -> NodesFound:
            if sees is None:
                return await self._nodes(query)
            found = await self._nodes(replace(query, limit=NODES_MAX))
            return replace(found, nodes=tuple(self.seen_node(each, sees) for each in found.nodes if sees(each.group)))

        def gone(group: str | None) -> Iterator[KnownNode]:
            return (each for each in self._known.gone(group) if sees is None or sees(each.group))

        async for found in watch_convergence(debts, goal, timeout_s=timeout_s, nodes=nodes, gone=gone):
            yield found

    @property
    def gone_changes(self) -> Mapping[str, int]:
        """See ``KnownNodes``."""
        return self._known.gone_changes

    async def rebalance(self, share: float, over_s: float) -> int:
        """End a share of the xDS connections at random times within ``over_s``; return how many will end.

        Raises ChangesetRejectedError for a wrong share or time, CantMoveError on a transport that can't do it, and
        StreamRefusedError if no worker answers.
        """
        problems = []
        if not 0 < share <= 1:
            hint = "of two replicas the new one is to get a half: 0.5"
            problems.append(Problem(what=f"{share:g} is not more than 0 and at most 1", hint=hint, field="share"))
        if not 0 <= over_s <= OVER_S_MAX:
            problems.append(Problem(what=f"{over_s:g} is not a time up to {OVER_S_MAX:,} s", field="over_s"))
        if problems:
            raise ChangesetRejectedError(problems)
        return await self._rebalance(share, over_s)

    def _must_be_known(self, group: str) -> None:
        if group not in self._catalog.snapshots:
            raise UnknownGroupError(group, self._catalog.snapshots)


def _must_be_gone(nodes: tuple[NodeSummary, ...], found: Inspection) -> None:
    """Raise StreamRefusedError if a node is connected, although no connection of it was found."""
    for each in nodes:
        if each.connected_s is not None:
            missing = _missing(found)
            where = f"{missing} did not answer" if missing else "its connection ended or moved meanwhile; ask again"
            raise StreamRefusedError(Status.UNAVAILABLE, f"the node {each.node.id!r} is connected, but {where}")


def _missing_replicas(found: NodesFound, sees: Callable[[str], bool] | None) -> Iterable[str]:
    return found.missing_replicas if sees is None else map(name_of_missing, found.missing_replicas)


def _missing(found: NodesFound | Inspection) -> str:
    """Return who did not answer. Why not is told with the status."""
    return ", ".join((*found.missing_workers, *map(name_of_missing, found.missing_replicas)))


def _left(node: NodeSummary) -> str:
    return f"it left at {time_text(node.last_seen_ms)}{f', {node.left_because}' if node.left_because else ''}"


def time_text(at_ms: int) -> str:
    """Return a time as ``2026-11-29 17:00:00Z``."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _remove_copies(path: Path) -> None:
    """Delete the copies of a store, also those that a killed server left."""
    for copy in path.parent.glob(f"{escape(path.name)}.*{COPY_SUFFIX}"):
        with suppress(OSError):
            copy.unlink()


def _label_problem(version: str) -> str:
    if len(version) > VERSION_CHARACTERS_MAX:
        return f"has {len(version)} characters, more than the {VERSION_CHARACTERS_MAX} allowed"
    if not (version.isascii() and version.isprintable()) or version != version.strip():
        return "must be printable ASCII with no space around it, as it goes into headers"
    return "reads like a content hash: 16 hexadecimal digits" if is_content_hash(version) else ""


def _without_group(groups: set[str], state: State, place: str) -> frozenset[str]:
    """Return those of some groups that a state does not have."""
    if absent := groups - {DEFAULT_GROUP, *read_table(state.groups, place).names}:
        absent -= {key.group for key in state.resources if key.group in absent}
    return frozenset(absent)


def _chosen(
    own: Mapping[str, Mapping[str, Resource]], type_url: str | None, prefix: str, limit: int
) -> tuple[Resource, ...]:
    """Return resources of a type, or of all, by type and name; at most ``limit`` unless 0."""
    chosen: list[Resource] = []
    for each in sorted(own) if type_url is None else [type_url] if type_url in own else []:
        names = sorted(name for name in own[each] if name.startswith(prefix))
        chosen += (own[each][name] for name in names[: limit - len(chosen) if limit else None])
        if limit and len(chosen) == limit:
            break
    return tuple(chosen)


def _chosen_then(
    state: State, group: str, type_url: str | None, prefix: str, limit: int
) -> tuple[Resource, ...] | None:
    """Return the resources that a group had; see ``_chosen``. None if there was no such group."""
    own = [key for key in state.resources if key.group == group]
    place = f"revision {state.revision}"
    if not own and group != DEFAULT_GROUP and group not in read_table(state.groups, place).names:
        return None
    chosen = _in_order(key for key in own if type_url in (None, key.type_url) and key.name.startswith(prefix))
    return tuple(restored(key, state.resources[key], place) for key in islice(chosen, limit or None))


def _in_order(keys: Iterable[Key]) -> Iterator[Key]:
    """Yield keys sorted. A sort of very many tuples at once would hold the interpreter's lock for much longer."""
    names: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        names.setdefault((key.group, key.type_url), []).append(key.name)
    for group, type_url in sorted(names):
        for name in sorted(names[group, type_url]):
            yield Key(group, type_url, name)


def _differences(group: str, old: Iterable[Resource], new: Iterable[Resource]) -> list[ResourceDifference]:
    pairs: dict[Key, list[Resource | None]] = {Key(group, each.type_url, each.name): [each, None] for each in old}
    for each in new:
        pair = pairs.setdefault(Key(group, each.type_url, each.name), [None, None])
        pair[1] = each
    differing = {key: (a, b) for key, (a, b) in pairs.items() if (a and a.version) != (b and b.version)}
    return [ResourceDifference(key, *differing[key]) for key in _in_order(differing)]


def _revision_answer(stored: Stored, before: State) -> RevisionAnswer:
    """Return a change in full, with the state before it."""
    entry, revision, olds = stored.entry, stored.revision, before.resources
    is_edit, place = entry.groups is not None, f"revision {revision}"
    return RevisionAnswer(
        summary=summary_of(stored),
        differences=[
            ResourceDifference(
                key, _restored(key, olds.get(key), revision - 1), _restored(key, entry.operations[key], revision)
            )
            for key in _in_order(entry.operations)
        ],
        rules_before=read_table(before.groups, place) if is_edit else None,
        rules_after=read_table(entry.groups, place) if is_edit else None,
        created=_without_group({key.group for key in entry.operations}, before, place),
    )


def _restored(key: Key, encoded: bytes | None, revision: int) -> Resource | None:
    return None if encoded is None else restored(key, encoded, f"revision {revision}")
