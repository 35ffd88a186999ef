"""What a replica makes of what another version of the server wrote: what docs/policies.md says of version skew."""

import json

import pytest
from support import resources as r

from xds._generated import store_pb2, xds_wire_pb2
from xds.model.groups import GroupTable, Rule
from xds.publishing.codec import decode_table, encode_table, read_table, restored
from xds.schema.ingest import ingest
from xds.schema.wire import encode_any, encode_resource
from xds.store.entries import Entry, Key
from xds.store.errors import UnreadableError
from xds.store.records import decode_batch, encode_batch

UNKNOWN_FIELD = b"\xfa\xff\x0f\x03new"
"""Field 32,767, with three bytes: no message of Envoy's or ours has it."""
FUTURE_TYPE = "type.googleapis.com/envoy.config.future.v3.Future"


def test_a_resource_with_fields_of_a_later_api_keeps_its_bytes_version_and_references() -> None:
    today = ingest(r.route("routes", "web"))
    value = xds_wire_pb2.Resource.FromString(today.encoded).resource.value + UNKNOWN_FIELD
    later = encode_resource(encode_any(today.type_url, value), "routes")
    read = restored(Key("default", today.type_url, "routes"), later.encoded, "revision 1")
    assert (read.encoded, read.version) == (later.encoded, later.version)
    assert read.version != today.version
    assert [reference[:2] for reference in read.references] == [reference[:2] for reference in today.references] != []


def test_a_resource_of_a_type_of_a_later_api_keeps_its_bytes_and_version() -> None:
    later = encode_resource(encode_any(FUTURE_TYPE, UNKNOWN_FIELD), "one")
    read = restored(Key("default", FUTURE_TYPE, "one"), later.encoded, "revision 1")
    assert (read.encoded, read.version, read.references) == (later.encoded, later.version, ())


def test_groups_and_rules_with_a_key_of_a_later_version_are_refused_by_name() -> None:
    later = {**json.loads(encode_table(GroupTable())), "invented": True}
    with pytest.raises(UnreadableError, match=r"revision 7 can't be read: groups and rules: .*'invented'"):
        read_table(json.dumps(later).encode(), "revision 7")


def test_groups_and_rules_that_lack_a_key_of_this_version_get_its_default() -> None:
    table = GroupTable(rules=(Rule(group="web", id="web-*"),), names=("web",))
    earlier = json.loads(encode_table(table))
    del earlier["external"], earlier["rules"][0]["metadata"]
    assert decode_table(json.dumps(earlier).encode()) == table


def test_fields_that_a_later_version_adds_to_a_record_in_etcd_are_ignored() -> None:
    entry = Entry(id="one", operations={Key("default", "t", "n"): b"x"}, author="ann", at_ms=1)
    batch = store_pb2.Batch.FromString(encode_batch([entry], 1))
    later = batch.SerializeToString() + UNKNOWN_FIELD
    assert [stored.entry for stored in decode_batch(later)] == [entry]
