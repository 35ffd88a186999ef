"""Two replicas with workers on a real etcd answer for a fleet of sidecars, whose own record judges each answer.

``make fleet-proof`` runs it with 10,000 sidecars and 50 rounds, and writes bench/results/fleet-proof.md.
"""

import asyncio
import os
import platform
import random
import signal
import statistics
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from support.etcd import Etcd
from support.processes import Child
from support.proof_fleet import REFUSAL, Habits, ProofFleet
from support.server import XdsServer
from support.waiting import for_a_while, wait_until

from xds.client import About, Client, Convergence
from xds.process.descriptors import make_all_room
from xds.replicas.membership import ROUND_S, TTL_S

SIDECARS = int(os.environ.get("XDS_PROOF_SIDECARS", "300"))
ROUNDS = int(os.environ.get("XDS_PROOF_ROUNDS", "6"))
SEED = int(os.environ.get("XDS_TEST_SEED", "1"))
WORKERS = 2
BEHIND_S = 1.0
"""How old the record may be that an answer agrees with: servers are asked ten times a second, and answers travel."""
LATE_MAX_S = 3.0 + SIDECARS / 1_000
"""How long after the quorum an answer may come on a busy machine; what it took is printed."""
TIMEOUT_S = 120.0
HOLD_S = 2
"""These sidecars ask for clusters only; after a reconnect, removals wait so long for what an Envoy would ask for."""
STEADY_S = 2.0 if SIDECARS < 1_000 else 20.0
LEASE_S = TTL_S + 2 * ROUND_S
"""How long a killed replica may have its lease, and others not know that it is lost: nothing is reached before."""
PAGE = Path(__file__).parent.parent.parent / "bench" / "results" / "fleet-proof.md"
pytestmark = pytest.mark.timeout(3_600)


def cluster(name: str, version: int) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": f"{1 + version}s",
    }


def number_of(version: str) -> int:
    return int(version[1:]) if version else 0


@dataclass(slots=True)
class Told:
    """What a round showed."""

    what: str
    nodes: int
    after_s: float
    """How long after the quorum was there the answer came."""
    took_s: float


@dataclass(slots=True)
class Scene:
    servers: list[XdsServer]
    clients: list[Client]
    fleet: ProofFleet
    random: random.Random
    told: list[Told] = field(default_factory=list)
    version: int = 0
    has_maybe: bool = True

    def tell(self, told: Told) -> None:
        """Keep what a round showed, and print it."""
        self.told.append(told)
        print(f"{told.what}: {told.after_s:.2f} s after the quorum, {told.took_s:.2f} s in all", flush=True)

    async def commit(self, *, maybe: bool | None = None, by: int = 0, is_judged: bool = True) -> int:
        """Change the cluster ``round``, or set or remove the cluster ``maybe``; return the revision."""
        if maybe is None:
            self.version += 1
        else:
            self.has_maybe = maybe
        version, has_maybe = self.version, self.has_maybe

        def accepts(held: Mapping[str, str]) -> bool:
            """Whether a sidecar has this change and all before it."""
            return number_of(held.get("round", "")) >= version and ("maybe" in held) is has_maybe

        if is_judged:
            self.fleet.judge_by(accepts)
        client, about = self.clients[by], About(version=f"v{version}")
        if maybe is None:
            made = await client.apply(upsert=[cluster("round", version)], about=about)
        elif maybe:
            made = await client.apply(upsert=[cluster("maybe", 1)])
        else:
            made = await client.apply(remove=[("clusters", "maybe")])
        return made.revision

    async def wait(self, revision: int, *, quorum: float = 1.0, rejected_max: int = 0, by: int = 0) -> Convergence:
        """Wait as `xds wait` does, and return the last answer."""
        goal: dict[str, Any] = {"quorum": quorum, "rejected_max": rejected_max, "timeout_s": TIMEOUT_S}
        return [found async for found in self.clients[by].converge(revision, **goal)][-1]

    async def reached(
        self,
        what: str,
        revision: int,
        *,
        quorum: float = 1.0,
        rejected_max: int = 0,
        by: int = 0,
        late_max_s: float = LATE_MAX_S,
    ) -> None:
        """Wait for a quorum, and judge by the record that the answer came when and only when it was there."""
        loop, needed = asyncio.get_running_loop(), ceil(quorum * len(self.fleet.sidecars) - 1e-9)
        began = loop.time()
        found = await self.wait(revision, quorum=quorum, rejected_max=rejected_max, by=by)
        end = loop.time()
        assert found.verdict == "reached", (what, found)
        behind_s = BEHIND_S + self.fleet.lag_since(began)
        had = self.fleet.most_between(end - behind_s, end)
        assert had >= needed, (
            f"{what}: {needed} were to accept revision {revision}, {had} had in the last {behind_s:.1f} s: {found};"
            f" {self.fleet.describe_lacking()}; {[(round(at - end, 2), n) for at, n in self.fleet.history[-30:]]}"
        )
        since = self.fleet.enough_since(needed, end)
        after_s = 0.0 if since is None else end - max(since, began)
        assert after_s <= late_max_s, f"{what}: the answer came {after_s:.1f} s after the quorum was there"
        self.tell(Told(what, needed, after_s, end - began))

    async def whole(self) -> None:
        """Wait until all sidecars are connected, and both replicas say so."""
        count = len(self.fleet.sidecars)
        await wait_until(
            lambda: sum(each.stream is not None for each in self.fleet.sidecars), equals=count, timeout_s=60
        )
        revision = (await self.clients[0].history(limit=1))[0].revision
        for client in self.clients:

            async def numbers(client: Client = client) -> tuple[int, int, tuple[str, ...]]:
                async for found in client.converge(revision, timeout_s=0.0):
                    return found.accepted + found.pending + found.rejected, found.gone, found.missing_replicas
                raise AssertionError

            await wait_until(numbers, equals=(count, 0, ()), timeout_s=60, poll_s=0.2)


def servers_of(etcd: Etcd) -> list[XdsServer]:
    return [
        XdsServer(
            None,
            *("--store", etcd.url("proof"), "--workers", str(WORKERS)),
            settings={
                "replicas.name": f"xds-{number}",
                "transport.kind": "native",
                "protocol.hold_timeout_s": HOLD_S,
                "drain.timeout_s": 1,
            },
            name=f"xds-{number}",
        )
        for number in range(2)
    ]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    make_all_room()
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd())
        servers = servers_of(etcd)
        for server in servers:
            await stack.enter_async_context(server)
        for server in servers:
            await server.wait_ready(60.0)
        clients = [
            await stack.enter_async_context(Client(f"127.0.0.1:{server.api_port}", patience_s=30.0))
            for server in servers
        ]
        await clients[0].apply(upsert=[cluster("round", 0), cluster("maybe", 1)], about=About(version="v0"))
        fleet = ProofFleet(SIDECARS, [server.port for server in servers], seed=SEED)
        stack.push_async_callback(fleet.close)
        await fleet.connect()
        made = Scene(servers, clients, fleet, random.Random(SEED))
        await made.whole()
        yield made


def workers_of(server: Child) -> list[int]:
    """Return the process ids of a server's workers."""
    text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


async def _round(scene: Scene, number: int) -> None:
    """One change under a random fleet, waited for at a random replica."""
    draw = scene.random
    quorum = draw.choice((1.0, 1.0, 0.99, 0.9, 0.5))
    by = draw.randrange(2)
    kind = draw.choice(("calm", "late", "drops", "refusals", "worker", "deletion"))
    scene.fleet.habits = {
        "late": Habits(late=0.5, late_s=1.0),
        "drops": Habits(late=0.2, drop=0.2),
        "refusals": Habits(late=0.1, refuse=0.02),
        "worker": Habits(late=0.5, late_s=1.0),
        "deletion": Habits(late=0.3, drop=0.1),
    }.get(kind, Habits())
    maybe = None
    if kind == "deletion":
        maybe = not scene.has_maybe
    if kind == "refusals":
        quorum = min(quorum, 0.9)
    revision = await scene.commit(maybe=maybe, by=draw.randrange(2))
    if kind == "worker":
        os.kill(draw.choice(workers_of(scene.servers[draw.randrange(2)])), signal.SIGKILL)
    what = f"{number}: {kind}, {quorum:.0%}"
    await scene.reached(what, revision, quorum=quorum, rejected_max=len(scene.fleet.sidecars), by=by)
    scene.fleet.habits = Habits()


async def test_an_answer_comes_when_and_only_when_the_quorum_has_accepted(scene: Scene) -> None:
    for number in range(ROUNDS):
        await _round(scene, number)
    await scene.whole()
    await _killed_replica(scene)
    await _steady_changes(scene)
    await _refusals(scene)
    await _deletion(scene)
    _report(scene)


async def _killed_replica(scene: Scene) -> None:
    """A replica is killed after a commit: its sidecars come to the other one, whose answer counts them there."""
    scene.fleet.habits = Habits(late=0.3, late_s=0.5)
    revision = await scene.commit(by=0)
    scene.servers[1].kill()
    await scene.reached("a killed replica, 100%", revision, by=0, late_max_s=LATE_MAX_S + LEASE_S)
    scene.servers[1].start()
    await scene.servers[1].wait_ready(60.0)
    scene.fleet.habits = Habits()
    await scene.whole()


async def _steady_changes(scene: Scene) -> None:
    """20 changes a second for some seconds; each of some revisions on the way is reached meanwhile."""
    scene.fleet.habits = Habits(late=0.05, late_s=0.3)
    loop = asyncio.get_running_loop()
    is_over, waits = False, list[float]()

    async def push() -> None:
        at = loop.time()
        while not is_over:
            await scene.commit(by=0, is_judged=False)
            at += 0.05
            await for_a_while(max(0.0, at - loop.time()), "20 changes a second")

    pushing = asyncio.create_task(push())
    began, before = loop.time(), scene.version
    while loop.time() - began < STEADY_S:
        revision = (await scene.clients[1].history(limit=1))[0].revision
        started = loop.time()
        found = await scene.wait(revision, quorum=0.9, rejected_max=len(scene.fleet.sidecars), by=1)
        assert found.verdict == "reached", found
        waits.append(loop.time() - started)
    is_over = True
    await pushing
    rate = (scene.version - before) / (loop.time() - began)
    needed = ceil(0.9 * len(scene.fleet.sidecars))
    what = f"{len(waits)} revisions under {rate:.0f} changes a second, 90%, the slowest"
    scene.tell(Told(what, needed, 0.0, max(waits)))
    scene.fleet.habits = Habits()
    revision = await scene.commit()
    await scene.reached("after them, 100%", revision)


async def _refusals(scene: Scene) -> None:
    """1 % refuse a version: exactly those are named, with the resource."""
    count = max(1, len(scene.fleet.sidecars) // 100)
    refusing = scene.random.sample(scene.fleet.sidecars, count)
    for each in refusing:
        each.refused.add(f"v{scene.version + 1}")
    revision = await scene.commit(by=0)
    found = await scene.wait(revision, rejected_max=count, quorum=1.0 - count / len(scene.fleet.sidecars), by=1)
    assert (found.verdict, found.rejected) == ("reached", count), found
    found = await scene.wait(revision, rejected_max=count - 1, by=1)
    assert found.verdict == "rejected", found
    names = {each.id for each in refusing}
    assert {each.id for each in found.lacking} <= names
    assert len(found.lacking) == min(count, 20)
    assert all(each.state == "rejected" and REFUSAL in each.reason for each in found.lacking), found.lacking
    listed = {each.id for each in (await scene.clients[1].nodes(state="rejected")).nodes}
    assert listed == names
    for each in refusing:
        each.refused.clear()
    scene.tell(Told(f"{count} refuse it: exactly they are named", count, 0.0, 0.0))
    revision = await scene.commit()
    await scene.reached("after the refusals, 100%", revision)


async def _deletion(scene: Scene) -> None:
    """A deletion is reached when all have let the resource go."""
    if not scene.has_maybe:
        revision = await scene.commit(maybe=True)
        await scene.reached("before a deletion, 100%", revision)
    scene.fleet.habits = Habits(late=0.5, late_s=1.0, drop=0.05)
    revision = await scene.commit(maybe=False)
    await scene.reached("a deletion, 100%", revision, by=1)
    scene.fleet.habits = Habits()


def _report(scene: Scene) -> None:
    """Print what was measured; of a full run, write the page."""
    after = sorted(each.after_s for each in scene.told if each.after_s)
    p50 = statistics.median(after) if after else 0.0
    lines = [
        "# The fleet seen exactly: the proof",
        "",
        f"`make fleet-proof`: {len(scene.fleet.sidecars):,} simulated sidecars on two replicas of {WORKERS} workers",
        f"each and one etcd, seed {SEED}, {os.cpu_count()} cores, Python {platform.python_version()}. Each answer of a",
        "wait was compared with the sidecars' own record: it never came before the quorum had accepted, and came",
        f"{p50:.2f} s after it at the median, {after[-1] if after else 0:.2f} s at most.",
        "",
        "| round | quorum, nodes | answer after the quorum, s | wait, s |",
        "|---|---|---|---|",
        *(f"| {each.what} | {each.nodes:,} | {each.after_s:.2f} | {each.took_s:.2f} |" for each in scene.told),
        "",
    ]
    print("\n".join(lines))
    if os.environ.get("XDS_PROOF_SIDECARS"):
        PAGE.write_text("\n".join(lines))
