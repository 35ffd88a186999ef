"""The table of known nodes against a naive model, and one scene for each rule."""

import tracemalloc
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xds.model.groups import Locality
from xds.registry.known_nodes import PROCESS_ENDED, SERVER_ENDED, KnownNode, KnownNodes
from xds.registry.session_events import SessionBegan, SessionEnded, SessionEvent, SessionMoved

HOUR_MS = 3_600_000


def began(session: int, node_id: str = "n", group: str = "g", at_ms: int = 0, **fields: object) -> SessionBegan:
    event = SessionBegan(session, at_ms, node_id, group, "c", "127.0.0.1:1", (), "envoy 1.40.0", NOWHERE)
    return event._replace(**fields)


def ended(session: int, at_ms: int = 1, accepted: int = 0, why: str = "why") -> SessionEnded:
    return SessionEnded(session, at_ms, accepted, why)


NOWHERE = KnownNode(id="", group="", first_seen_ms=0, last_seen_ms=0).locality


def known(table: KnownNodes, node_id: str = "n", now_ms: int = 0) -> KnownNode:
    found = table.node(node_id, now_ms)
    assert found is not None
    return found


# --- Scenes ----------------------------------------------------------------------------------------------------------


def test_a_node_is_connected_then_gone_with_the_reason_and_what_it_had_accepted() -> None:
    table = KnownNodes()
    table.note(1, [began(7, at_ms=5)])
    here = KnownNode(
        id="n",
        group="g",
        cluster="c",
        address="127.0.0.1:1",
        user_agent="envoy 1.40.0",
        first_seen_ms=5,
        last_seen_ms=9,
        is_connected=True,
    )
    assert known(table, now_ms=9) == here
    assert here.envoy_version == "1.40.0"
    assert table.gone_by_group == {}
    table.note(1, [ended(7, at_ms=20, accepted=42, why="its connection closed")])
    found = known(table, now_ms=30)
    assert (found.is_gone, found.last_seen_ms, found.accepted_revision) == (True, 20, 42)
    assert found.left_because == "its connection closed"
    assert table.gone_by_group == {"g": 1}
    assert [each.id for each in table.gone("g")] == ["n"]
    assert list(table.gone("other")) == []


def test_the_gone_nodes_of_a_group_have_a_number_that_changes_with_them() -> None:
    table = KnownNodes()
    table.note(1, [began(1, "a"), began(2, "b"), began(3, "c", "h"), ended(1)])
    one = dict(table.gone_changes)
    assert one.keys() == {"g"}
    table.note(1, [ended(3)])
    assert table.gone_changes["g"] == one["g"], "nothing changed in that group"
    table.note(1, [began(4, "a"), ended(2)])
    assert table.gone_by_group["g"] == 1
    assert table.gone_changes["g"] != one["g"], "b is gone, and not a"
    table.note(1, [began(5, "b"), began(6, "c", "h")])
    assert table.gone_changes == {}


def test_a_node_that_returns_is_not_gone_and_keeps_when_it_was_first_seen() -> None:
    table = KnownNodes()
    table.note(1, [began(7, at_ms=5), ended(7, accepted=3), began(8, group="h", at_ms=9)])
    found = known(table, now_ms=10)
    assert (found.first_seen_ms, found.group, found.left_because, found.accepted_revision) == (5, "h", "", 3)
    assert table.gone_by_group == {}


def test_a_node_with_several_sessions_is_gone_after_the_last_of_them() -> None:
    table = KnownNodes()
    assert table.note(1, [began(7)]) == []
    older = table.note(2, [began(7, group="h", address="127.0.0.1:2")])
    assert [each[:2] for each in older] == [(1, 7)]
    assert table.doubled == {"n"}
    assert known(table).group == "h"
    table.note(2, [ended(7)])
    assert table.doubled == set()
    assert (known(table).group, known(table).address, known(table).is_connected) == ("g", "127.0.0.1:1", True)
    table.note(1, [ended(7)])
    assert known(table).is_gone


def test_a_node_belongs_to_the_group_of_its_newest_session() -> None:
    table = KnownNodes()
    table.note(1, [began(1), began(2), SessionMoved(1, 0, "old"), SessionMoved(2, 0, "new")])
    assert known(table).group == "new"
    table.note(1, [ended(2)])
    assert known(table).group == "old"


def test_all_nodes_of_a_process_that_ended_are_gone() -> None:
    table = KnownNodes()
    table.note(1, [began(1, "a"), began(2, "b")])
    table.note(2, [began(1, "b"), began(2, "c")])
    table.end_process(1, 50)
    assert known(table, "a").left_because == PROCESS_ENDED
    assert [known(table, each).is_connected for each in "abc"] == [False, True, True]
    assert table.gone_by_group == {"g": 1}


def test_a_gone_node_is_forgotten_after_a_while() -> None:
    table = KnownNodes(forget_after_ms=1_000)
    table.note(1, [began(1, "a"), began(2, "b"), ended(1, at_ms=10), ended(2, at_ms=500)])
    assert table.forget(1_009) == 0
    assert table.forget(1_010) == 1
    assert (table.node("a", 0), table.gone_by_group) == (None, {"g": 1})
    table.note(1, [began(3, "b")])
    assert table.forget(10**9) == 0


def test_nodes_are_forgotten_at_once_if_that_is_wanted() -> None:
    table = KnownNodes(forget_after_ms=0)
    table.note(1, [began(1), ended(1)])
    assert (len(table), table.size_bytes, table.gone_by_group) == (0, 0, {})


def test_a_clock_that_was_set_back_delays_nobody() -> None:
    table = KnownNodes(forget_after_ms=1_000)
    table.note(1, [began(1, "a"), began(2, "b"), ended(1, at_ms=9_000), ended(2, at_ms=100)])
    assert table.forget(1_100) == 1
    assert table.node("b", 0) is None


def test_the_nodes_that_left_first_make_room() -> None:
    hits: list[None] = []
    table = KnownNodes(nodes_max=2, on_full=lambda: hits.append(None))
    table.note(1, [began(1, "a"), began(2, "b"), ended(2, at_ms=1), ended(1, at_ms=2), began(3, "c")])
    assert [table.node(each, 0) is not None for each in "abc"] == [True, False, True]
    table.note(1, [began(4, "a"), began(5, "d")])
    assert table.node("d", 0) is None, "all are connected"
    table.note(1, [ended(5), ended(4)])
    assert (len(table), table.gone_by_group, len(hits)) == (2, {"g": 1}, 2)


def test_the_memory_of_the_nodes_is_bounded() -> None:
    table = KnownNodes(bytes_max=100_000)
    for number in range(100):
        table.note(1, [began(number, f"{number}{'x' * 5_000}"), ended(number, at_ms=number)])
    assert table.size_bytes <= 100_000
    assert 10 < len(table) < 20


def test_what_a_file_has_is_gone_and_awaited_from_the_start_on() -> None:
    """Nobody can return while the server is down."""
    table = KnownNodes(forget_after_ms=1_000, began_ms=50_000)
    old = KnownNode(id="a", group="g", first_seen_ms=1, last_seen_ms=2, is_connected=True)
    left = KnownNode(id="b", group="g", first_seen_ms=1, last_seen_ms=49_500, left_because="why")
    late = KnownNode(id="c", group="g", first_seen_ms=1, last_seen_ms=48_000, left_because="why")
    table.load([old, left, late], 50_000)
    assert (known(table, "a").left_because, known(table, "a").last_seen_ms) == (SERVER_ENDED, 2)
    assert table.gone_by_group == {"g": 2}
    assert (table.forget(50_999), table.forget(51_000)) == (1, 1)


# --- Other replicas --------------------------------------------------------------------------------------------------


def test_a_node_that_is_connected_to_another_replica_is_not_gone() -> None:
    table, other = KnownNodes(), KnownNodes()
    table.note(1, [began(1), ended(1, at_ms=10)])
    other.note(1, [began(1, group="h", at_ms=20)])
    table.merge("b", other.nodes(30), 30)
    assert (known(table).is_gone, known(table).replica, known(table).group) == (False, "b", "h")
    assert table.gone_by_group == {}
    other.note(1, [ended(1, at_ms=40, accepted=5)])
    table.merge("b", other.nodes(50), 50)
    assert (known(table).is_gone, known(table).last_seen_ms, known(table).accepted_revision) == (True, 40, 5)
    assert table.gone_by_group == {"h": 1}


def test_a_replica_that_ended_leaves_its_nodes_gone() -> None:
    table, other = KnownNodes(), KnownNodes()
    table.note(1, [began(1, "here")])
    other.note(1, [began(1, "here"), began(2, "there")])
    table.merge("b", other.nodes(5), 5)
    table.end_replica("b", 9)
    assert known(table, "here").is_connected
    assert (known(table, "there").is_gone, known(table, "there").last_seen_ms) == (True, 9)
    assert table.gone_by_group == {"g": 1}


def test_who_saw_a_node_last_knows_best() -> None:
    table, other = KnownNodes(), KnownNodes()
    table.note(1, [began(1, at_ms=1), ended(1, at_ms=100, why="here")])
    other.note(1, [began(1, at_ms=0), ended(1, at_ms=50, why="there")])
    table.merge("b", other.nodes(200), 200)
    other.merge("a", table.nodes(200), 200)
    assert known(table) == known(other)
    assert (known(table).left_because, known(table).first_seen_ms) == ("here", 0)


# --- Any order of events, against a naive model ----------------------------------------------------------------------


@dataclass
class Naive:
    """Every session and every node in plain lists, looked through for each question."""

    sessions: list[tuple[int, int, str, str]] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    left_ms: dict[str, int] = field(default_factory=dict)

    def live(self, node_id: str) -> list[tuple[int, int, str, str]]:
        return [each for each in self.sessions if each[2] == node_id]

    def gone(self) -> Counter[str]:
        return Counter(group for node_id, group in self.seen.items() if not self.live(node_id))

    def end(self, process: int, session: int, at_ms: int) -> None:
        found = next((each for each in self.sessions if each[:2] == (process, session)), None)
        if found is None:
            return
        self.sessions.remove(found)
        if rest := self.live(found[2]):
            self.seen[found[2]] = rest[-1][3]
        else:
            self.left_ms[found[2]] = at_ms

    def move(self, process: int, session: int, group: str) -> None:
        for at, each in enumerate(self.sessions):
            if each[:2] == (process, session):
                self.sessions[at] = (*each[:3], group)
                self.seen[each[2]] = self.live(each[2])[-1][3]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "end", "end", "move", "kill", "forget"]),
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from("abcd"),
        st.sampled_from("GH"),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_any_order_of_events_gives_what_a_naive_model_says(steps: list[tuple[str, int, int, str, str]]) -> None:
    table, naive = KnownNodes(forget_after_ms=20), Naive()
    for at_ms, (what, process, session, node_id, group) in enumerate(steps):
        is_open = any(each[:2] == (process, session) for each in naive.sessions)
        events: list[SessionEvent] = []
        if what == "begin" and not is_open:
            older = naive.live(node_id)[-1:]
            found = table.note(process, [began(session, node_id, group, at_ms)])
            assert [each[:3] for each in found] == [(p, s, g) for p, s, _, g in older]
            naive.sessions.append((process, session, node_id, group))
            naive.seen[node_id] = group
        elif what == "end":
            events = [ended(session, at_ms)]
            naive.end(process, session, at_ms)
        elif what == "move":
            events = [SessionMoved(session, at_ms, group)]
            naive.move(process, session, group)
        elif what == "kill":
            table.end_process(process, at_ms)
            for each in [each for each in naive.sessions if each[0] == process]:
                naive.end(each[0], each[1], at_ms)
        elif what == "forget":
            table.forget(at_ms)
            for each_id in [each for each in naive.seen if not naive.live(each) and naive.left_ms[each] + 20 <= at_ms]:
                del naive.seen[each_id]
        table.note(process, events)
        assert table.gone_by_group == naive.gone()
        assert table.doubled == {each for each in naive.seen if len(naive.live(each)) > 1}
        nodes = {each.id: (each.group, each.is_connected) for each in table.nodes(at_ms)}
        assert nodes == {each: (group, bool(naive.live(each))) for each, group in naive.seen.items()}
        assert table.size_bytes == sum(record.size_bytes for record in table._records.values())


@pytest.mark.parametrize("is_kept", [False, True])
def test_what_changed_is_returned_once_from_the_first_call_on(is_kept: bool) -> None:
    table = KnownNodes(forget_after_ms=100)
    if is_kept:
        table.take_unwritten(0, 0)
    table.note(1, [began(1, "a"), began(2, "b"), ended(2, at_ms=3)])
    nodes, forgotten = table.take_unwritten(5, 9)
    assert {each.id: each.is_connected for each in nodes} == ({"a": True, "b": False} if is_kept else {})
    assert forgotten == []
    table.forget(200)
    table.write_again(["a"])
    nodes, forgotten = table.take_unwritten(200, 1)
    assert (nodes, forgotten) == ([], ["b"])
    nodes, forgotten = table.take_unwritten(200, 1)
    assert ([each.id for each in nodes], forgotten) == (["a"], [])
    assert table.take_unwritten(200, 9) == ([], [])


def test_long_texts_of_nodes_that_are_forgotten_take_no_memory() -> None:
    """Clients choose these texts, and may come with ever new ones."""
    table = KnownNodes(forget_after_ms=1)

    def come_and_go(numbers: range) -> None:
        for number in numbers:
            long = f"{number:06}" * 5_000
            place = Locality(region=long, zone=long, sub_zone=long)
            table.note(1, [began(number, f"n{number}", cluster=long, user_agent=long, locality=place), ended(number)])
            table.forget(HOUR_MS)

    come_and_go(range(10))
    tracemalloc.start()
    try:
        come_and_go(range(100, 200))
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == 0
    assert left < 1_000_000
