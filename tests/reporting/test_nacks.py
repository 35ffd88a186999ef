"""NACKs are one log line per kind and minute, however many clients, processes and messages there are."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.encoded import CDS, static
from support.waiting import wait_until

from xds.process.background import Background
from xds.protocol.blame import BlamedBy
from xds.protocol.status import Nacked, NodesQuery, NodeSummary, nodes_page
from xds.reporting import nacks
from xds.reporting.attributions import WAITING_MAX, Attributions, Suspects
from xds.reporting.nacks import EXAMPLES_MAX, KINDS_MAX, Gathered, NackGatherer, NackLog

NAMED = "Error adding/updating cluster(s) bad: no"


def nacked(
    node: str = "n", message: str = NAMED, *, names: tuple[str, ...] = ("bad", "good"), group: str = "default"
) -> Nacked:
    upserts = tuple(static(name) for name in names)
    resources = {each.name: each.version for each in upserts}
    key = repr(names).encode()
    return Nacked(
        node_id=node,
        group=group,
        type_url=CDS,
        nonce="1",
        message=message,
        resources=resources,
        upserts=upserts,
        key=key,
    )


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nacks, "GATHER_S", 0.02)
    monkeypatch.setattr(nacks, "HOLD_POLL_S", 0.01)


def processes(log: NackLog, count: int = 1, *, asks: bool = False) -> list[NackGatherer]:
    return [NackGatherer(log.take, asks=asks) for _ in range(count)]


async def test_what_many_clients_of_several_processes_reject_is_one_line(lines: list[Any], monkeypatch) -> None:
    monkeypatch.setattr(nacks, "GATHER_S", 0.3)
    log = NackLog(Attributions(Background()))
    several = processes(log, 2)
    for number in range(1_000):
        several[number % 2].take(nacked(f"n{number}"))
    await wait_until(lambda: len(lines), equals=1)
    (line,) = lines
    assert (line["event"], line["log_level"], line["group"], line["type"]) == ("nack", "warning", "default", "clusters")
    assert (line["blamed"], line["blamed_by"], line["resources"], line["message"]) == (
        *(["bad"], "client"),
        *(["bad", "good"], NAMED),
    )
    assert (len(line["nodes"]), set(line["nodes"]) < {f"n{number}" for number in range(1_000)}) == (EXAMPLES_MAX, True)
    for each in several:
        each.flush()
    log.flush()
    assert sum(each["count"] for each in lines) == 1_000
    assert len(lines) <= 2  # the second process may report after the line


async def test_later_ones_of_a_kind_are_one_line_a_minute(lines: list[Any], monkeypatch) -> None:
    monkeypatch.setattr(nacks, "WINDOW_S", 0.4)
    log = NackLog(Attributions(Background()))
    (process,) = processes(log)
    process.take(nacked("n1"))
    await wait_until(lambda: len(lines), equals=1)
    for number in range(50):
        process.take(nacked(f"m{number}"))
    await wait_until(lambda: len(lines), equals=2)
    assert (lines[1]["count"], lines[1]["nodes"][0]) == (50, "m0")
    await wait_until(lambda: not log._windows)
    process.take(nacked("n3"))
    await wait_until(lambda: len(lines), equals=3)
    log.flush()


async def test_each_message_type_and_group_is_a_kind(lines: list[Any]) -> None:
    log = NackLog(Attributions(Background()))
    (process,) = processes(log)
    for event in (nacked(), nacked(message="no"), nacked(group="web"), nacked("other")):
        process.take(event)
    await wait_until(lambda: len(lines), equals=3)
    log.flush()
    assert sorted((line["group"], line["message"], line["count"]) for line in lines) == [
        ("default", NAMED, 2),
        ("default", "no", 1),
        ("web", NAMED, 1),
    ]


async def test_clients_that_make_up_messages_do_not_make_the_log_grow(lines: list[Any]) -> None:
    log = NackLog(Attributions(Background()))
    several = processes(log, 3)
    for number in range(10 * KINDS_MAX):
        several[number % 3].take(nacked(f"n{number}" + "x" * 1_000, f"message {number}" + "x" * 10_000))
    for each in several:
        each.flush()
    log.flush()
    assert len(lines) <= 2 * KINDS_MAX + 2
    assert sum(line["count"] for line in lines) == 10 * KINDS_MAX
    assert max(len(line["message"]) for line in lines) <= 2_000
    assert max(len(node) for line in lines for node in line["nodes"]) <= 200


# --- The Envoy that is asked -----------------------------------------------------------------------------------------


class Asked:
    """An Envoy that refuses the names that begin with ``bad``, once it may answer."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, ...]] = []
        self.may_answer = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.error: Exception | None = None

    def __call__(self, group: str, type_url: str, resources: tuple[Any, ...]) -> dict[str, str]:
        self.questions.append(tuple(each.name for each in resources))
        asyncio.run_coroutine_threadsafe(self.may_answer.wait(), self.loop).result(10)
        if self.error is not None:
            raise self.error
        return {each.name: "Envoy: no" for each in resources if each.name.startswith("bad")}


def asking() -> tuple[Attributions, Asked]:
    attributions, asked = Attributions(Background()), Asked()
    attributions.ask = asked
    return attributions, asked


async def test_a_line_waits_for_the_envoy_that_is_asked_what_is_to_blame(lines: list[Any]) -> None:
    attributions, asked = asking()
    log = NackLog(attributions)
    (process,) = processes(log, asks=True)
    for number in range(10):
        process.take(nacked(f"n{number}", "malformed"))
    await wait_until(lambda: asked.questions, equals=[("bad", "good")])
    assert lines == []
    asked.may_answer.set()
    await wait_until(lambda: len(lines), equals=1)
    assert (lines[0]["blamed"], lines[0]["blamed_by"], lines[0]["count"]) == (["bad"], "judge", 10)
    process.take(nacked("other", "something else of the same"))
    await wait_until(lambda: len(lines), equals=2)
    assert (lines[1]["blamed"], len(asked.questions)) == (["bad"], 1)
    log.flush()


async def test_a_line_does_not_wait_for_ever(lines: list[Any], monkeypatch) -> None:
    monkeypatch.setattr(nacks, "HOLD_S", 0.1)
    attributions, asked = asking()
    log = NackLog(attributions)
    (process,) = processes(log, asks=True)
    process.take(nacked(message="malformed"))
    await wait_until(lambda: len(lines), equals=1)
    assert (lines[0]["blamed"], lines[0]["blamed_by"]) == ([], "unknown")
    asked.may_answer.set()
    await wait_until(lambda: attributions.of("default", nacked().key), equals={"bad": "Envoy: no"})
    log.flush()


async def test_an_envoy_that_cant_be_asked_is_logged_and_asked_no_more_about_that(lines: list[Any]) -> None:
    attributions, asked = asking()
    asked.error = OSError("gone")
    asked.may_answer.set()
    log = NackLog(attributions)
    (process,) = processes(log, asks=True)
    process.take(nacked(message="malformed"))
    await wait_until(lambda: len(lines), equals=2)
    assert [line["event"] for line in lines] == ["no Envoy could be asked which resource is rejected", "nack"]
    assert attributions.of("default", nacked().key) == {}
    log.flush()


async def test_nothing_is_asked_where_words_name_it_or_there_is_no_other(lines: list[Any]) -> None:
    attributions, asked = asking()
    log = NackLog(attributions)
    (process,) = processes(log, asks=True)
    process.take(nacked())
    process.take(nacked(message="malformed", names=("bad",)))
    await wait_until(lambda: len(lines), equals=2)
    assert [(line["blamed"], line["blamed_by"]) for line in lines] == [(["bad"], "client"), (["bad"], "only")]
    assert asked.questions == []
    log.flush()


async def test_each_content_is_asked_about_once_and_one_after_the_other() -> None:
    attributions, asked = asking()
    one = Suspects("default", CDS, b"one", (static("bad"),))
    for _ in range(3):
        attributions.consider(one)
    for number in range(2 * WAITING_MAX):
        attributions.consider(Suspects("default", CDS, b"%d" % number, (static("bad"),)))
    await wait_until(lambda: len(asked.questions), equals=1)
    asked.may_answer.set()
    await wait_until(lambda: len(attributions._known), equals=WAITING_MAX)
    attributions.consider(one)
    assert (len(asked.questions), len(attributions._waiting)) == (WAITING_MAX, 0)


async def test_a_process_reports_one_question_at_a_time_and_none_twice() -> None:
    told: list[Gathered] = []
    process = NackGatherer(told.append, asks=True)
    for _ in range(3):
        for number in range(5):
            process.take(nacked(message=f"malformed {number}", names=("bad", f"c{number}")))
    await wait_until(lambda: sum(each.suspects is not None for each in told), equals=5)
    process.take(nacked(message="malformed 0", names=("bad", "c0")))
    process.flush()
    keys = [each.suspects.key for each in told if each.suspects is not None]
    assert (len(keys), len(set(keys)), sum(len(each.reports) for each in told)) == (5, 5, 6)


async def test_too_large_a_response_is_not_asked_about(monkeypatch) -> None:
    monkeypatch.setattr(nacks, "SUSPECTS_MAX", 1)
    told: list[Gathered] = []
    process = NackGatherer(told.append, asks=True)
    process.take(nacked(message="malformed"))
    process.flush()
    assert [(len(each.reports), each.suspects) for each in told] == [(1, None)]


async def test_nodes_are_shown_with_what_the_envoy_found(make_node: Callable[[str], NodeSummary]) -> None:
    attributions, asked = asking()
    asked.may_answer.set()
    before = make_node("malformed")
    assert attributions.attributed([before]) == (before,)
    key = bytes.fromhex(before.types[0].rejected_key)
    attributions.consider(Suspects("default", CDS, key, (static("bad"), static("good"))))
    await wait_until(lambda: attributions.of("default", key) is not None)
    (found,) = attributions.attributed([before])
    assert (found.types[0].blamed, found.types[0].blamed_by) == (("bad",), BlamedBy.JUDGE)
    named = make_node(NAMED)
    assert attributions.attributed([named]) == (named,)


@pytest.fixture
def make_node() -> Callable[[str], NodeSummary]:
    from support.hubs import World

    def make(message: str) -> NodeSummary:
        world = World()
        world.publish(static("bad"), static("good"))
        client = world.client()
        client.subscribe(CDS)
        client.nack(CDS, message)
        (node,) = nodes_page(world.hub.streams, NodesQuery(), world.now).nodes
        return node

    return make
