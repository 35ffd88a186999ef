"""A resource is encoded once, compared by identity and identified by a fingerprint of its name and version."""

import dataclasses
import pickle
from hashlib import blake2b
from pathlib import Path

import pytest
from mypy import api as mypy_api

from xds.model.resource import Reference, Resource
from xds.model.types import CLUSTER, TYPE_PREFIX


def made(name: str = "web", version: str = "v1", type_url: str = CLUSTER) -> Resource:
    return Resource(type_url=type_url, name=name, version=version, encoded=b"<body>", body_start=1, body_end=5)


def test_body_is_a_slice_of_what_delta_sends() -> None:
    assert made().body == b"body"


def test_the_type_checker_holds_it_immutable(tmp_path: Path) -> None:
    code = tmp_path / "renaming.py"
    code.write_text(
        "from xds.model.resource import Resource as R\n\n\ndef f(resource: R) -> None:\n    resource.name = ''\n"
    )
    said, _, status = mypy_api.run(["--no-incremental", "--follow-imports=silent", str(code)])
    assert (status, 'Property "name" defined in "Resource" is read-only' in said) == (1, True), said


def test_a_copy_by_pickle_is_the_same_in_all_it_has() -> None:
    reference = Reference(CLUSTER, "b", "routes[0]")
    one = dataclasses.replace(made(), references=(reference,), ttl_s=1.5, heartbeat=b"h", aliases=("x",), source="f:3")
    again = pickle.loads(pickle.dumps(one))
    assert [getattr(again, each.name) for each in dataclasses.fields(one)] == [
        getattr(one, each.name) for each in dataclasses.fields(one)
    ]
    assert isinstance(again.references[0], Reference)


def test_it_is_compared_by_identity_so_that_streams_can_hold_it_in_sets() -> None:
    one, other = made(), made()
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_its_fingerprint_is_64_bits_over_name_and_version() -> None:
    assert made().fingerprint == int.from_bytes(blake2b(b"web\0v1", digest_size=8).digest())
    assert made().fingerprint == made().fingerprint
    assert 0 <= made().fingerprint < 2**64


@pytest.mark.parametrize(("name", "version"), [("web", "v2"), ("we", "bv1"), ("", "webv1")])
def test_another_name_or_version_has_another_fingerprint(name: str, version: str) -> None:
    assert made(name, version).fingerprint != made().fingerprint


def test_it_reads_as_operators_name_it() -> None:
    assert repr(made()) == "<clusters/web @v1>"
    assert repr(made(type_url=TYPE_PREFIX + "acme.Thing")) == "<acme.Thing/web @v1>"


def test_a_reference_is_a_plain_value() -> None:
    assert Reference(CLUSTER, "web") == (CLUSTER, "web", "")


def test_a_resource_without_a_body_is_version_only() -> None:
    resource = Resource(type_url=CLUSTER, name="web", version="v1", encoded=b"")
    assert resource.is_version_only
    assert not made().is_version_only
    assert resource.fingerprint == made().fingerprint
