"""Bootstrap configurations with which Envoy and gRPC's xDS clients connect to this control plane.

``tests/test_bootstrap.py`` has a real Envoy accept them. Envoy's field reference is
``envoy.config.bootstrap.v3.Bootstrap``; gRPC's are gRFC A27, A29, A65 and A97.
"""

from dataclasses import dataclass
from typing import Any, Literal

from xds.address import Address
from xds.model.groups import Node

SERVER_CLUSTER = "xds"
"""The cluster through which Envoy reaches the control plane."""

KEEPALIVE_INTERVAL_S = 30
KEEPALIVE_TIMEOUT_S = 5
CONNECT_TIMEOUT_S = 5
BACK_OFF_BASE_S = 0.5
BACK_OFF_MAX_S = 10
"""The longest reconnect back-off: with Envoy's default of 30 s, changes would wait that long after an outage."""
STREAMS_MAX = 100_000
"""Per-type services use a stream per subscription; Envoy's circuit breaker allows 1,024 by default."""

TOKEN_SECRET = "xds-token"  # noqa: S105 - a name
"""The secret that Envoy's credential injector takes the token from."""

_TLS_CONTEXT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_INJECTOR = "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector"
_GENERIC_CREDENTIAL = "envoy.extensions.http.injected_credentials.generic.v3.Generic"
_UPSTREAM_CODEC = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
_FILE_METADATA = "envoy.config.grpc_credential.v3.FileBasedMetadataConfig"
_FILE_METADATA_PLUGIN = "envoy.grpc_credentials.file_based_metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """TLS settings of the connection to the control plane, as paths that the client reads.

    ``cert`` and ``key`` together mean mTLS. ``server_name`` is the name that the server's certificate must have, by
    default the host of its address.
    """

    ca: str
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a client certificate and its key go together; one is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientToken:
    """The bearer token that the client shows the control plane, in a file that the client reads and that rotates.

    docs/envoy-behaviour.md#tokens has what each way needs. ``sds_file`` is the path of the file that ``token_secret``
    is written to; only the injector needs it.
    """

    file: str
    via: Literal["injector", "google-grpc"] = "injector"
    sds_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSpec:
    """The client's node, the control plane's address, and the xDS variant between them."""

    node: Node
    server: Address
    delta: bool = True
    """False: state-of-the-world."""
    per_type: bool = False
    """A stream per subscription instead of one aggregated stream."""
    tls: ClientTls | None = None
    token: ClientToken | None = None
    admin_port: int | None = None
    """None: no admin port."""
    fetch_timeout_s: float = 15.0
    """Envoy's ``initial_fetch_timeout``; 0: Envoy waits without limit."""
    runtime_layers: tuple[str, ...] = ()
    """Names of runtimes (RTDS) that make up Envoy's runtime, later ones on top. Envoy waits for each when it starts."""

    def __post_init__(self) -> None:
        # Envoy exits without either if any of its sources is dynamic.
        if not self.node.id or not self.node.cluster:
            raise ValueError("Envoy needs both a node id and a node cluster; one is empty")
        if not self.server.is_unix and self.server.port == 0:
            raise ValueError(f"the control plane can't be at port 0 ({self.server}); give the port it listens on")
        if self.token is not None and self.tls is None and not self.server.is_loopback:
            raise ValueError(f"the token would be sent in clear to {self.server}; give --tls-ca")

    @property
    def uses_google_grpc(self) -> bool:
        """Whether Envoy connects by Google's gRPC library instead of its own."""
        return self.token is not None and self.token.via == "google-grpc"


def envoy_bootstrap(spec: BootstrapSpec) -> dict[str, Any]:
    """Return a complete Envoy bootstrap, in the JSON form of ``envoy.config.bootstrap.v3.Bootstrap``."""
    bootstrap: dict[str, Any] = {"node": _node(spec.node)}
    if spec.admin_port is not None:
        bootstrap["admin"] = {"address": _socket_address("127.0.0.1", spec.admin_port)}
    bootstrap["dynamic_resources"] = _dynamic_resources(spec)
    if not spec.uses_google_grpc:
        bootstrap["static_resources"] = {"clusters": [_server_cluster(spec)]}
    if spec.runtime_layers:
        bootstrap["layered_runtime"] = {"layers": _runtime_layers(spec)}
    return bootstrap


def config_source(spec: BootstrapSpec) -> dict[str, Any]:
    """Return the ``config_source`` for resources that are fetched from this control plane."""
    source: dict[str, Any] = {"resource_api_version": "V3", "initial_fetch_timeout": duration(spec.fetch_timeout_s)}
    source |= {"api_config_source": _api_config_source(spec)} if spec.per_type else {"ads": {}}
    return source


def grpc_bootstrap(spec: BootstrapSpec) -> dict[str, Any]:
    """Return the content of a ``GRPC_XDS_BOOTSTRAP`` file (gRFC A27). gRPC always uses SotW ADS."""
    credentials: dict[str, Any] = {"type": "insecure"}
    if spec.tls is not None:
        files = {"ca_certificate_file": spec.tls.ca}
        if spec.tls.cert is not None and spec.tls.key is not None:
            files |= {"certificate_file": spec.tls.cert, "private_key_file": spec.tls.key}
        credentials = {"type": "tls", "config": files}
    server = {"server_uri": str(spec.server), "channel_creds": [credentials], "server_features": ["xds_v3"]}
    if spec.token is not None:
        server["call_creds"] = [{"type": "jwt_token_file", "config": {"jwt_token_file": spec.token.file}}]
    return {"xds_servers": [server], "node": _node(spec.node)}


def token_secret(token: ClientToken) -> dict[str, Any]:
    """Return the content of ``token.sds_file``: the secret, for Envoy's SDS by file, that is the token's file.

    Envoy watches the token's file and takes up every new one. It reads a secret in the bootstrap itself only once.
    """
    secret = {"@type": _SECRET, "name": TOKEN_SECRET, "generic_secret": {"secret": {"filename": token.file}}}
    return {"resources": [secret]}


def duration(seconds: float) -> str:
    """Return a duration in protobuf's JSON form: ``15s``, ``0.25s``."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _node(node: Node) -> dict[str, Any]:
    place = node.locality
    parts = {"region": place.region, "zone": place.zone, "sub_zone": place.sub_zone}
    locality = {name: value for name, value in parts.items() if value}
    described: dict[str, Any] = {"id": node.id, "cluster": node.cluster}
    if locality:
        described["locality"] = locality
    if node.metadata:
        described["metadata"] = dict(node.metadata)
    return described


def _dynamic_resources(spec: BootstrapSpec) -> dict[str, Any]:
    resources: dict[str, Any] = {} if spec.per_type else {"ads_config": _api_config_source(spec)}
    return {**resources, "cds_config": config_source(spec), "lds_config": config_source(spec)}


def _runtime_layers(spec: BootstrapSpec) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = [
        {"name": name, "rtds_layer": {"name": name, "rtds_config": config_source(spec)}} for name in spec.runtime_layers
    ]
    # Envoy has this layer only where no layers are configured; /runtime_modify needs it.
    return [*layers, {"name": "admin", "admin_layer": {}}]


def _api_config_source(spec: BootstrapSpec) -> dict[str, Any]:
    back_off = {"base_interval": duration(BACK_OFF_BASE_S), "max_interval": duration(BACK_OFF_MAX_S)}
    service: dict[str, Any] = {
        "envoy_grpc": {"cluster_name": SERVER_CLUSTER, "retry_policy": {"retry_back_off": back_off}}
    }
    if spec.uses_google_grpc:
        service = {"google_grpc": _google_grpc(spec), "retry_policy": {"retry_back_off": back_off}}
    return {
        "api_type": "DELTA_GRPC" if spec.delta else "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }


def _google_grpc(spec: BootstrapSpec) -> dict[str, Any]:
    """Return a service by Google's gRPC library, which reads the token's file for every stream."""
    token, tls = spec.token, spec.tls
    assert token is not None
    assert tls is not None, "checked by the command: gRPC sends tokens over TLS only"
    files: dict[str, Any] = {"root_certs": {"filename": tls.ca}}
    if tls.cert is not None:
        files |= {"cert_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
    arguments: dict[str, Any] = {
        "grpc.keepalive_time_ms": {"int_value": KEEPALIVE_INTERVAL_S * 1000},
        "grpc.keepalive_timeout_ms": {"int_value": KEEPALIVE_TIMEOUT_S * 1000},
        "grpc.max_receive_message_length": {"int_value": -1},
        # Its own back-off, before Envoy's: two minutes at most by default.
        "grpc.initial_reconnect_backoff_ms": {"int_value": int(BACK_OFF_BASE_S * 1000)},
        "grpc.max_reconnect_backoff_ms": {"int_value": int(BACK_OFF_MAX_S * 1000)},
    }
    if tls.server_name is not None:
        arguments["grpc.ssl_target_name_override"] = {"string_value": tls.server_name}
    metadata = {
        "@type": f"type.googleapis.com/{_FILE_METADATA}",
        "secret_data": {"filename": token.file},
        "header_key": "authorization",
        "header_prefix": "Bearer ",
    }
    return {
        "target_uri": str(spec.server),
        "stat_prefix": SERVER_CLUSTER,
        "channel_credentials": {"ssl_credentials": files},
        "call_credentials": [{"from_plugin": {"name": _FILE_METADATA_PLUGIN, "typed_config": metadata}}],
        "credentials_factory_name": _FILE_METADATA_PLUGIN,
        "channel_args": {"args": arguments},
    }


def _server_cluster(spec: BootstrapSpec) -> dict[str, Any]:
    server = spec.server
    address = {"pipe": {"path": server.path}} if server.is_unix else _socket_address(server.host, server.port)
    keepalive = {"interval": duration(KEEPALIVE_INTERVAL_S), "timeout": duration(KEEPALIVE_TIMEOUT_S)}
    cluster: dict[str, Any] = {"name": SERVER_CLUSTER, "connect_timeout": duration(CONNECT_TIMEOUT_S)}
    if server.is_unix or server.is_ip:
        cluster["type"] = "STATIC"
    else:
        # Both families, tried in turn: `localhost` is often ::1 first while the server listens on 127.0.0.1.
        cluster |= {"type": "STRICT_DNS", "dns_lookup_family": "ALL"}
    http: dict[str, Any] = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        # Without HTTP/2 here Envoy opens no stream and says only "initial fetch timed out".
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }
    if spec.token is not None:
        http["http_filters"] = _token_filters(spec.token)
    cluster["typed_extension_protocol_options"] = {_HTTP_OPTIONS: http}
    if spec.per_type:
        limits = {"max_requests": STREAMS_MAX, "max_pending_requests": STREAMS_MAX}
        cluster["circuit_breakers"] = {"thresholds": [limits]}
    if spec.tls is not None:
        cluster["transport_socket"] = _tls_socket(spec.tls, server)
    endpoint = {"endpoint": {"address": address}}
    cluster["load_assignment"] = {"cluster_name": SERVER_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return cluster


def _token_filters(token: ClientToken) -> list[dict[str, Any]]:
    """Return the HTTP filters that put the token into every request to the control plane."""
    source = {"path_config_source": {"path": token.sds_file}, "resource_api_version": "V3"}
    generic = {
        "@type": f"type.googleapis.com/{_GENERIC_CREDENTIAL}",
        "credential": {"name": TOKEN_SECRET, "sds_config": source},
        "header_value_prefix": "Bearer ",
    }
    injector = {
        "@type": f"type.googleapis.com/{_INJECTOR}",
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
        "overwrite": True,
    }
    codec = {"@type": f"type.googleapis.com/{_UPSTREAM_CODEC}"}
    return [
        {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]


def _tls_socket(tls: ClientTls, server: Address) -> dict[str, Any]:
    expected = tls.server_name or server.host
    by_ip = tls.server_name is None and server.is_ip
    validation: dict[str, Any] = {"trusted_ca": {"filename": tls.ca}}
    if expected:
        kind = "IP_ADDRESS" if by_ip else "DNS"
        validation["match_typed_subject_alt_names"] = [{"san_type": kind, "matcher": {"exact": expected}}]
    common: dict[str, Any] = {"alpn_protocols": ["h2"], "validation_context": validation}
    if tls.cert is not None:
        chain = {"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
        common["tls_certificates"] = [chain]
    context: dict[str, Any] = {"@type": _TLS_CONTEXT, "common_tls_context": common}
    if expected and not by_ip:  # SNI allows only names (RFC 6066 section 3)
        context["sni"] = expected
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _socket_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
