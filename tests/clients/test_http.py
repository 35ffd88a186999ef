"""What an HTTP/2 client that knows nothing of gRPC sees: curl (nghttp2), in plaintext and by ALPN over TLS."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from support import resources as r
from support import toolchains
from support.control_planes import app_of
from support.native_dial import DELTA_ADS, HEALTH_CHECK
from support.native_peer import message
from support.pki import Authority
from support.wire import wire

from xds.embed import ControlPlane

CHECK = message(health_pb2.HealthCheckRequest(service="").SerializeToString())


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as curl saw it; ``fields`` are the headers and the trailers."""

    version: str
    status: int
    fields: dict[str, str]
    body: bytes


@pytest.fixture
def curl(tmp_path: Path):
    """Ask a control plane by curl: ``await curl(control_plane, path, *options, body=…, content_type=…)``."""
    if shutil.which("curl") is None:
        toolchains.without(Exception("no curl on this machine: install it (Debian: curl)"))

    async def ask(
        control_plane: ControlPlane, path: str, *options: str, body: bytes | None = CHECK, content_type: str | None
    ) -> Said:
        assert control_plane.address is not None
        head, data, sent = tmp_path / "head", tmp_path / "data", tmp_path / "sent"
        data.write_bytes(b"")
        argv = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10", "--dump-header", str(head)]
        argv += ["--output", str(data), "--write-out", "%{http_version} %{response_code}", *_post(sent, body)]
        argv += ["--header", "te: trailers"]
        argv += ["--header", "content-type:" if content_type is None else f"content-type: {content_type}"]
        secure = "--cacert" in options
        argv += [*(["--http2"] if secure else ["--http2-prior-knowledge"]), *options]
        argv.append(f"{'https' if secure else 'http'}://localhost:{control_plane.address.port}{path}")
        child = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, complaint = await child.communicate()
        assert child.returncode == 0, complaint.decode()
        version, status = out.decode().split()
        lines = [line.partition(":") for line in head.read_text().splitlines() if ":" in line]
        return Said(version, int(status), {name: value.strip() for name, _, value in lines}, data.read_bytes())

    return ask


def _post(sent: Path, body: bytes | None) -> Sequence[str]:
    if body is None:
        return ()
    sent.write_bytes(body)
    return ("--data-binary", f"@{sent}")


def is_healthy(said: Said) -> bool:
    """Say whether this is the whole of a unary answer: headers, one message, and OK in the trailers."""
    healthy = message(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString())
    return (said.version, said.status, said.body, said.fields.get("grpc-status")) == ("2", 200, healthy, "0")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc; charset=utf-8",
        "application/grpc+proto;charset=utf-8",
    ],
)
async def test_every_form_of_grpcs_content_type_is_served(serving, curl, content_type):
    async with serving() as control_plane:
        said = await curl(control_plane, HEALTH_CHECK, content_type=content_type)
        assert is_healthy(said), said
        assert said.fields["content-type"].startswith("application/grpc")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/grpc-web", None])
async def test_any_other_content_type_is_415(serving, curl, transport, content_type):
    """PROTOCOL-HTTP2, Requests. grpcio takes any content-type for its own."""
    async with serving() as control_plane:
        said = await curl(control_plane, HEALTH_CHECK, content_type=content_type)
        if transport == "native":
            assert (said.version, said.status) == ("2", 415)
            assert b"gRPC" in said.body
            assert "grpc-status" not in said.fields
        # Whatever was said, the next one is served.
        assert is_healthy(await curl(control_plane, HEALTH_CHECK, content_type="application/grpc"))


async def test_a_browsers_get_is_told_what_this_port_speaks(serving, curl, transport):
    async with serving() as control_plane:
        if transport == "native":
            said = await curl(control_plane, "/", body=None, content_type=None)
            assert (said.status, said.fields["content-type"]) == (405, "text/plain")
            assert b"gRPC" in said.body
        else:  # grpcio resets the stream
            with pytest.raises(AssertionError, match=r"curl: .* stream 1 was not closed cleanly"):
                await curl(control_plane, "/", body=None, content_type=None)
        assert app_of(control_plane).hub.counters.streams_opened == 0


async def test_the_status_of_a_refusal_is_percent_encoded_in_the_trailers(serving, curl):
    """gRPC clients decode it before anyone sees it; what is on the wire has to be ASCII (PROTOCOL-HTTP2, Responses).

    The second request comes with the first, whose answer is on its way when the stream is refused.
    """
    said_by_it = "nœud 100%"
    async with serving() as control_plane:
        first = wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, node=wire.Node(id=said_by_it, cluster="c1"))
        other = wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, node=wire.Node(id="n2", cluster="c1"))
        body = message(first.SerializeToString()) + message(other.SerializeToString())
        said = await curl(control_plane, DELTA_ADS, body=body, content_type="application/grpc")
        assert (said.status, said.fields["grpc-status"]) == (200, "3")
        assert "n%C5%93ud 100%25" in said.fields["grpc-message"]
        assert said.fields["grpc-message"].isascii()


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
async def test_over_tls_http2_is_agreed_on_by_alpn(serving, curl, tmp_path, mutual):
    authority = Authority(tmp_path / "pki")
    pair, client = authority.server(), authority.client()
    tls = {"cert": str(pair.cert_path), "key": str(pair.key_path)}
    trusted = ["--cacert", str(authority.cert_path)]
    own = ["--cert", str(client.cert_path), "--key", str(client.key_path)]
    async with serving(tls=tls | ({"client_ca": str(authority.cert_path)} if mutual else {})) as control_plane:
        said = await curl(
            control_plane, HEALTH_CHECK, *trusted, *(own if mutual else ()), content_type="application/grpc"
        )
        assert is_healthy(said), said
        if mutual:
            with pytest.raises(AssertionError, match="curl: "):
                await curl(control_plane, HEALTH_CHECK, *trusted, content_type="application/grpc")
