"""What a body or a header may cost the process that reads it: bounded, whatever was written."""

import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from grpc import aio
from schema import tls_cases
from support.der import stretched_key

from xds._generated import snapshots_pb2 as pb
from xds.address import Address
from xds.api import bodies, grpc_api, rest, run_in_thread
from xds.api.admission import Admission
from xds.api.bodies import changeset_change
from xds.api.grpc_api import GrpcApi
from xds.api.media_types import JSON
from xds.api.rest import SHORT_BODY_BYTES_MAX, rest_api
from xds.model import closest
from xds.model.problem import ChangesetRejectedError
from xds.schema.semantics.pem import ITERATIONS_MAX, STRETCHED_MAX

FEW = "/v1/groups/default"
"""A group of which bodies with few fields say something."""


def test_the_suggestions_for_all_unknown_types_of_a_body_share_what_may_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    characters: list[int] = []
    likeness = closest.likeness

    def counting(one: str, other: str) -> float:
        characters.append(len(other))
        return likeness(one, other)

    monkeypatch.setattr(closest, "likeness", counting)
    types = [f"envoy.config.cluster.v3.Clustex{number}" for number in range(2_000)]
    body = json.dumps({"upsert": [{"@type": f"type.googleapis.com/{each}"} for each in types]}).encode()
    with pytest.raises(ChangesetRejectedError) as refused:
        changeset_change("g", body, JSON)
    hints = [each.hint for each in refused.value.problems]
    assert len(hints) == 2_000
    assert hints[0].startswith("did you mean envoy.config.cluster.v3.Cluster")
    assert hints[-1] == "add its descriptors with --schema"
    assert sum(characters) <= closest.WORK_MAX


def secret(name: str, *, iterations: int = ITERATIONS_MAX) -> dict[str, Any]:
    key = stretched_key(tls_cases.encrypted("abc"), iterations)
    return {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
        "tls_certificate": {"private_key": {"inline_string": key}, "password": {"inline_string": name}},
    }


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads on which keys were derived from passwords."""
    threads: list[int] = []

    def load(*_: Any, **__: Any) -> None:
        threads.append(threading.get_ident())
        raise ValueError

    monkeypatch.setattr(serialization, "load_pem_private_key", load)
    return threads


def test_the_encrypted_keys_of_a_change_share_their_iterations(derived: list[int]) -> None:
    body = json.dumps({"upsert": [secret(f"s{number}") for number in range(20)]}).encode()
    with pytest.raises(ChangesetRejectedError, match="certificate_chain"):
        changeset_change("g", body, JSON)
    assert len(derived) == STRETCHED_MAX // ITERATIONS_MAX
    quick = json.dumps({"upsert": [secret(f"s{number}", iterations=2_048) for number in range(20)]}).encode()
    with pytest.raises(ChangesetRejectedError, match="certificate_chain"):
        changeset_change("g", quick, JSON)
    assert len(derived) == STRETCHED_MAX // ITERATIONS_MAX + 20


@pytest.fixture
async def api(serving_api: Any) -> AsyncIterator[httpx.AsyncClient]:
    served = await serving_api()
    app = rest_api(served.operations, Admission(), body_bytes_max=10_000_000)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        yield client


async def test_a_small_body_with_an_encrypted_key_is_read_on_a_thread(
    api: httpx.AsyncClient, derived: list[int]
) -> None:
    body = json.dumps(secret("s", iterations=2_048))
    assert len(body) < run_in_thread.SHORT_BYTES
    answer = await api.put(f"{FEW}/resources/secrets/s", content=body, headers={"content-type": JSON})
    assert answer.status_code == 422
    assert len(derived) == 1
    assert threading.get_ident() not in derived


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{FEW}/rollback", {"to": 0}),
        ("PUT", FEW, {}),
        ("POST", "/v1/rebalance", {"share": 0.5}),
        ("PUT", "/v1/groups", {"rules": []}),
        ("PATCH", "/v1/groups", {"rules": []}),
        ("POST", "/v1/changesets", {}),
        ("POST", f"{FEW}/changesets", {}),
        ("PUT", f"{FEW}/snapshot", {"resources": []}),
        ("PUT", f"{FEW}/resources/clusters/a", {"name": "a"}),
    ],
)
async def test_all_but_small_bodies_are_read_on_a_thread(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: dict[str, Any]
) -> None:
    threads: list[int] = []
    read = bodies.read_json

    def reading(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.get_ident())
        return read(*arguments, **options)

    monkeypatch.setattr(bodies, "read_json", reading)
    for more in (0, run_in_thread.SHORT_BYTES):
        await api.request(method, path, content=json.dumps(body) + " " * more, headers={"content-type": JSON})
    assert [each == threading.get_ident() for each in threads] == [True, False]


@pytest.mark.parametrize(("method", "path"), [("POST", f"{FEW}/rollback"), ("PUT", FEW), ("POST", "/v1/rebalance")])
async def test_bodies_of_few_fields_have_a_small_maximum(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(rest.bodies, "document_of", lambda data, _: read.append(data))
    content = b" " * (SHORT_BODY_BYTES_MAX + 1)
    answer = await api.request(method, path, content=content, headers={"content-type": JSON})
    assert (answer.status_code, answer.json()["error"]) == (413, "the body has more than the 131,072 bytes allowed")
    assert read == []


@pytest.mark.parametrize("name", ["PutRules", "UpdateRules"])
async def test_large_rules_over_grpc_are_read_on_a_thread(
    serving_api: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    threads: list[int] = []
    read = grpc_api.document_of

    def reading(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return read(*arguments)

    monkeypatch.setattr(grpc_api, "document_of", reading)
    served = await serving_api()
    api = GrpcApi(Address("127.0.0.1", 0), served.operations, Admission(), body_bytes_max=1_000_000)
    await api.start()
    try:
        async with aio.insecure_channel(str(api.address)) as channel:
            for count in (0, run_in_thread.SHORT_BYTES):
                message = pb.Rules()
                message.rules.update({"external": [f"clusters/c{number}" for number in range(count)]})
                call = channel.unary_unary(f"/xds_control_plane.api.v1.Snapshots/{name}")
                await call(message.SerializeToString())
    finally:
        await api.stop()
    assert [each == threading.get_ident() for each in threads] == [True, False]
