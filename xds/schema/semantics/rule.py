"""The form of a semantic rule, and what rules need of the walk that calls them."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from google.protobuf.message import Message

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.pool import Schema


class Walks(Protocol):
    """The compiled walks that a rule runs in: ``plan.Plans``."""

    schema: Schema

    def canonical(self, message: Message, mode: int, trail: Trail, found: Findings) -> bytes:
        """Walk a message that a rule made."""
        ...


Rule: TypeAlias = Callable[[Any, Trail, Findings, Walks], None]
"""Adds what is wrong with one message, at its place.

A rule must never refuse what Envoy accepts, whatever its bootstrap says: ``tests/schema/test_semantics.py`` asks a real
Envoy about each.
"""
