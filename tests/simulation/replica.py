"""A replica of the control plane: the product's store and publisher in a simulated process, and the hubs that it feeds.

With workers the hubs are in processes of their own, as the product's are. A replica can crash, be stopped, freeze and
have wrong clocks; all of them follow one log.
"""

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING

from simulation import content
from simulation.content import Content, Key
from simulation.ledger import Write
from simulation.process import Process

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.process.background import Background
from xds.protocol.node_history import DrainingNodes, HistoryEntry, NackedNames
from xds.publishing.publisher import Publisher
from xds.publishing.retention import Retention
from xds.store.entries import Store
from xds.store.errors import ConflictError, IdReusedError, OutcomeUnknownError, StoreError, UnavailableError

if TYPE_CHECKING:
    from simulation.world import World

STOP_S = 60.0
"""The longest time in which a replica must stop."""
BEHIND_S = 120.0
"""The longest time for which a replica may be behind the store without saying so."""
NODES_MAX, BYTES_MAX = 10_000, 64 * 1024 * 1024


def _nacked_names() -> NackedNames:
    return NackedNames(nodes_max=NODES_MAX, bytes_max=BYTES_MAX)


def _draining_nodes() -> DrainingNodes:
    return DrainingNodes(nodes_max=NODES_MAX, bytes_max=BYTES_MAX)


class Replica:
    """One replica. ``slots``: the numbers of its hubs."""

    def __init__(self, world: "World", number: int, slots: tuple[int, ...], *, workers: bool, chance: Random) -> None:
        self.world, self.number, self.slots, self.workers, self.chance = world, number, slots, workers, chance
        self.name = f"replica {number}"
        self.process: Process | None = None
        self.store: Store | None = None
        self.publisher: Publisher | None = None
        self.states: dict[str, Mapping[Key, Content]] = {}
        self.groups: dict[str, str] = {}
        self.revision = -1
        self.up_since = 0.0
        self.stopping = False
        self.writes: list[Write] = []
        """The writes that it has not answered; one that was sent twice is twice in it."""
        self._catalog = Catalog()
        self._background = Background()
        self._nacked, self._draining = _nacked_names(), _draining_nodes()
        self._incarnation = 0
        self._fed_at: dict[int, float] = {}

    def was_frozen(self, within_s: float) -> bool:
        """Say whether the process was frozen within the last seconds."""
        return self.process is not None and self.process.frozen_until > self.world.now - within_s

    @property
    def up(self) -> bool:
        """Whether it takes writes."""
        return self.publisher is not None and not self.stopping

    # --- Life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process."""
        if self.process is not None:
            return
        self._incarnation += 1
        self.stopping = False
        self.process = self.world.process(self.name)
        self.states, self.groups, self.revision = {}, {}, -1
        self._catalog, self._background = Catalog(), Background()
        self._nacked, self._draining = _nacked_names(), _draining_nodes()
        self.process.create_task(self._begin())

    async def _begin(self) -> None:
        assert self.process is not None
        try:
            store = await self.world.engine.open(self.number)
            publisher = Publisher(store, self._served(), self._serve, background=self._background)
            await publisher.start()
        except StoreError as error:
            self.world.say("-- %s can't start: %s", self.name, error)
            self.world.clock.later(2.0, self._again, self._incarnation)
            return
        self.store, self.publisher, self.up_since = store, publisher, self.world.now
        retention = Retention(
            store,
            most=self.world.plan.kept,
            longest_s=86_400.0,
            bytes_max=1 << 30,
            every_s=30.0,
            background=self._background,
        )
        await retention.__aenter__()
        if self.workers:
            for slot in self.slots:
                self.start_worker(slot)
        self.world.say("-- %s serves revision %s", self.name, self.revision)

    def _again(self, incarnation: int) -> None:
        if incarnation == self._incarnation and self.publisher is None:
            self.kill()
            self.start()

    def _served(self) -> Catalog:
        """Return the catalog that is served: that of the only hub, or one whose changes are sent to the workers."""
        if self.workers:
            return self._catalog
        return self.world.new_server(self.slots[0], process=self.process).catalog

    def start_worker(self, slot: int) -> None:
        """Start a worker that has the present state."""
        if self.publisher is None:
            return
        catalog = Catalog(check_references=False)  # the replica has checked them
        catalog.resume(self._catalog.export(), self._catalog.revision)
        server = self.world.new_server(slot, catalog=catalog)
        server.published, server.groups = dict(self.states), dict(self.groups)
        for entry in (*self._nacked.entries(), *self._draining.entries()):
            server.hub.remember(entry)
        self._fed_at[slot] = self.world.now

    def remember(self, entry: HistoryEntry) -> None:
        """Keep what a worker knows of a node, for workers that start later."""
        if self.process is not None:
            self._nacked.remember(entry)
            self._draining.remember(entry)

    def kill(self) -> None:
        """End the process at once, with its workers. Its unanswered writes have an unknown outcome."""
        if self.process is None:
            return
        self.process.kill()
        self.process = self.store = self.publisher = None
        for slot in self.slots:
            self.world.lose_server(slot)
        self.world.engine.crashed()
        for write in list(self.writes):
            self.world.answer(self, write, OutcomeUnknownError(write.id, "the replica was killed"))

    def stop(self) -> None:
        """Stop as after SIGTERM."""
        if self.up:
            assert self.process is not None
            self.stopping = True
            self.process.create_task(self._stop(self._incarnation))
            self.world.clock.later(STOP_S, self._check_stopped, self._incarnation, self.process)

    async def _stop(self, incarnation: int) -> None:
        assert self.publisher is not None
        assert self.process is not None
        await self.publisher.stop()
        self.process.call_later(0.1, self._stopped, incarnation)

    def _stopped(self, incarnation: int) -> None:
        """End the process: its callers have their answers."""
        if incarnation == self._incarnation and self.process is not None:
            unanswered = sorted(write.id for write in self.writes)
            if unanswered:
                self.world.fail(f"{self.name} stopped and never answered {unanswered[0]}")
            self.world.say("-- %s has stopped", self.name)
            self.world.clock.later(0.0, self.kill)

    def _check_stopped(self, incarnation: int, process: Process) -> None:
        slack_s = process.frozen_until + STOP_S - self.world.now
        if process.is_closed() or incarnation != self._incarnation:
            return
        if process.frozen_until and slack_s > 0:
            self.world.clock.later(slack_s, self._check_stopped, incarnation, process)
            return
        self.world.fail(f"{self.name} does not stop within {STOP_S:g} s")

    # --- Serving -----------------------------------------------------------------------------------------------------

    def _serve(self, changeset: Changeset, revision: int) -> None:
        """Serve a revision of the store: ``Publisher`` calls it, which handles errors as those of the server."""
        try:
            self._take(changeset, revision)
        except Exception as error:
            self.world.fail(f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error))
            raise

    def _take(self, changeset: Changeset, revision: int) -> None:
        before = self.revision
        if self.revision >= 0 and not changeset.replace:
            assert revision == self.revision + 1, f"{self.name} serves {revision} after {self.revision}"
        assert revision > self.revision, f"{self.name} serves {revision} after {self.revision}"
        changed = self._apply(changeset)
        self.revision = revision
        self.world.say("   %s serves revision %s%s", self.name, revision, " as a whole" if changeset.replace else "")
        self.world.note_served(self)
        if not self.workers:
            server = self.world.servers[self.slots[0]]
            if revision == 0:
                return
            server.take(changeset, revision, changed, self.groups)
            return
        applied = self._catalog.apply(changeset, revision=revision)
        if applied.effect is None or before < 0:
            return
        for slot in self.slots:
            server = self.world.servers[slot]
            at = max(self._fed_at.get(slot, 0.0), self.world.now + self.chance.choice((0.0005, 0.005, 0.5)))
            self._fed_at[slot] = at
            self.world.clock.at(at, server.take, applied.effect, revision, changed, dict(self.groups))

    def _apply(self, changeset: Changeset) -> dict[str, Mapping[Key, Content]]:
        """Apply a changeset to the plain copy of the state, and return the snapshots that changed."""
        old = {} if changeset.replace else self.states
        touched = {
            *changeset.upserts,
            *changeset.removals,
            *changeset.gone,
            *(self.states if changeset.replace else ()),
        }
        changed: dict[str, Mapping[Key, Content]] = {}
        for group in sorted(touched):
            state = dict(old.get(group, {}))
            for key in changeset.removals.get(group, ()):
                state.pop((key[0], key[1]), None)
            for resource in changeset.upserts.get(group, ()):
                found = content.of(resource)
                state[found.key] = found
            changed[group] = {} if group in changeset.gone else state
        self.states = {**self.states, **changed}
        if changeset.groups is not None:
            self.groups = {rule.id.removesuffix("*"): rule.group for rule in changeset.groups.rules}
        return changed

    # --- Writes ------------------------------------------------------------------------------------------------------

    def write(self, write: Write) -> None:
        """Make a change as a client of this replica."""
        assert self.process is not None
        self.writes.append(write)
        self.process.create_task(self._write(write))

    async def _write(self, write: Write) -> None:
        assert self.publisher is not None
        try:
            published = await self.publisher.publish(write.change)
        except (StoreError, ConflictError, IdReusedError, UnavailableError) as error:
            self.world.answer(self, write, error)
        except Exception as error:
            self.world.fail(f"the change {write.id} was answered with {error!r}")
        else:
            self.world.answer(self, write, published.revision)

    async def compact(self, kept: int) -> None:
        """Shorten the history to some revisions."""
        assert self.store is not None
        try:
            await self.store.compact(max(0, (await self.store.kept())[1] - kept))
        except StoreError as error:
            self.world.say("   %s can't shorten the history: %s", self.name, error)

    @property
    def admits(self) -> str:
        """What it says about being behind, "" if it claims to be up to date."""
        if self.store is None or self.publisher is None:
            return "down"
        return self.store.away or self.publisher.stale_because or self._background.ailing

    def deaths(self) -> list[str]:
        """Return the background tasks that died."""
        return [name for name, count in self._background.deaths.items() if count]
