"""Plans: the clients, servers, store and events of a run, drawn from its seed."""

from dataclasses import dataclass, replace
from random import Random

from simulation.engines import DIRECT, ETCD, MEMORY, SQLITE
from simulation.envoy import Habits

from xds.protocol.policy import Variant

GROUPS = ("default", "g1", "g2")


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a run. ``seed`` is for its random choices, which are independent of other events."""

    at_s: float
    kind: str
    who: int
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan, drawn from a seed: the clients and servers of a run, its store, and its events."""

    seed: int
    servers: int
    share_memory: bool
    faults: bool
    secrets: bool
    small: bool
    habits: tuple[Habits, ...]
    events: tuple[Event, ...]
    clients: tuple[int, ...]
    """The clients of the run."""
    store: str = DIRECT
    replicas: tuple[int, ...] = ()
    """The worker processes of each replica; 0: the replica serves by itself."""
    kept: int = 1_000
    """The revisions of the store that replicas keep."""
    caches: bool = False
    """Whether replicas keep a local copy of etcd's state."""
    reorders: bool = False
    """Whether streams of one connection overtake each other."""


def plan(seed: int) -> Plan:
    """Draw a plan."""
    chance = Random(f"plan {seed}")
    servers = chance.choice((1, 1, 1, 2))
    faults, late = chance.random() < 0.6, chance.random() < 0.5
    habits = []
    for _ in range(chance.choice((1, 1, 2, 2, 3, 4))):
        per_type = chance.random() < 0.35
        habits.append(
            Habits(
                variant=Variant.DELTA if chance.random() < 0.65 else Variant.SOTW,
                per_type=per_type,
                react_s=chance.choice((0.003, 0.003, 0.3)),
                # On per-type streams, clusters are ACKed before their health checks pass.
                health_checks=chance.choice((0.0, 0.2)) if late and not per_type else 0.0,
            )
        )
    span_s = chance.choice((2.0, 30.0, 200.0))
    kinds = ["change"] * 14 + ["flip"] + ["move"] + ["break"] * 3 + ["stall"] * (2 if late else 0) + ["pause"] * late
    events = [
        Event(
            round(chance.uniform(0.0, span_s), 3), chance.choice(kinds), chance.randrange(100), chance.getrandbits(32)
        )
        for _ in range(chance.choice((5, 15, 30, 30)))
    ]
    drawn = Plan(
        seed=seed, servers=servers, share_memory=chance.random() < 0.5, faults=faults,
        secrets=chance.random() < 0.5, small=chance.random() < 0.15, habits=tuple(habits),
        events=tuple(sorted(events, key=lambda event: event.at_s)), clients=tuple(range(len(habits))),
    )  # fmt: skip
    return _with_store(drawn, span_s)


CLIENT_FAULTS = ("hold", "hold", "slow")
REPLICA_FAULTS = ("freeze", "freeze", "suspend", "leap", "wall", "wall", "compact", "compact", "again", "twins")
DEATHS = ("crash", "crash", "stop")
ETCD_FAULTS = (
    *("burst", "burst", "cut", "cut", "cut", "lose", "lose", "lose", "late", "late"),
    *("member", "member", "member", "forget", "forget", "junk", "damage"),
)


def _with_store(drawn: Plan, span_s: float) -> Plan:
    """Add the store, its replicas, and its faults: drawn apart, so that clients and changes do not depend on them."""
    chance = Random(f"store {drawn.seed}")
    store = chance.choice((DIRECT, DIRECT, MEMORY, SQLITE, ETCD, ETCD, ETCD))
    kinds: tuple[str, ...] = CLIENT_FAULTS
    replicas: tuple[int, ...] = ()
    if store != DIRECT:
        replicas = tuple(chance.choice((0, 0, 2)) for _ in range(chance.choice((1, 2, 2, 3)) if store == ETCD else 1))
        kinds += REPLICA_FAULTS + (("worker", "worker") if any(replicas) else ())
        kinds += {ETCD: ETCD_FAULTS + DEATHS, SQLITE: DEATHS + ("disk",) * 3, MEMORY: ()}[store]
    events = [
        Event(
            round(chance.uniform(0.0, span_s), 3), chance.choice(kinds), chance.randrange(100), chance.getrandbits(32)
        )
        for _ in range(chance.choice((0, 4, 8, 16) if store != DIRECT else (0, 0, 4)))
    ]
    return replace(
        drawn, store=store, replicas=replicas, kept=chance.choice((2, 10, 1_000)), caches=chance.random() < 0.3,
        reorders=chance.random() < 0.25, events=tuple(sorted((*drawn.events, *events), key=lambda event: event.at_s)),
    )  # fmt: skip
