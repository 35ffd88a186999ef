"""One log line per kind of NACK and minute: how many clients reject what, some of them, why, and what is to blame.

Each process that serves streams gathers the NACKs of its clients for a second (``NackGatherer``); the process that logs
adds up what they report (``NackLog``). A kind is a group, a type and a message. Clients choose their messages, so there
are at most ``KINDS_MAX`` kinds in a minute; NACKs beyond them are one more kind.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import structlog

from xds.model.types import short_name
from xds.protocol.blame import BlamedBy, blame_in
from xds.protocol.status import Nacked
from xds.reporting.attributions import Attributions, Suspects

GATHER_S = 1.0
"""How long a process gathers NACKs before it reports them."""
WINDOW_S = 60.0
"""The least time between two lines of a kind."""
KINDS_MAX = 100
EXAMPLES_MAX = 5
"""Maximum nodes that a line names."""
NAMES_MAX = 20
"""Maximum resources of the response that a line names."""
MESSAGE_CHARACTERS_MAX = 2_000
NODE_CHARACTERS_MAX = 200
HOLD_S = 10.0
"""How long a line waits for the Envoy that is asked which resource is to blame."""
HOLD_POLL_S = 0.1
SUSPECTS_MAX = 2_000
"""Maximum resources of a response that an Envoy is asked about."""
SUSPECTS_BYTES_MAX = 1024 * 1024
ASKED_MAX = 1_000
"""Maximum contents of responses that a process remembers to have asked about."""
ASKING_MAX = 8
"""Maximum questions that a process keeps until it reports them, one with each report."""
log = structlog.get_logger("xds")


class NackKind(NamedTuple):
    """What NACKs of a kind have in common."""

    group: str
    type_url: str
    message: str


OTHERS = NackKind("", "", "")
"""The kind of the NACKs beyond ``KINDS_MAX`` kinds."""


@dataclass(slots=True)
class NackReport:
    """The NACKs of a kind, of one process within a second, or of all within a minute."""

    kind: NackKind
    group: str
    key: bytes
    """The content of one of the rejected responses (``Part.content_key``)."""
    names: tuple[str, ...]
    """The first names in that response, of ``names_count``."""
    names_count: int
    blamed: tuple[str, ...]
    blamed_by: BlamedBy
    nodes: list[str]
    """Some of the nodes."""
    count: int = 0

    def add(self, nodes: list[str], count: int) -> None:
        """Count further NACKs."""
        self.count += count
        for node in nodes:
            if len(self.nodes) < EXAMPLES_MAX and node not in self.nodes:
                self.nodes.append(node)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a process reports: NACKs by kind, and the resources of one response that an Envoy is to be asked about."""

    reports: tuple[NackReport, ...]
    suspects: Suspects | None = None


class NackGatherer:
    """Gathers the NACKs of one process's clients. Use it in one event loop. ``asks``: there is an Envoy to ask."""

    def __init__(self, report: Callable[[Gathered], None], *, asks: bool = False) -> None:
        self._report = report
        self._asks = asks
        self._kinds: dict[NackKind, NackReport] = {}
        self._asked: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._asking: OrderedDict[tuple[str, bytes], Suspects] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, event: Nacked) -> None:
        """Count a NACK."""
        kind = NackKind(event.group, event.type_url, event.message[:MESSAGE_CHARACTERS_MAX])
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            kind = OTHERS
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = self._begin(kind, event)
        found.add([event.node_id[:NODE_CHARACTERS_MAX]], 1)
        self._report_later()

    def _begin(self, kind: NackKind, event: Nacked) -> NackReport:
        blamed, blamed_by = blame_in(event.message, event.resources)
        if self._asks and blamed_by is BlamedBy.UNKNOWN:
            self._ask(event)
        names = tuple(islice(event.resources, NAMES_MAX))
        return NackReport(kind, event.group, event.key, names, len(event.resources), blamed, blamed_by, [])

    def _ask(self, event: Nacked) -> None:
        place = (event.group, event.key)
        size = sum(len(each.encoded) for each in event.upserts)
        if place in self._asked or len(event.upserts) > SUSPECTS_MAX or size > SUSPECTS_BYTES_MAX:
            return
        if place not in self._asking and len(self._asking) < ASKING_MAX and event.upserts:
            self._asking[place] = Suspects(event.group, event.type_url, event.key, event.upserts)

    def _report_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.flush)

    def flush(self) -> None:
        """Report what was gathered; call it before an exit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._kinds and not self._asking:
            return
        reports, self._kinds = tuple(self._kinds.values()), {}
        suspects = None
        if self._asking:
            place, suspects = self._asking.popitem(last=False)
            self._asked[place] = None
            if len(self._asked) > ASKED_MAX:
                self._asked.popitem(last=False)
        self._report(Gathered(reports, suspects))
        if self._asking:
            self._report_later()


@dataclass(slots=True)
class _Window:
    """The NACKs of a kind that are not logged yet."""

    report: NackReport
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def cancel(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class NackLog:
    """Adds up what the processes report, and logs it. Use it in one event loop."""

    def __init__(self, attributions: Attributions) -> None:
        self._attributions = attributions
        self._windows: dict[Hashable, _Window] = {}

    def take(self, gathered: Gathered) -> None:
        """Take what a process reports."""
        if gathered.suspects is not None:
            self._attributions.consider(gathered.suspects)
        for report in gathered.reports:
            self._add(report)

    def _add(self, report: NackReport) -> None:
        kind = report.kind
        if kind not in self._windows and len(self._windows) >= KINDS_MAX:
            kind = OTHERS
        window = self._windows.get(kind)
        if window is not None:
            window.report.add(report.nodes, report.count)
            return
        report.kind = kind
        window = self._windows[kind] = _Window(report)
        self._log_when_known(window, asyncio.get_running_loop().time() + HOLD_S)

    def _log_when_known(self, window: _Window, until: float) -> None:
        """Log the first line of a kind, once it is known what is to blame, or at a time at the latest."""
        loop = asyncio.get_running_loop()
        report = window.report
        is_open = report.blamed_by is BlamedBy.UNKNOWN and self._attributions.is_on
        if is_open and self._attributions.of(report.group, report.key) is None and loop.time() < until:
            window.timers = [loop.call_later(HOLD_POLL_S, self._log_when_known, window, until)]
            return
        self._log(window)

    def _log(self, window: _Window) -> None:
        """Log a line; further NACKs of the kind are logged a minute later."""
        report = window.report
        blamed, blamed_by = report.blamed, report.blamed_by
        if blamed_by is BlamedBy.UNKNOWN and (found := self._attributions.of(report.group, report.key)):
            blamed, blamed_by = tuple(sorted(found)), BlamedBy.JUDGE
        is_other = report.kind is OTHERS
        log.warning(
            "nack",
            count=report.count,
            nodes=list(report.nodes),
            group=report.group,
            type="of many kinds" if is_other else short_name(report.kind.type_url),
            blamed=list(blamed),
            blamed_by=blamed_by.value,
            resources=list(report.names),
            resource_count=report.names_count,
            message=f"more than {KINDS_MAX} kinds of NACKs in a minute" if is_other else report.kind.message,
        )
        report.count, report.nodes = 0, []
        window.timers = [asyncio.get_running_loop().call_later(WINDOW_S, self._end, window)]

    def _end(self, window: _Window) -> None:
        if window.report.count:
            self._log(window)
        else:
            del self._windows[window.report.kind]

    def flush(self) -> None:
        """Log what is not logged yet; call it before an exit."""
        for window in self._windows.values():
            window.cancel()
            if window.report.count:
                self._log(window)
                window.cancel()
        self._windows.clear()
