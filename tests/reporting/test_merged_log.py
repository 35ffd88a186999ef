"""Log lines that clients cause: the first few of a kind are logged, the others counted."""

import asyncio
from typing import Any

from support.waiting import wait_until

from xds.reporting.merged_log import MergedLog


class Lines:
    """Records lines like a structlog logger."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.now = 0.0

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))

    def take(self) -> list[tuple[str, str, dict[str, Any]]]:
        taken, self.lines = self.lines, []
        return taken


def merged(**options: Any) -> tuple[Lines, MergedLog]:
    lines = Lines()
    return lines, MergedLog(lines, clock=lambda: lines.now, **options)


def test_the_first_lines_of_a_kind_are_logged_as_they_come_and_the_others_counted() -> None:
    lines, log = merged(lines_max=2)
    for number in range(100_000):
        log.warning("refused", node=number)
    assert lines.take() == [("warning", "refused", {"node": 0}), ("warning", "refused", {"node": 1})]
    lines.now = 60.0
    log.warning("refused", node="next")
    assert lines.take() == [
        ("warning", "refused", {"node": 99_999, "count": 99_998}),
        ("warning", "refused", {"node": "next"}),
    ]


def test_kinds_are_merged_apart() -> None:
    lines, log = merged(lines_max=1)
    log.warning("nack", kind="CDS", n=1)
    log.warning("nack", kind="CDS", n=2)
    log.warning("nack", kind="LDS", n=3)
    log.error("nack", kind="EDS", n=4)
    assert [fields["n"] for _, _, fields in lines.take()] == [1, 3, 4]
    log.flush()
    assert lines.take() == [("warning", "nack", {"n": 2, "count": 1})]


def test_few_lines_are_all_logged_and_nothing_follows() -> None:
    lines, log = merged(lines_max=3)
    for number in range(3):
        log.warning("refused", node=number)
    assert len(lines.take()) == 3
    log.flush()
    lines.now = 1_000.0
    log.flush()
    assert lines.take() == []


def test_kinds_are_bounded_and_how_many_others_there_were_is_told() -> None:
    lines, log = merged(lines_max=1, kinds_max=10)
    for number in range(1_000):
        log.warning("refused", kind=number, n=number)
        log.warning("refused", kind=number, n=number)
    told = lines.take()
    assert [fields for _, _, fields in told] == [{"n": number} for number in range(10)]
    log.flush()
    told += lines.take()
    assert len(told) == 10 + 10 + 1
    assert told[-1][2] == {"n": 999, "count": 1_980, "of_more_kinds": True}
    assert sum(fields.get("count", 1) for _, _, fields in told) == 2_000


def test_a_source_with_many_kinds_does_not_hide_others() -> None:
    lines, log = merged(lines_max=1, source_kinds_max=3)
    for number in range(1_000):
        log.warning("refused", kind=number, source="ann", examples={"nodes": f"n{number}"}, n=number)
    log.warning("refused", kind=5, source="bob", n="bob's")
    assert [fields["n"] for _, _, fields in lines.take()] == [0, 1, 2, "bob's"]
    log.flush()
    nodes = [f"n{number}" for number in range(3, 8)]
    assert lines.take() == [
        ("warning", "refused", {"n": 999, "nodes": nodes, "count": 997, "of_more_kinds": True}),
    ]


def test_sources_and_what_they_write_are_bounded() -> None:
    lines, log = merged(sources_max=10, kinds_max=50, characters_max=4_000)
    for number in range(10_000):
        for each in range(5):
            log.warning("refused", kind=each, source=f"s{number}", text="x" * 100)
    at_once = lines.take()
    assert sum(len(fields["text"]) for _, _, fields in at_once) <= 4_000
    log.flush()
    told = [*at_once, *lines.take()]
    assert len(told) < 10 * 5 * 2 + 10 + 1
    assert sum(fields.get("count", 1) for _, _, fields in told) == 50_000
    assert (log._sources, log._kinds, log._others, log._source_kinds) == ({}, {}, {}, 0)


def test_a_source_gets_room_again_after_a_window() -> None:
    lines, log = merged(lines_max=1, source_kinds_max=1, sources_max=1)
    for now, source in ((0.0, "ann"), (61.0, "bob"), (122.0, "ann")):
        lines.now = now
        log.warning("refused", kind=now, source=source, n=now)
        log.warning("refused", kind="other", source=source, n="other")
    told = [fields for _, _, fields in lines.take()]
    other = {"n": "other", "count": 1, "of_more_kinds": True}
    assert told == [{"n": 0.0}, other, {"n": 61.0}, other, {"n": 122.0}]


def test_a_merged_line_names_some_of_those_that_it_stands_for() -> None:
    lines, log = merged(lines_max=1)
    for number in range(100):
        log.warning("refused", examples={"nodes": f"n{number % 20}", "none": ""}, node=f"n{number}")
    log.flush()
    assert lines.take()[-1][2] == {"node": "n99", "nodes": ["n1", "n2", "n3", "n4", "n5"], "count": 99}


def test_a_window_ends_by_itself_where_an_event_loop_runs() -> None:
    lines = Lines()
    log = MergedLog(lines, lines_max=1, window_s=0.05)

    async def run() -> None:
        for number in range(3):
            log.warning("refused", n=number)
        await wait_until(lambda: lines.lines, lambda found: len(found) >= 2)

    asyncio.run(run())
    assert [fields for _, _, fields in lines.take()] == [{"n": 0}, {"n": 2, "count": 2}]
