"""Rewrites resources so that a static bootstrap holds all that they refer to, and nothing of a sidecar's disk."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from xds.model.types import EXTENSION_CONFIG, ROUTE, SCOPED_ROUTE, SECRET
from xds.schema.paths import MapKey, Trail, dotted, path_of
from xds.schema.pool import ANY, Schema
from xds.validation import stand_ins

_CORE = "envoy.config.core.v3."
_LISTENER = "envoy.config.listener.v3."
_NETWORK = "envoy.extensions.filters.network."
_HCM = _NETWORK + "http_connection_manager.v3."
_HTTP = "envoy.extensions.filters.http."
_TLS = "envoy.extensions.transport_sockets.tls.v3."
_XDSTP = "xdstp://"
_SKIPPED = frozenset({"envoy.config.endpoint.v3.LocalityLbEndpoints", "google.protobuf.Struct"})
"""Messages in which there is nothing to rewrite."""

Found = Callable[[str, str], Any | None]
"""Returns the message of a resource by type URL and name, already rewritten; None if it is unknown or faulty."""


class UnjudgeableError(Exception):
    """A part of a resource can't be judged here, as it loads what is on the sidecar's disk."""


class Inliner:
    """Rewrites messages. ``warnings`` collects the field and the text of what was left out or replaced."""

    def __init__(self, schema: Schema, found: Found, names: Callable[[str], list[str]]) -> None:
        self.schema = schema
        self.found = found
        self.names = names
        """Returns the names of all resources of a type."""
        self.warnings: list[tuple[str, str]] = []
        self.secrets: set[str] = set()
        """Secrets that were met and that the bootstrap has to hold."""

    def rewrite(self, message: Any, trail: Trail = None) -> None:
        """Rewrite a message in place, with all that is in it."""
        full_name = message.DESCRIPTOR.full_name
        if full_name == ANY:
            self._rewrite_any(message, trail)
            return
        if full_name in _SKIPPED:
            return
        handler = HANDLERS.get(full_name)
        if handler is not None:
            handler(self, message, trail)
        for field, value in message.ListFields():
            if field.message_type is not None:
                self._rewrite_field(message, field, value, (trail, field.name))

    def _rewrite_field(self, message: Any, field: Any, value: Any, trail: Trail) -> None:
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    self._rewrite_or(partial(value.pop, key), value[key], (trail, MapKey(key)))
        elif not field.is_repeated:
            holds = field.message_type.full_name == ANY
            if holds:
                self.rewrite(value, trail)  # whoever holds it is left out
            else:
                self._rewrite_or(partial(message.ClearField, field.name), value, trail, only_holders=True)
        else:
            gone: list[int] = []
            for index, item in enumerate(value):
                self._rewrite_or(partial(gone.append, index), item, (trail, index), only_holders=True)
            for index in reversed(gone):
                del value[index]

    def _rewrite_or(
        self, leave_out: Callable[[], object], message: Any, trail: Trail, *, only_holders: bool = False
    ) -> None:
        """Rewrite a part; if it can't be judged, leave it out where that leaves the rest whole."""
        try:
            self.rewrite(message, trail)
        except UnjudgeableError as error:
            if only_holders and "typed_config" not in message.DESCRIPTOR.fields_by_name:
                raise
            leave_out()
            self.warn(trail, f"was left out: {error}")

    def _rewrite_any(self, message: Any, trail: Trail) -> None:
        full_name = message.type_url.rpartition("/")[2]
        if full_name and self.schema.has(full_name):
            inner: Any = self.schema.message_class(full_name).FromString(message.value)
            self.rewrite(inner, trail)
            message.value = inner.SerializeToString(deterministic=True)

    def warn(self, trail: Trail, text: str) -> None:
        """Note what is not judged as it is."""
        self.warnings.append((dotted(path_of(trail)), text))

    def new(self, full_name: str) -> Any:
        """Return an empty message."""
        return self.schema.message_class(full_name)()


def _is_on_disk(source: Any) -> bool:
    return source.WhichOneof("specifier") in ("filename", "environment_variable")


def _replace(inliner: Inliner, source: Any, text: str | bytes, trail: Trail) -> None:
    which = source.WhichOneof("specifier")
    what = "the file" if which == "filename" else "the variable"
    inliner.warn(trail, f"{what} {getattr(source, which)} is the sidecar's: something else stood for it")
    if isinstance(text, bytes):
        source.inline_bytes = text
    else:
        source.inline_string = text


def _data_source(_: Inliner, source: Any, __: Trail) -> None:
    """A source that no handler of the message around it has replaced."""
    if _is_on_disk(source):
        raise UnjudgeableError(f"{getattr(source, source.WhichOneof('specifier'))} is the sidecar's")
    source.ClearField("watched_directory")


def _any_text(*fields: str) -> "Handler":
    """Sources whose text may be anything, a comment of Lua included."""

    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        for field in fields:
            if message.DESCRIPTOR.fields_by_name[field].is_repeated:
                sources = getattr(message, field)
                for key in sorted(sources):
                    if _is_on_disk(sources[key]):
                        _replace(inliner, sources[key], stand_ins.TEXT, ((trail, field), MapKey(key)))
            elif message.HasField(field) and _is_on_disk(getattr(message, field)):
                _replace(inliner, getattr(message, field), stand_ins.TEXT, (trail, field))

    return handle


def _tls_certificate(inliner: Inliner, message: Any, trail: Trail) -> None:
    on_disk = [
        field
        for field in ("certificate_chain", "private_key", "pkcs12")
        if message.HasField(field) and _is_on_disk(getattr(message, field))
    ]
    if message.HasField("private_key_provider"):
        raise UnjudgeableError("its private key provider may need what the sidecar has")
    if not on_disk:
        return
    for field in on_disk:
        _replace(inliner, getattr(message, field), "", (trail, field))
    chain, key = stand_ins.certificate()
    for field in ("password", "pkcs12", "ocsp_staple", "signed_certificate_timestamp", "watched_directory"):
        message.ClearField(field)
    bundle = "pkcs12" in on_disk
    if bundle or message.HasField("certificate_chain"):
        message.certificate_chain.inline_string = chain
    if bundle or message.HasField("private_key"):
        message.private_key.inline_string = key


def _validation_context(inliner: Inliner, message: Any, trail: Trail) -> None:
    message.ClearField("watched_directory")
    if message.HasField("trusted_ca") and _is_on_disk(message.trusted_ca):
        _replace(inliner, message.trusted_ca, stand_ins.certificate()[0], (trail, "trusted_ca"))
    if message.HasField("crl") and _is_on_disk(message.crl):
        inliner.warn((trail, "crl"), "is the sidecar's file, and was left out")
        message.ClearField("crl")


def _ticket_keys(inliner: Inliner, message: Any, trail: Trail) -> None:
    for index, key in enumerate(message.keys):
        if _is_on_disk(key):
            _replace(inliner, key, stand_ins.TICKET_KEY, ((trail, "keys"), index))


def _config_source(_: Inliner, source: Any, __: Trail) -> None:
    """Whatever a source names, the sidecar has it: nothing is fetched while validating."""
    which = source.WhichOneof("config_source_specifier")
    if which is not None and which not in ("ads", "self"):
        source.ads.SetInParent()
    source.resource_api_version = _V3


_V3 = 2
"""``envoy.config.core.v3.ApiVersion.V3``."""


def _sds(inliner: Inliner, message: Any, trail: Trail) -> None:
    if not message.HasField("sds_config") and not message.name.startswith(_XDSTP):
        return  # a secret of the sidecar's own bootstrap
    if inliner.found(SECRET, message.name) is not None:
        inliner.secrets.add(message.name)
        message.ClearField("sds_config")


def _hcm(inliner: Inliner, message: Any, trail: Trail) -> None:
    which = message.WhichOneof("route_specifier")
    if which == "rds":
        name = message.rds.route_config_name
        route = inliner.found(ROUTE, name)
        if route is not None and (message.rds.HasField("config_source") or name.startswith(_XDSTP)):
            message.route_config.CopyFrom(route)
    elif which == "scoped_routes" and message.scoped_routes.WhichOneof("config_specifier") == "scoped_rds":
        scopes = [inliner.found(SCOPED_ROUTE, name) for name in inliner.names(SCOPED_ROUTE)]
        known = [each for each in scopes if each is not None]
        if known:
            message.scoped_routes.scoped_route_configurations_list.scoped_route_configurations.extend(known)


def _discovered(inliner: Inliner, message: Any, trail: Trail) -> None:
    if message.WhichOneof("config_type") != "config_discovery":
        return
    config = inliner.found(EXTENSION_CONFIG, message.name)
    if config is not None:
        message.typed_config.CopyFrom(config.typed_config)


def _written(field: str) -> "Handler":
    """A file that Envoy writes."""

    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        if getattr(message, field):
            setattr(message, field, "/dev/null")

    return handle


def _needs(field: str, what: str) -> "Handler":
    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        if getattr(message, field):
            raise UnjudgeableError(f"{what} {getattr(message, field)} is on the sidecar's disk")

    return handle


def _vm(inliner: Inliner, message: Any, trail: Trail) -> None:
    if message.code.WhichOneof("specifier") == "remote" or _is_on_disk(message.code.local):
        raise UnjudgeableError("its module is loaded by the sidecar")


def _module(inliner: Inliner, message: Any, trail: Trail) -> None:
    raise UnjudgeableError("its module is loaded from the sidecar's disk")


def _maxmind(inliner: Inliner, message: Any, trail: Trail) -> None:
    raise UnjudgeableError("its databases are on the sidecar's disk")


Handler = Callable[[Inliner, Any, Trail], None]
HANDLERS: Mapping[str, Handler] = {
    _CORE + "DataSource": _data_source,
    _CORE + "ConfigSource": _config_source,
    _CORE + "HealthCheck": _written("event_log_path"),
    "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink": _written("event_log_path"),
    "envoy.extensions.access_loggers.file.v3.FileAccessLog": _written("path"),
    _TLS + "TlsKeyLog": _written("path"),
    _TLS + "TlsCertificate": _tls_certificate,
    _TLS + "CertificateValidationContext": _validation_context,
    _TLS + "TlsSessionTicketKeys": _ticket_keys,
    _TLS + "GenericSecret": _any_text("secret", "secrets"),
    _CORE + "SubstitutionFormatString": _any_text("text_format_source"),
    "envoy.config.route.v3.DirectResponseAction": _any_text("body"),
    _NETWORK + "direct_response.v3.Config": _any_text("response"),
    _HTTP + "lua.v3.Lua": _any_text("default_source_code", "source_codes"),
    _HTTP + "lua.v3.LuaPerRoute": _any_text("source_code"),
    _TLS + "SdsSecretConfig": _sds,
    _HCM + "HttpConnectionManager": _hcm,
    **dict.fromkeys(
        (
            *(_HCM + "HttpFilter", _LISTENER + "Filter", _LISTENER + "ListenerFilter"),
            *(
                "envoy.config.cluster.v3.Filter",
                "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.SessionFilter",
            ),
        ),
        _discovered,
    ),
    _HTTP + "grpc_json_transcoder.v3.GrpcJsonTranscoder": _needs("proto_descriptor", "the file"),
    _HTTP + "grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder": _needs("descriptor_path", "the file"),
    "envoy.extensions.wasm.v3.VmConfig": _vm,
    "envoy.extensions.dynamic_modules.v3.DynamicModuleConfig": _module,
    "envoy.extensions.geoip_providers.maxmind.v3.MaxMindConfig": _maxmind,
    "envoy.extensions.key_value.file_based.v3.FileBasedKeyValueStoreConfig": _needs("filename", "the file"),
}
