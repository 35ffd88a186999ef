"""Which resources are to blame for rejected responses whose NACKs do not name them, as an Envoy judges them.

The questions are asked one after the other, off the event loop, and each content of a response is asked about once:
however many clients reject it, and whatever they say, that costs nothing more.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from xds.model.resource import Resource
from xds.process.background import Background
from xds.protocol.blame import BlamedBy
from xds.protocol.status import NodeSummary, TypeSummary

KNOWN_MAX = 1_000
"""Maximum answers that are kept."""
WAITING_MAX = 32
"""Maximum questions that wait for their turn; further ones are dropped, and asked again when the NACK comes again."""
log = structlog.get_logger("xds")

Ask = Callable[[str, str, tuple[Resource, ...]], Mapping[str, str]]
"""Takes a group, a type URL and resources to the names of those that an Envoy refuses, with its words. Blocks."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """The resources of a response that was rejected. ``key`` is ``Part.content_key`` of the response."""

    group: str
    type_url: str
    key: bytes
    resources: tuple[Resource, ...]


class Attributions:
    """The answers of an Envoy about rejected responses. Without ``ask`` there are none."""

    def __init__(self, background: Background) -> None:
        self.ask: Ask | None = None
        self._background = background
        self._known: OrderedDict[tuple[str, bytes], Mapping[str, str]] = OrderedDict()
        self._waiting: deque[Suspects] = deque()
        self._is_busy = False

    @property
    def is_on(self) -> bool:
        """Whether there is an Envoy to ask."""
        return self.ask is not None

    def of(self, group: str, key: bytes) -> Mapping[str, str] | None:
        """Return the refused names of a response with Envoy's words; none if it refuses none; None if not known."""
        return self._known.get((group, key))

    def consider(self, suspects: Suspects) -> None:
        """Ask about the resources of a response, unless the answer is known or the question waits already."""
        place = (suspects.group, suspects.key)
        if self.ask is None or place in self._known or len(self._waiting) >= WAITING_MAX:
            return
        if any((each.group, each.key) == place for each in self._waiting):
            return
        self._waiting.append(suspects)
        if not self._is_busy:
            self._is_busy = True
            self._background.run("find the resources that are rejected", self._work())

    async def _work(self) -> None:
        try:
            while self._waiting and self.ask is not None:
                asked = self._waiting[0]
                found = await asyncio.to_thread(self._answer, self.ask, asked)
                self._waiting.popleft()
                self._known[asked.group, asked.key] = found
                if len(self._known) > KNOWN_MAX:
                    self._known.popitem(last=False)
        finally:
            self._is_busy = False

    @staticmethod
    def _answer(ask: Ask, asked: Suspects) -> Mapping[str, str]:
        try:
            return ask(asked.group, asked.type_url, asked.resources)
        except Exception as error:
            log.warning("no Envoy could be asked which resource is rejected", problem=str(error)[:500])
            return {}

    def attributed(self, nodes: Iterable[NodeSummary]) -> tuple[NodeSummary, ...]:
        """Return the nodes with the resources that are to blame for their last NACKs, where that is known."""
        return tuple(map(self._attributed, nodes)) if self._known else tuple(nodes)

    def _attributed(self, node: NodeSummary) -> NodeSummary:
        types = tuple(self._with_answer(node.group, each) for each in node.types)
        return node if types == node.types else replace(node, types=types)

    def _with_answer(self, group: str, each: TypeSummary) -> TypeSummary:
        if each.blamed_by is not BlamedBy.UNKNOWN or not each.rejected_key:
            return each
        found = self.of(group, bytes.fromhex(each.rejected_key))
        return replace(each, blamed=tuple(sorted(found)), blamed_by=BlamedBy.JUDGE) if found else each
