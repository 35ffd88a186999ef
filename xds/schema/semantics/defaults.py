"""Fields that have to be set, since what they are by default is what Envoy does not speak any more."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.pool import Schema
from xds.schema.semantics.rule import Rule, Walks

_DISALLOWED = "envoy.annotations.disallowed_by_default_enum"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3."


def refused_default(schema: Schema, field: Any) -> Any:
    """Return the enum value that a field has by default, if Envoy's annotations disallow it; else None."""
    if field.enum_type is None or field.is_repeated or field.has_presence:
        return None
    value = field.enum_type.values_by_number.get(0)
    return value if value is not None and schema.annotation(_OPTIONS, value, _DISALLOWED) else None


_OPTIONS = "google.protobuf.EnumValueOptions"


def _check(message: Any, name: str, trail: Trail, found: Findings, walks: Walks) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    if not getattr(message, name) and refused_default(walks.schema, field) is not None:
        others = [each.name for each in field.enum_type.values if each.number]
        found.add((trail, name), "is not set, and Envoy refuses its default", f"set it to one of {', '.join(others)}")


def _check_zipkin(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    _check(message, "collector_endpoint_version", trail, found, walks)


def _source(name: str) -> Rule:
    """A source of which Envoy makes a subscription. Elsewhere, as in ``lrs_server``, it does not look at its kind."""

    def check(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
        source = getattr(message, name)
        if message.HasField(name) and source.HasField("api_config_source"):
            _check(source.api_config_source, "api_type", ((trail, name), "api_config_source"), found, walks)

    return check


DEFAULT_RULES: dict[str, Rule] = {
    "envoy.config.trace.v3.ZipkinConfig": _check_zipkin,
    "envoy.config.cluster.v3.Cluster.EdsClusterConfig": _source("eds_config"),
    "envoy.config.core.v3.ExtensionConfigSource": _source("config_source"),
    "envoy.config.route.v3.Vhds": _source("config_source"),
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": _source("sds_config"),
    "envoy.extensions.filters.network.thrift_proxy.v3.Trds": _source("config_source"),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.OnDemand": _source("odcds_config"),
    "envoy.extensions.filters.http.on_demand.v3.OnDemandCds": _source("source"),
    _HCM + "Rds": _source("config_source"),
    _HCM + "ScopedRds": _source("scoped_rds_config_source"),
}
