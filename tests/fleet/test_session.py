"""Sessions compared with a naive sidecar, and the order of their requests."""

import random

import pytest
from fleet.build import assignment, cluster, content, delta, listener, sotw
from hypothesis import given, settings
from hypothesis import strategies as st

from xds._generated import xds_wire_pb2 as wire
from xds.fleet.content import Parser
from xds.fleet.plan import DEFAULT_TYPES, SubscriptionPlan
from xds.fleet.session import SidecarSession, SidecarSessions
from xds.fleet.verify import differences, equal, waiting_for
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE

NAMES = ("a", "b", "c")


def sessions(*types: str, is_sotw: bool = False, **subscribe: list[str]) -> SidecarSessions:
    return SidecarSessions(SubscriptionPlan.of(types or DEFAULT_TYPES, subscribe, sotw=is_sotw))


def requests(made: SidecarSessions, session: SidecarSession, *responses: bytes) -> tuple[SidecarSession, list[str]]:
    """Apply responses one after another; return the final session, and the requests made meanwhile as text."""
    asked = []
    for response in responses:
        step = made.step(session, content(response, is_sotw=made.plan.sotw))
        assert step is not None
        session = step.session
        for request in step.requests:
            signs = [f"+{name}" for name in request.subscribe] + [f"-{name}" for name in request.unsubscribe]
            asked.append(f"{made.plan.types[request.index].rpartition('.')[2]} {' '.join(signs) or '*'}")
    return session, asked


def test_a_session_asks_in_an_envoys_order() -> None:
    made = sessions()
    assert [wire.DeltaDiscoveryRequest.FromString(one).type_url for one in made.opening] == [CLUSTER]
    session, asked = requests(made, made.initial, delta(CLUSTER, {n: ("1", cluster(n)) for n in ("a", "b")}))
    assert asked == ["ClusterLoadAssignment +a +b"]
    session, asked = requests(made, session, delta(ENDPOINTS, {"a": ("1", assignment("a"))}))
    assert (asked, session.ready) == ([], False)
    session, asked = requests(made, session, delta(ENDPOINTS, {}, removed=["b"]))
    assert (asked, session.ready) == (["Listener *"], False)
    session, asked = requests(made, session, delta(LISTENER, {"l": ("1", listener("l", "r"))}))
    assert (asked, session.ready) == (["RouteConfiguration +r"], False)
    session, asked = requests(made, session, delta(ROUTE, {"r": ("1", b"\x0a\x01r")}))
    assert (asked, session.ready) == ([], True)


def test_explicit_names_wait_for_warm_clusters_and_join_those_learned() -> None:
    made = sessions("clusters", "endpoints", "routes", routes=["r1", "r2"], endpoints=["z"])
    assert [wire.DeltaDiscoveryRequest.FromString(one).type_url for one in made.opening] == [CLUSTER, ENDPOINTS]
    session, asked = requests(
        made,
        made.initial,
        delta(CLUSTER, {"a": ("1", cluster("a"))}),
        delta(ENDPOINTS, {n: ("1", assignment(n)) for n in ("a", "z")}),
    )
    assert asked == ["ClusterLoadAssignment +a", "RouteConfiguration +r1 +r2"]
    assert waiting_for(made.plan, session) == "no answer for routes r1, r2"


def test_a_removed_cluster_is_unsubscribed_from_and_its_endpoints_are_dropped() -> None:
    made = sessions("clusters", "endpoints")
    session, _ = requests(
        made,
        made.initial,
        delta(CLUSTER, {n: ("1", cluster(n)) for n in ("a", "b")}),
        delta(ENDPOINTS, {n: ("1", assignment(n)) for n in ("a", "b")}),
    )
    after, asked = requests(made, session, delta(CLUSTER, removed=["b"]))
    assert asked == ["ClusterLoadAssignment -b"]
    assert [sorted(state.held) for state in after.types] == [["a"], ["a"]]
    assert after.ready


def test_an_empty_server_is_synced_with_nothing() -> None:
    made = sessions()
    session, asked = requests(made, made.initial, delta(CLUSTER), delta(LISTENER))
    assert (asked, session.ready) == (["Listener *"], True)


def test_a_type_never_asked_for_is_no_step() -> None:
    made = sessions("clusters", "endpoints")
    assert made.step(made.initial, content(delta(ENDPOINTS))) is None
    assert made.step(made.initial, content(delta(ROUTE))) is None


def test_a_reconnect_names_what_is_held_with_versions_and_what_is_missing_without() -> None:
    made = sessions("clusters", "endpoints")
    session, _ = requests(
        made,
        made.initial,
        delta(CLUSTER, {n: ("7", cluster(n)) for n in ("a", "b")}),
        delta(ENDPOINTS, {"a": ("8", assignment("a"))}, removed=["b"]),
    )
    clusters, endpoints = (wire.DeltaDiscoveryRequest.FromString(one) for one in made.resumption(session))
    assert (clusters.type_url, clusters.resource_names_subscribe, dict(clusters.initial_resource_versions)) == (
        CLUSTER,
        [],
        {"a": "7", "b": "7"},
    )
    assert (endpoints.resource_names_subscribe, dict(endpoints.initial_resource_versions)) == (["a", "b"], {"a": "8"})
    assert made.resumption(session) is made.resumption(session)


def test_sotw_wildcards_lose_what_is_not_listed_and_names_do_not() -> None:
    made = sessions("clusters", "endpoints", is_sotw=True)
    session, asked = requests(
        made,
        made.initial,
        sotw(CLUSTER, [cluster("a"), cluster("b")]),
        sotw(ENDPOINTS, [assignment("a"), assignment("b")]),
        sotw(ENDPOINTS, [assignment("a", 2)], version="2"),
    )
    assert (asked, session.ready) == (["ClusterLoadAssignment +a +b"], True)
    assert sorted(session.types[1].held) == ["a", "b"]
    session, asked = requests(made, session, sotw(CLUSTER, [cluster("a")], version="3"))
    assert asked == ["ClusterLoadAssignment -b"]
    assert [sorted(state.held) for state in session.types] == [["a"], ["a"]]
    answer = wire.DiscoveryRequest.FromString(made.sotw_answer(session, 0, "n").data[5:])
    assert (answer.version_info, answer.response_nonce, answer.resource_names) == ("3", "n", [])
    nack = wire.DiscoveryRequest.FromString(made.sotw_answer(session, 0, "m", "no").data[5:])
    assert (nack.version_info, nack.response_nonce, nack.error_detail.message) == ("3", "m", "no")


Change = tuple[str, str, int | None]
CHANGES = st.lists(
    st.lists(st.tuples(st.just(CLUSTER), st.sampled_from(NAMES), st.none() | st.integers(1, 3)), min_size=1, max_size=4)
    | st.lists(
        st.tuples(st.just(ENDPOINTS), st.sampled_from(NAMES), st.none() | st.integers(1, 3)), min_size=1, max_size=4
    ),
    max_size=12,
)


class NaiveSidecar:
    """A sidecar's resources, as two dicts."""

    def __init__(self) -> None:
        self.clusters: dict[str, int] = {}
        self.endpoints: dict[str, int] = {}

    def take(self, change: list[Change]) -> None:
        last = {name: version for _, name, version in change}
        held = self.clusters if change[0][0] == CLUSTER else self.endpoints
        for name, version in last.items():
            if version is None:
                held.pop(name, None)
            elif held is self.clusters or name in self.clusters:
                held[name] = version
        self.endpoints = {name: version for name, version in self.endpoints.items() if name in self.clusters}


def response(change: list[Change]) -> bytes:
    last = {name: version for _, name, version in change}
    body = cluster if change[0][0] == CLUSTER else assignment
    added = {name: (str(version), body(name)) for name, version in last.items() if version is not None}
    return delta(change[0][0], added, removed=[name for name, version in last.items() if version is None])


@settings(deadline=None)
@given(CHANGES)
def test_a_session_holds_what_a_naive_sidecar_holds_and_equal_ones_are_one(changes: list[list[Change]]) -> None:
    made, parser, naive = sessions("clusters", "endpoints"), Parser(sotw=False), NaiveSidecar()
    session = made.initial
    opening = [(CLUSTER, name, None) for name in NAMES]
    for change in [opening, [(CLUSTER, "a", 1)], *changes]:
        step = made.step(session, parser.message(response(change)).content)
        assert step is not None
        session = step.session
        naive.take(change)
        held = [{name: int(one.version) for name, one in state.held.items()} for state in session.types]
        assert held == [naive.clusters, naive.endpoints]
        assert session.types[1].wanted == frozenset(naive.clusters)
    # Another path to the same resources ends in an equal session, and in the same object if missing names agree too.
    target = [(CLUSTER, name, naive.clusters.get(name)) for name in NAMES]
    other, _ = requests(made, made.initial, response(opening), response([(CLUSTER, "a", 1)]), response(target))
    if naive.endpoints:
        other, _ = requests(made, other, response([(ENDPOINTS, n, v) for n, v in naive.endpoints.items()]))
    assert equal(other, session)
    assert differences(made.plan, other, session) == []
    same_missing = other.types[1].missing == session.types[1].missing
    assert (other is session) == (same_missing and other.types[1].answered == session.types[1].answered)


def test_a_difference_names_the_type_and_the_resources() -> None:
    made = sessions("clusters", "endpoints")
    clusters = delta(CLUSTER, {n: ("1", cluster(n)) for n in NAMES})
    mine, _ = requests(made, made.initial, clusters, delta(ENDPOINTS, {n: ("1", assignment(n)) for n in ("a", "b")}))
    other, _ = requests(
        made, made.initial, clusters, delta(ENDPOINTS, {n: ("1", assignment(n, 2)) for n in ("b", "c")})
    )
    (found,) = differences(made.plan, mine, other)
    assert (found.type_name, found.missing, found.unexpected, found.outdated, found.count) == (
        "endpoints",
        ("c",),
        ("a",),
        ("b",),
        3,
    )
    assert not equal(mine, other)


def test_steps_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.fleet.session.STEPS_MAX", 10)
    made, session, generator = sessions("clusters"), None, random.Random(1)
    session = made.initial
    passed = [session]
    for number in range(100):
        name = generator.choice(NAMES)
        session, _ = requests(made, session, delta(CLUSTER, {name: (str(number), cluster(name, kind="STATIC"))}))
        passed.append(session)
    assert sum(len(one.steps) for one in passed) <= 11
