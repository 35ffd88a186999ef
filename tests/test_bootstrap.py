import itertools
import json
import subprocess
from pathlib import Path
from typing import Literal

import pytest
from support.envoy import envoy_binary
from support.pki import Authority

from xds.address import Address
from xds.bootstrap import (
    BootstrapSpec,
    ClientTls,
    ClientToken,
    config_source,
    duration,
    envoy_bootstrap,
    grpc_bootstrap,
    token_secret,
)
from xds.cli.bootstrap import to_yaml
from xds.model.groups import Locality, Node

NODE = Node(id="n1", cluster="web", locality=Locality(region="r", zone="z"), metadata={"labels": {"stage": "prod"}})
SERVER = Address("127.0.0.1", 18000)


def accepted(text: str, directory: Path, name: str = "bootstrap.yaml") -> None:
    """Validate a bootstrap with a real Envoy."""
    file = directory / name
    file.write_text(text, encoding="utf-8")
    argv = [envoy_binary(), "--mode", "validate", "-c", file, "--disable-hot-restart", "-l", "warning"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    assert "deprecated" not in done.stderr, done.stderr


@pytest.mark.envoy
@pytest.mark.parametrize(("delta", "per_type"), list(itertools.product([True, False], [True, False])))
@pytest.mark.parametrize("server", ["127.0.0.1:18000", "[::1]:18000", "localhost:18000", "unix:/run/xds.sock"])
def test_envoy_accepts_every_way_to_reach_the_server(tmp_path: Path, delta: bool, per_type: bool, server: str) -> None:
    spec = BootstrapSpec(node=NODE, server=Address.parse(server), delta=delta, per_type=per_type, admin_port=0)
    accepted(to_yaml(envoy_bootstrap(spec)), tmp_path)


@pytest.mark.envoy
@pytest.mark.parametrize("server", ["127.0.0.1:18000", "localhost:18000", "unix:/run/xds.sock"])
@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("server_name", [None, "srv.local"])
def test_envoy_accepts_tls(tmp_path: Path, server: str, mutual: bool, server_name: str | None) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("n1")
    client = {"cert": str(pair.cert_path), "key": str(pair.key_path)} if mutual else {}
    tls = ClientTls(ca=str(authority.cert_path), server_name=server_name, **client)
    spec = BootstrapSpec(node=NODE, server=Address.parse(server), tls=tls)
    accepted(to_yaml(envoy_bootstrap(spec)), tmp_path)


@pytest.mark.envoy
@pytest.mark.parametrize("via", ["injector", "google-grpc"])
@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("per_type", [True, False])
def test_envoy_accepts_both_ways_to_send_a_token(
    tmp_path: Path, via: Literal["injector", "google-grpc"], mutual: bool, per_type: bool
) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("n1")
    client = {"cert": str(pair.cert_path), "key": str(pair.key_path)} if mutual else {}
    tls = ClientTls(ca=str(authority.cert_path), server_name="srv.local", **client)
    token = ClientToken(file=str(tmp_path / "token"), via=via, sds_file=str(tmp_path / "token.yaml"))
    (tmp_path / "token").write_text("a.b.c")
    (tmp_path / "token.yaml").write_text(to_yaml(token_secret(token)))
    spec = BootstrapSpec(node=NODE, server=Address("srv.local", 443), tls=tls, token=token, per_type=per_type)
    accepted(to_yaml(envoy_bootstrap(spec)), tmp_path)


def test_a_token_is_not_sent_in_clear_to_other_machines() -> None:
    token = ClientToken(file="token", sds_file="token.yaml")
    assert BootstrapSpec(node=NODE, server=SERVER, token=token).token is token
    with pytest.raises(ValueError, match=r"in clear to cp\.example:18000; give --tls-ca"):
        BootstrapSpec(node=NODE, server=Address("cp.example", 18000), token=token)


@pytest.mark.envoy
def test_yaml_keeps_text_that_looks_like_something_else(tmp_path: Path) -> None:
    odd = [
        "y",
        "N",
        "on",
        "null",
        "~",
        "1e3",
        "0x1f",
        "0o7",
        ".inf",
        "nan",
        "1.40",
        "",
        "a: b",
        "#x",
        "- x",
        "é\n\x85",
        "*a",
    ]
    node = Node(id="y", cluster="1e3", metadata={text or "empty": text for text in odd}, locality=Locality(region="no"))
    spec = BootstrapSpec(node=node, server=SERVER)
    text = to_yaml(envoy_bootstrap(spec))
    accepted(text, tmp_path)
    accepted(json.dumps(envoy_bootstrap(spec)), tmp_path, "bootstrap.json")
    import yaml

    assert yaml.safe_load(text) == envoy_bootstrap(spec)


def test_the_node_comes_on_the_first_message_only_and_reconnects_back_off() -> None:
    source = envoy_bootstrap(BootstrapSpec(node=NODE, server=SERVER))["dynamic_resources"]["ads_config"]
    assert source["api_type"] == "DELTA_GRPC"
    assert source["set_node_on_first_message_only"] is True
    retry = source["grpc_services"][0]["envoy_grpc"]["retry_policy"]["retry_back_off"]
    assert retry == {"base_interval": "0.5s", "max_interval": "10s"}


def test_per_type_services_have_room_for_a_stream_per_subscription() -> None:
    spec = BootstrapSpec(node=NODE, server=SERVER, per_type=True, fetch_timeout_s=0)
    bootstrap = envoy_bootstrap(spec)
    assert "ads_config" not in bootstrap["dynamic_resources"]
    assert bootstrap["dynamic_resources"]["lds_config"] == config_source(spec)
    assert config_source(spec)["initial_fetch_timeout"] == "0s"
    limits = bootstrap["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"]
    assert limits == [{"max_requests": 100_000, "max_pending_requests": 100_000}]


def test_a_server_known_by_address_is_checked_by_address_and_sent_no_sni() -> None:
    spec = BootstrapSpec(node=NODE, server=SERVER, tls=ClientTls(ca="ca.pem"))
    context = envoy_bootstrap(spec)["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]
    validation = context["common_tls_context"]["validation_context"]
    expected = [{"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}]
    assert validation == {"trusted_ca": {"filename": "ca.pem"}, "match_typed_subject_alt_names": expected}
    assert "sni" not in context


def test_grpc_clients_are_told_server_credentials_and_node() -> None:
    tls = ClientTls(ca="ca.pem", cert="c.pem", key="c.key")
    assert grpc_bootstrap(BootstrapSpec(node=NODE, server=SERVER, tls=tls)) == {
        "xds_servers": [
            {
                "server_uri": "127.0.0.1:18000",
                "channel_creds": [
                    {
                        "type": "tls",
                        "config": {
                            "ca_certificate_file": "ca.pem",
                            "certificate_file": "c.pem",
                            "private_key_file": "c.key",
                        },
                    }
                ],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": "n1",
            "cluster": "web",
            "locality": {"region": "r", "zone": "z"},
            "metadata": {"labels": {"stage": "prod"}},
        },
    }


def test_grpc_clients_send_a_token_from_a_file() -> None:
    token = ClientToken(file="/run/token")
    spec = BootstrapSpec(node=NODE, server=Address("cp.example", 443), tls=ClientTls(ca="ca.pem"), token=token)
    (server,) = grpc_bootstrap(spec)["xds_servers"]
    assert server["call_creds"] == [{"type": "jwt_token_file", "config": {"jwt_token_file": "/run/token"}}]


def test_a_spec_that_envoy_would_exit_on_is_refused() -> None:
    with pytest.raises(ValueError, match="both a node id and a node cluster"):
        BootstrapSpec(node=Node(id="n1"), server=SERVER)
    with pytest.raises(ValueError, match="can't be at port 0"):
        BootstrapSpec(node=NODE, server=Address("127.0.0.1", 0))
    with pytest.raises(ValueError, match="go together"):
        ClientTls(ca="ca.pem", cert="c.pem")


@pytest.mark.parametrize(
    ("seconds", "text"), [(15, "15s"), (0, "0s"), (0.25, "0.25s"), (100, "100s"), (1e-9, "0.000000001s")]
)
def test_durations_are_written_as_protobuf_reads_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
