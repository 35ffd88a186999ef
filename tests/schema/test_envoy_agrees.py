"""Envoy's own validation agrees: on resources that pass, and on why others do not."""

import copy
import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xds.model import types
from xds.model.problem import ChangesetRejectedError
from xds.schema.ingest import ingest

pytestmark = pytest.mark.envoy

CLUSTER: dict[str, Any] = {
    "name": "web",
    "type": "STATIC",
    "connect_timeout": "1s",
    "load_assignment": {
        "cluster_name": "web",
        "endpoints": [
            {
                "lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}}},
                ]
            }
        ],
    },
}
HEALTH_CHECK = {
    "timeout": "1s",
    "interval": "1s",
    "healthy_threshold": 1,
    "unhealthy_threshold": 1,
    "http_health_check": {"path": "/"},
}
TYPED = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def with_health_check(**fields: Any) -> dict[str, Any]:
    return {"health_checks": [HEALTH_CHECK | fields]}


def with_http_check(**fields: Any) -> dict[str, Any]:
    return with_health_check(http_health_check={"path": "/"} | fields)


def with_port(**address: Any) -> dict[str, Any]:
    value = copy.deepcopy(CLUSTER["load_assignment"])
    endpoint = value["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"] = {"socket_address": {"address": "127.0.0.1"} | address}
    return {"load_assignment": value}


def with_tls(**fields: Any) -> dict[str, Any]:
    return {"transport_socket": {"name": "tls", "typed_config": {"@type": TYPED} | fields}}


@pytest.fixture
def envoy_takes(tmp_path: Path) -> Callable[[dict[str, Any]], bool]:
    """Validate a bootstrap with this cluster by Envoy."""
    spec = importlib.util.find_spec("envoy")
    assert spec is not None
    assert spec.submodule_search_locations
    binary = Path(spec.submodule_search_locations[0]) / "_bin" / "envoy"

    def ask(cluster: dict[str, Any]) -> bool:
        bootstrap = tmp_path / "bootstrap.json"
        bootstrap.write_text(json.dumps({"static_resources": {"clusters": [cluster]}}))
        command = [binary, "--mode", "validate", "-c", bootstrap, "-l", "off"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

    return ask


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"connect_timeout": "9223372035s"},
        {"connect_timeout": "9223372036s"},
        {"connect_timeout": "0s"},
        {"connect_timeout": "-1s"},
        {"cleanup_interval": "-1s"},
        {"dns_refresh_rate": "0.001s"},
        {"dns_refresh_rate": "0.0011s"},
        {"lb_policy": 77},
        {"name": ""},
        {"unknown_field": 1},
        {"per_connection_buffer_limit_bytes": -1},
        {"dns_jitter": "0s"},
        {"upstream_connection_options": {"tcp_keepalive": {"keepalive_probes": 0}}},
        {"outlier_detection": {"max_ejection_percent": 100}},
        {"outlier_detection": {"max_ejection_percent": 101}},
        {"outlier_detection": {"interval": "0s"}},
        {"preconnect_policy": {"predictive_preconnect_ratio": 3.5}},
        {"circuit_breakers": {"thresholds": [{"priority": 9}]}},
        {"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/acme.v1.Nothing"}}},
        with_tls(sni="a"),
        with_tls(sni="a" * 256),
        with_tls(common_tls_context={"tls_params": {"tls_minimum_protocol_version": 77}}),
        with_tls(common_tls_context={"validation_context": {"verify_certificate_hash": ["ab"]}}),
        with_health_check(),
        with_health_check(timeout="0s"),
        with_health_check(timeout=None),
        with_health_check(healthy_threshold=None),
        with_health_check(http_health_check=None),
        with_http_check(path=""),
        with_http_check(path="/a\nb"),
        with_http_check(path="/a b"),
        with_http_check(method="CONNECT"),
        with_http_check(method="GET"),
        with_http_check(request_headers_to_remove=["a b"]),
        with_http_check(request_headers_to_remove=["a\nb"]),
        with_http_check(expected_statuses=[{"start": 200, "end": 300}]),
        with_port(port_value=65535),
        with_port(port_value=65536),
        with_port(),
        with_port(port_value=80, protocol=7),
        {"load_assignment": {"cluster_name": ""}},
        {"load_assignment": {"cluster_name": "web", "policy": {"overprovisioning_factor": 0}}},
        {"metadata": {"filter_metadata": {"": {}}}},
    ],
    ids=repr,
)
def test_envoy_and_ingest_give_one_verdict(
    envoy_takes: Callable[[dict[str, Any]], bool], change: dict[str, Any]
) -> None:
    cluster = {key: value for key, value in (CLUSTER | change).items() if value is not None}

    assert accepted(cluster) == envoy_takes(cluster)


def accepted(cluster: dict[str, Any]) -> bool:
    try:
        ingest({"@type": types.CLUSTER} | cluster)
    except ChangesetRejectedError:
        return False
    return True
