"""Faults put into the core on purpose, most of which it once had: the simulation has to find each of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from xds.protocol.answers import Answers
from xds.protocol.claims import Claims
from xds.protocol.draining_nodes import DrainingNodes
from xds.protocol.hub import Hub
from xds.protocol.nacked_names import NackedNames
from xds.protocol.name_sets import NO_NAMES
from xds.protocol.session import Session
from xds.protocol.state import TypeState

Patch = Callable[[], Any]


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _table_that_keeps(self: Claims) -> None:
    self._known = {}  # type: ignore[assignment]


def _publish_without_waking(self: Hub, applied: Any) -> None:
    """Take a change over, and forget every third stream that it concerns."""
    publish(self, applied)
    for stream in self._ready[1::3]:
        stream.queued = False
    del self._ready[1::3]


publish = Hub.publish

MUTATIONS: Mapping[str, tuple[Patch, ...]] = {
    # The core's faults of ../cases, in the order of their numbers there.
    "a removal in a rejected response is not sent again": (
        lambda: patch.object(TypeState, "_with_unremoved", lambda _, found, target: found),
    ),
    "what drains is not forgotten at its time": (lambda: patch.object(TypeState, "forget_drained", _nothing),),
    "what drains is noted only when a stream ends": (lambda: patch.object(DrainingNodes, "note", _nothing),),
    "answers that come late are dropped": (lambda: patch.object(Answers, "take_late", _nothing),),
    "what closed streams claimed is kept": (lambda: patch.object(Claims, "__init__", _table_that_keeps),),
    # Others of their kind.
    "what a node rejected is forgotten with its stream": (
        lambda: patch.object(NackedNames, "of", lambda *_: NO_NAMES),
    ),
    "what drains is forgotten with its stream": (lambda: patch.object(DrainingNodes, "hand_on", _nothing),),
    "routes do not wait for clusters": (lambda: patch.object(Session, "switch_target", lambda self, _: self.newest),),
    "clusters do not wait for what uses them": (lambda: patch.object(Session, "_in_use", lambda *_: frozenset()),),
    "endpoints do not follow their clusters": (lambda: patch.object(Session, "_warm", _nothing),),
    "changes wake too few streams": (lambda: patch.object(Hub, "publish", _publish_without_waking),),
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Have the core do something wrong meanwhile."""
    with ExitStack() as stack:
        for make in MUTATIONS[name]:
            stack.enter_context(make())
        yield
