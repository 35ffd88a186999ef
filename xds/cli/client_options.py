"""The options that describe an xDS client, shared by ``xds bootstrap`` and ``xds envoy``, and the spec they make."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xds.address import Address
from xds.bootstrap import BootstrapSpec, ClientTls, ClientToken
from xds.model.groups import Locality, Node

_NODE = "The node"
_TLS = "TLS"
_TOKEN = "The token"  # noqa: S105 - a heading of the help
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}

NodeId = Annotated[str, typer.Option(help="The node's id, unique in the fleet.", rich_help_panel=_NODE)]
NodeCluster = Annotated[
    str, typer.Option(help="The node's cluster: with no rules, the group it belongs to.", rich_help_panel=_NODE)
]
Server = Annotated[str, typer.Option(metavar="HOST:PORT", help="The control plane; unix:/PATH too.")]
Sotw = Annotated[bool, typer.Option("--sotw", help="State-of-the-world xDS instead of delta.")]
PerType = Annotated[bool, typer.Option("--per-type", help="A stream per subscription instead of one aggregated (ADS).")]
FetchTimeout = Annotated[
    str, typer.Option(metavar="TIME", help="How long Envoy waits for a resource before it goes on without; 0 for ever.")
]
RuntimeLayer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Take Envoy's runtime from the resource runtimes/NAME (RTDS); repeatable, later ones win."
    ),
]
Merge = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Merge a part of a bootstrap, YAML or JSON, into it; repeatable. Lists are appended, values replaced.",
    ),
]
TlsCa = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="CAs that sign the control plane's certificate.", rich_help_panel=_TLS),
]
TlsCert = Annotated[
    str | None, typer.Option(metavar="FILE", help="The client's certificate chain (mTLS).", rich_help_panel=_TLS)
]
TlsKey = Annotated[str | None, typer.Option(metavar="FILE", help="The client's private key.", rich_help_panel=_TLS)]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Whom the server's certificate must name. Default: its host.", rich_help_panel=_TLS
    ),
]
TokenFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Show the control plane the bearer token in this file, which the client reads again when it changes.",
        rich_help_panel=_TOKEN,
    ),
]
TokenVia = Annotated[
    Literal["injector", "google-grpc"],
    typer.Option(
        help="How Envoy sends it: by an HTTP filter of its own gRPC client, or by Google's gRPC library.",
        rich_help_panel=_TOKEN,
    ),
]
Region = Annotated[str, typer.Option(help="The node's region.", rich_help_panel=_NODE)]
Zone = Annotated[str, typer.Option(help="The node's zone.", rich_help_panel=_NODE)]
SubZone = Annotated[str, typer.Option(help="The node's sub-zone.", rich_help_panel=_NODE)]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Node metadata, repeatable. A dot nests (labels.stage=prod); := takes JSON (weight:=3).",
        rich_help_panel=_NODE,
    ),
]


def node_of(
    *, node_id: str, cluster: str, region: str, zone: str, sub_zone: str, metadata: Iterable[str] | None
) -> Node:
    """Return the node of the options. Raises typer.BadParameter naming the option."""
    for option, value in (("--node-id", node_id), ("--cluster", cluster)):
        if not value:
            raise typer.BadParameter("must not be empty; Envoy needs both a node id and a cluster", param_hint=option)
    locality = Locality(region=region, zone=zone, sub_zone=sub_zone)
    return Node(id=node_id, cluster=cluster, locality=locality, metadata=_metadata(metadata or ()))


def spec_of(
    *,
    node: Node,
    server: str,
    sotw: bool,
    per_type: bool,
    admin_port: int,
    fetch_timeout: str,
    tls: ClientTls | None,
    token: ClientToken | None,
    runtime_layers: Iterable[str] | None,
) -> BootstrapSpec:
    """Return the bootstrap spec of the options. Raises typer.BadParameter naming the option."""
    layers = tuple(runtime_layers or ())
    if not all(layers) or len(set(layers)) < len(layers) or "admin" in layers:
        what = "give each layer one name, once; admin is the layer of Envoy's admin port"
        raise typer.BadParameter(what, param_hint="--runtime-layer")
    fetch_timeout_s = seconds_of(fetch_timeout, "--fetch-timeout")
    try:
        return BootstrapSpec(
            node=node,
            server=Address.parse(server),
            delta=not sotw,
            per_type=per_type,
            tls=tls,
            token=token,
            admin_port=admin_port,
            fetch_timeout_s=fetch_timeout_s,
            runtime_layers=layers,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--server") from None


def tls_of(*, ca: str | None, cert: str | None, key: str | None, server_name: str | None) -> ClientTls | None:
    """Return the TLS settings of the options, None without any. Raises typer.BadParameter naming the option."""
    if ca is None:
        given = [
            name for name, value in (("cert", cert), ("key", key), ("server-name", server_name)) if value is not None
        ]
        if given:
            raise typer.BadParameter(
                f"--tls-{given[0]} needs --tls-ca, without which any server would be believed", param_hint="--tls-ca"
            )
        return None
    try:
        return ClientTls(ca=ca, cert=cert, key=key, server_name=server_name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--tls-key" if key is None else "--tls-cert") from None


def token_of(
    *, file: str | None, via: Literal["injector", "google-grpc"], sds: str, has_tls: bool
) -> ClientToken | None:
    """Return the token of the options, None without one. Raises typer.BadParameter naming the option."""
    if file is None:
        if via != "injector" or sds:
            raise typer.BadParameter("is for a token; give its file", param_hint="--token-file")
        return None
    if not file:
        raise typer.BadParameter("is empty; give the file of the token", param_hint="--token-file")
    if via == "google-grpc" and not has_tls:
        raise typer.BadParameter("sends tokens over TLS only; give --tls-ca", param_hint="--token-via google-grpc")
    if via == "google-grpc" and sds:
        raise typer.BadParameter(
            "is for --token-via injector; google-grpc reads the token itself", param_hint="--token-sds"
        )
    return ClientToken(file=file, via=via, sds_file=sds)


def seconds_of(text: str, option: str) -> float:
    """Parse ``15s``, ``500ms``, ``2m`` or a bare number into seconds. Raises typer.BadParameter."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time; write 15s, 500ms or 2m", param_hint=option)
    return float(match[1]) * _UNITS_S[match[2]]


def _metadata(assignments: Iterable[str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for text in assignments:
        key, equals, raw = text.partition("=")
        value: Any = raw
        if key.endswith(":"):
            key = key[:-1]
            try:
                value = json.loads(raw)
            except json.JSONDecodeError:
                raise typer.BadParameter(f"{text!r}: {raw!r} is not JSON", param_hint="--metadata") from None
        names = key.split(".")
        if not equals or not all(names):
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE, as stage=prod", param_hint="--metadata")
        below: Any = metadata
        for name in names[:-1]:
            below = below.setdefault(name, {}) if isinstance(below, dict) else None
        if not isinstance(below, dict) or names[-1] in below:
            raise typer.BadParameter(f"{text!r}: {key} is given twice", param_hint="--metadata")
        below[names[-1]] = value
    return metadata
