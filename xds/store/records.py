"""Encode entries and states as bytes, for a store that several control planes share."""

from collections.abc import Sequence
from typing import Any

from xds._generated import store_pb2 as pb
from xds.store.entries import Entry, Key, State, Stored

PIECE_BYTES = 1_000_000
"""Maximum bytes of one value: etcd's default limit of a request is 1.5 MiB."""


def encode_batch(entries: Sequence[Entry], first_revision: int) -> bytes:
    """Encode the entries of one batch."""
    batch = pb.Batch(first_revision=first_revision)
    for entry in entries:
        batch.entries.add(
            id=entry.id,
            digest=entry.digest(),
            author=entry.author,
            message=entry.message,
            at_ms=entry.at_ms,
            groups=entry.groups,
            operations=[
                _operation(key, encoded, added=key in entry.added) for key, encoded in entry.operations.items()
            ],
        )
    return bytes(batch.SerializeToString())


def decode_batch(data: bytes) -> list[Stored]:
    """Decode what ``encode_batch`` returned. Raises DecodeError."""
    batch = pb.Batch.FromString(data)
    return [Stored(batch.first_revision + at, _entry(each)) for at, each in enumerate(batch.entries)]


def _entry(message: Any) -> Entry:
    operations = {
        Key(each.group, each.type_url, each.name): each.encoded if each.HasField("encoded") else None
        for each in message.operations
    }
    return Entry(
        id=message.id,
        operations=operations,
        groups=message.groups if message.HasField("groups") else None,
        author=message.author,
        message=message.message,
        at_ms=message.at_ms,
        request=message.digest,
        added=frozenset(Key(each.group, each.type_url, each.name) for each in message.operations if each.added),
    )


def encode_base(state: State) -> bytes:
    """Encode a state, without its revision."""
    resources = [_operation(key, encoded) for key, encoded in state.resources.items()]
    return bytes(pb.Base(resources=resources, groups=state.groups).SerializeToString())


def decode_base(data: bytes, revision: int) -> State:
    """Decode what ``encode_base`` returned. Raises DecodeError."""
    base = pb.Base.FromString(data)
    resources = {Key(each.group, each.type_url, each.name): each.encoded for each in base.resources}
    return State(revision, resources, base.groups if base.HasField("groups") else None)


def pieces_of(data: bytes) -> list[bytes]:
    """Split bytes into pieces that fit into one request each."""
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


def _operation(key: Key, encoded: bytes | None, *, added: bool = False) -> Any:
    return pb.Operation(group=key.group, type_url=key.type_url, name=key.name, encoded=encoded, added=added)
