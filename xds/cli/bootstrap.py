"""``xds bootstrap``: print a bootstrap that connects Envoy, or a gRPC client, to this control plane."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xds.bootstrap import BootstrapSpec, ClientToken, config_source, envoy_bootstrap, grpc_bootstrap, token_secret
from xds.cli import client_options as options
from xds.cli.output import examples, print_formatted, print_json, say
from xds.reporting.escaping import escaping_dumper

EPILOG = examples(
    "xds bootstrap --node-id n1 --cluster web --server 127.0.0.1:18000 > envoy.yaml; envoy -c envoy.yaml",
    "xds bootstrap --node-id n1 --cluster web --server cp.example:443 --tls-ca ca.pem --sotw",
    "xds bootstrap --node-id n1 --cluster web --server 127.0.0.1:18000 --runtime-layer rtds --merge stats.yaml",
    "xds bootstrap --node-id n1 --cluster web --server cp.example:443 --tls-ca ca.pem --token-file /run/xds/token "
    "--token-via google-grpc",
    "xds bootstrap --node-id g1 --cluster web --server cp.example:18000 --grpc > g1.json",
)

_PLAIN = re.compile(r"[A-Za-z_@/][A-Za-z0-9_@/.-]*")
_NOT_TEXT = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan", "infinity"))
_WIDTH = 110


def bootstrap(
    node_id: options.NodeId,
    cluster: options.NodeCluster,
    server: options.Server,
    sotw: options.Sotw = False,
    per_type: options.PerType = False,
    admin_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Envoy's admin port on 127.0.0.1; 0 takes any free one.")
    ] = 9901,
    fetch_timeout: options.FetchTimeout = "15s",
    runtime_layer: options.RuntimeLayer = None,
    merge: options.Merge = None,
    grpc: Annotated[bool, typer.Option("--grpc", help="The JSON that grpc's xDS clients (xds:///) read.")] = False,
    form: Annotated[
        Literal["yaml", "json"] | None, typer.Option("--format", help="Default: yaml, with --grpc json.")
    ] = None,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_server_name: options.TlsServerName = None,
    token_file: options.TokenFile = None,
    token_via: options.TokenVia = "injector",  # noqa: S107 - a way, not a token
    token_sds: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="With the injector: the file that --print-token-sds prints, where Envoy reads it.",
            rich_help_panel="The token",
        ),
    ] = "",
    print_token_sds: Annotated[
        bool,
        typer.Option(
            "--print-token-sds",
            help="Print the file of --token-sds instead of the bootstrap: it names the token's file as a secret.",
            rich_help_panel="The token",
        ),
    ] = False,
    region: options.Region = "",
    zone: options.Zone = "",
    sub_zone: options.SubZone = "",
    metadata: options.Metadata = None,
) -> None:
    """Print a complete Envoy bootstrap for a node of this control plane, or with --grpc a grpc client's.

    Files of --tls-* and --token-* are read by the client, not now, so they may name paths of another machine.
    """
    node = options.node_of(
        node_id=node_id, cluster=cluster, region=region, zone=zone, sub_zone=sub_zone, metadata=metadata
    )
    tls = options.tls_of(ca=tls_ca, cert=tls_cert, key=tls_key, server_name=tls_server_name)
    token = options.token_of(file=token_file, via=token_via, sds=token_sds, has_tls=tls is not None)
    spec = options.spec_of(
        node=node,
        server=server,
        sotw=sotw,
        per_type=per_type,
        admin_port=admin_port,
        fetch_timeout=fetch_timeout,
        tls=tls,
        token=token,
        runtime_layers=runtime_layer,
    )
    if token is not None and not grpc:
        _check_injector(token)
    if print_token_sds:
        _print_token_sds(token, form)
        return
    if grpc:
        _refuse_for_grpc(spec, form, merge)
        print_json(grpc_bootstrap(spec))
        return
    content = envoy_bootstrap(spec)
    if merge:
        from xds.cli.merge_bootstrap import merged

        content = merged(content, merge)
    if form == "json":
        print_json(content)
    else:
        say(*_header(spec))
        print_formatted(to_yaml(content))


def _check_injector(token: ClientToken) -> None:
    if token.via == "injector" and not token.sds_file:
        raise typer.BadParameter(
            "Envoy's injector takes the token from a secret, and follows its changes only for a secret in a file of "
            "its own; give the path of that file, and write it there with --print-token-sds",
            param_hint="--token-sds",
        )


def _print_token_sds(token: ClientToken | None, form: str | None) -> None:
    if token is None or token.via != "injector":
        raise typer.BadParameter("is for --token-file with --token-via injector", param_hint="--print-token-sds")
    content = token_secret(token)
    if form == "json":
        print_json(content)
    else:
        print_formatted(to_yaml(content))


def to_yaml(value: Any) -> str:
    """Return YAML that Envoy parses to the same value: text that could be read as another type is quoted.

    PyYAML writes ``y`` and ``1e3`` without quotes, which yaml-cpp, Envoy's parser, reads as true and 1000.
    """
    import yaml

    class Dumper(escaping_dumper()):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    Dumper.add_representer(str, represent_text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True)


def _refuse_for_grpc(spec: BootstrapSpec, form: str | None, merge: list[Path] | None) -> None:
    for option, value in (("--merge", merge), ("--runtime-layer", spec.runtime_layers)):
        if value:
            raise typer.BadParameter("is for Envoy: grpc's bootstrap has no such part", param_hint=option)
    if form == "yaml":
        raise typer.BadParameter("grpc reads JSON only", param_hint="--format")
    if spec.token is not None and spec.tls is None:
        raise typer.BadParameter("grpc sends tokens over TLS only; give --tls-ca", param_hint="--token-file")
    if spec.token is not None and (spec.uses_google_grpc or spec.token.sds_file):
        raise typer.BadParameter("is for Envoy: grpc reads the token itself", param_hint="--token-via, --token-sds")
    if spec.per_type:
        raise typer.BadParameter("grpc's xDS clients know only the aggregated stream (ADS)", param_hint="--per-type")
    if spec.tls is not None and spec.tls.server_name is not None:
        raise typer.BadParameter(
            "grpc checks the server's certificate against the host of --server and knows no other name",
            param_hint="--tls-server-name",
        )


def _header(spec: BootstrapSpec) -> list[str]:
    lines = ["Run: envoy -c FILE --disable-hot-restart"]
    if spec.token is not None and spec.token.sds_file:
        lines.append(f"It needs {spec.token.sds_file}: the same command with --print-token-sds prints it.")
    if spec.per_type:
        source = json.dumps(config_source(spec))
        lines.append("Without ADS, every eds_config, rds config_source and sds_config of the resources must be this:")
        lines.append(source)
    return [f"# {line}" for line in lines]
