"""Rewrites resources so that a static bootstrap holds all that they refer to, and nothing of a sidecar's disk."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from ipaddress import ip_address
from typing import Any

from xds.model.types import EXTENSION_CONFIG, ROUTE, SCOPED_ROUTE, SECRET
from xds.schema.paths import MapKey, Trail, dotted, path_of
from xds.schema.pool import ANY, Schema, packaged_schema
from xds.schema.typed_structs import TYPED_STRUCTS, NotDescribedError, described
from xds.validation import lua, stand_ins

_CORE = "envoy.config.core.v3."
_LISTENER = "envoy.config.listener.v3."
_NETWORK = "envoy.extensions.filters.network."
_HCM = _NETWORK + "http_connection_manager.v3."
_HTTP = "envoy.extensions.filters.http."
_TLS = "envoy.extensions.transport_sockets.tls.v3."
_AWS = "envoy.extensions.common.aws.v3."
_XDSTP = "xdstp://"
_WATCHED = _CORE + "WatchedDirectory"
_STRUCT = "google.protobuf.Struct"
_SKIPPED = frozenset({"envoy.config.endpoint.v3.LocalityLbEndpoints", _STRUCT})
"""Messages in which there is nothing to rewrite."""
_NEEDED = frozenset({ANY, _CORE + "TransportSocket", "envoy.config.cluster.v3.Cluster.CustomClusterType"})
"""Messages without which the one around them would be another one, which Envoy judges by other rules."""
_TERMINAL = {
    _LISTENER + "FilterChain.filters": _NETWORK + "echo.v3.Echo",
    _HCM + "HttpConnectionManager.http_filters": _HTTP + "router.v3.Router",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.http_filters": _HTTP + "upstream_codec.v3.UpstreamCodec",
}
"""The filter that stands for the last one of a list if that is left out: Envoy wants a terminal one there."""

Found = Callable[[str, str], Any | None]
"""Returns the message of a resource by type URL and name, already rewritten; None if it is unknown or faulty."""


class UnjudgeableError(Exception):
    """A part of a resource can't be judged here: it loads what is on a disk, or what it does is unknown."""


@cache
def _packaged() -> Schema:
    """Return the Envoy API of which it is known what a validating Envoy runs, loads and opens."""
    return Schema(packaged_schema(), is_packaged=True)


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
        self._known = None if schema.is_packaged else _packaged()

    def read(self, full_name: str, data: bytes, trail: Trail = None) -> Any:
        """Return a message without the fields that the schema lacks, which an Envoy could know."""
        message: Any = self.schema.message_class(full_name).FromString(data)
        size = message.ByteSize()
        message.DiscardUnknownFields()
        if message.ByteSize() != size:
            self.warn(trail, "has fields that the schema lacks, which were left out")
        return message

    def rewrite(self, message: Any, trail: Trail = None) -> None:
        """Rewrite a message in place, with all that is in it."""
        full_name = message.DESCRIPTOR.full_name
        if full_name == ANY:
            self._rewrite_any(message, trail)
            return
        if full_name in _SKIPPED:
            return
        if self._known is not None:
            _check_known(self._known, message)
        handler = HANDLERS.get(full_name)
        if handler is not None:
            handler(self, message, trail)
        for field, value in message.ListFields():
            if field.message_type is not None:
                self._rewrite_field(message, field, value, (trail, field.name))

    def _rewrite_field(self, message: Any, field: Any, value: Any, trail: Trail) -> None:
        if field.message_type.full_name == _WATCHED:
            message.ClearField(field.name)
        elif field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    self._rewrite_or(partial(value.pop, key), value[key], (trail, MapKey(key)))
        elif not field.is_repeated:
            if self._is_needed(field):
                self.rewrite(value, trail)  # whoever holds it is left out
            else:
                self._rewrite_or(partial(message.ClearField, field.name), value, trail)
        else:
            self._rewrite_list(field, value, trail)

    def _rewrite_list(self, field: Any, items: Any, trail: Trail) -> None:
        gone: list[int] = []
        rules = self.schema.rules(field)
        least = rules.repeated.min_items if rules is not None else 0
        for index, item in enumerate(items):
            may_go = len(items) - len(gone) > least
            self._rewrite_or(partial(gone.append, index) if may_go else None, item, (trail, index))
        last = len(items) - 1
        if last in gone and field.full_name in _TERMINAL:
            gone.pop()
            items[last].Clear()
            items[last].name = "stands-for-a-filter"
            items[last].typed_config.type_url = "type.googleapis.com/" + _TERMINAL[field.full_name]
        for index in reversed(gone):
            del items[index]

    def _is_needed(self, field: Any) -> bool:
        """Return whether Envoy refuses a message, or one around it, without the field."""
        if field.message_type.full_name in _NEEDED:
            return True
        rules = self.schema.rules(field)
        if rules is not None and (rules.message.required or rules.any.required):
            return True
        return field.containing_oneof is not None and self.schema.is_required(field.containing_oneof)

    def _rewrite_or(self, leave_out: Callable[[], object] | None, message: Any, trail: Trail) -> None:
        """Rewrite a part; if it can't be judged, leave it out where that leaves the rest whole."""
        try:
            self.rewrite(message, trail)
        except UnjudgeableError as error:
            descriptor = message.DESCRIPTOR
            if leave_out is None or (descriptor.full_name != ANY and "typed_config" not in descriptor.fields_by_name):
                raise
            leave_out()
            self.warn(trail, f"was left out: {error}")

    def _rewrite_any(self, message: Any, trail: Trail) -> None:
        full_name = message.type_url.rpartition("/")[2]
        if full_name in TYPED_STRUCTS:
            self._unwrap(message, full_name)
            self._rewrite_any(message, trail)
        elif full_name == _STRUCT or (full_name and not self.schema.has(full_name)):
            raise UnjudgeableError(f"it is not known here what Envoy does with a {full_name}")
        elif full_name:
            inner = self.read(full_name, message.value, trail)
            self.rewrite(inner, trail)
            message.value = inner.SerializeToString(deterministic=True)

    def _unwrap(self, message: Any, full_name: str) -> None:
        """Pack what a typed struct describes as the type that it names, as Envoy reads it."""
        try:
            inner = described(self.schema, self.schema.message_class(full_name).FromString(message.value))
        except NotDescribedError as error:
            raise UnjudgeableError(str(error)) from error
        message.type_url = f"type.googleapis.com/{inner.DESCRIPTOR.full_name}"
        message.value = inner.SerializeToString(deterministic=True)

    def warn(self, trail: Trail, text: str) -> None:
        """Note what is not judged as it is."""
        self.warnings.append((dotted(path_of(trail)), text))

    def warn_of_stand_in(self, trail: Trail, what: str, name: str) -> None:
        """Note that something else stands for what is on the sidecar's disk."""
        self.warn(trail, f"the {what} {name} is the sidecar's: something else stood for it")


def _check_known(known: Schema, message: Any) -> None:
    """Raise UnjudgeableError for what the packaged Envoy API lacks: a validating Envoy could run or open it."""
    full_name = message.DESCRIPTOR.full_name
    if not known.has(full_name):
        raise UnjudgeableError(f"it is not known here what Envoy does with a {full_name}")
    fields = known.descriptor(full_name).fields_by_name
    for field, _ in message.ListFields():
        if field.name not in fields:
            raise UnjudgeableError(f"it is not known here what Envoy does with {field.full_name}")


def _is_on_disk(source: Any) -> bool:
    return source.WhichOneof("specifier") in ("filename", "environment_variable")


def _replace(inliner: Inliner, source: Any, text: str | bytes, trail: Trail) -> None:
    which = source.WhichOneof("specifier")
    what = "file" if which == "filename" else "variable"
    inliner.warn_of_stand_in(trail, what, getattr(source, which))
    if isinstance(text, bytes):
        source.inline_bytes = text
    else:
        source.inline_string = text


def _data_source(_: Inliner, source: Any, __: Trail) -> None:
    """A source that no handler of the message around it has replaced."""
    if _is_on_disk(source):
        raise UnjudgeableError(f"{getattr(source, source.WhichOneof('specifier'))} is the sidecar's")


def _text(stand_in: Callable[[], str], *fields: str) -> "Handler":
    """Sources for which a text stands that Envoy takes there."""

    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        for field in fields:
            for source, here in _sources(message, field, trail):
                if _is_on_disk(source):
                    _replace(inliner, source, stand_in(), here)

    return handle


def _sources(message: Any, field: str, trail: Trail) -> list[tuple[Any, Trail]]:
    """Return the sources in a field of any form, with their places."""
    place: Trail = (trail, field)
    value = getattr(message, field)
    if hasattr(value, "DESCRIPTOR"):
        return [(value, place)] if message.HasField(field) else []
    if hasattr(value, "keys"):
        return [(value[key], (place, MapKey(key))) for key in sorted(value)]
    return [(each, (place, index)) for index, each in enumerate(value)]


def _lua(*fields: str, functions: tuple[str, ...] = ()) -> "Handler":
    """Sources of Lua, which Envoy would run. ``functions``: those without which Envoy refuses a script."""

    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        for field in fields:
            for source, here in _sources(message, field, trail):
                which = source.WhichOneof("specifier")
                if _is_on_disk(source):
                    _replace(inliner, source, lua.compiled_only(b"", functions), here)
                elif which is not None and (given := getattr(source, which)):
                    code = given.encode() if isinstance(given, str) else given
                    source.inline_string = _compiled_only(inliner, code, functions, here)
        for field in _LUA_PATHS.intersection(message.DESCRIPTOR.fields_by_name):
            message.ClearField(field)  # nothing is loaded from them

    return handle


_LUA_PATHS = frozenset({"package_paths", "package_cpaths"})


def _compiled_only(inliner: Inliner, code: bytes, functions: tuple[str, ...], trail: Trail) -> str:
    if lua.is_bytecode(code):
        inliner.warn(trail, "was not judged, as it is bytecode: another script stood for it")
        code = b""
    return lua.compiled_only(code, functions)


def _lua_filter(inliner: Inliner, message: Any, trail: Trail) -> None:
    if message.inline_code:
        message.inline_code = _compiled_only(inliner, message.inline_code.encode(), (), (trail, "inline_code"))
    _lua("default_source_code", "source_codes")(inliner, message, trail)


def _any_text(*fields: str) -> "Handler":
    """Sources whose text may be anything."""
    return _text(lambda: stand_ins.TEXT, *fields)


def _pair(chain: str, key: str, *authorities: str) -> "Handler":
    """A certificate and its key: if one of them is on the disk, the other would not fit what stands for it."""

    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        if any(message.HasField(each) and _is_on_disk(getattr(message, each)) for each in (chain, key)):
            for field, text in zip((chain, key), stand_ins.certificate(), strict=True):
                source = getattr(message, field)
                if message.HasField(field) and _is_on_disk(source):
                    _replace(inliner, source, text, (trail, field))
                elif message.HasField(field):
                    source.inline_string = text
        _text(lambda: stand_ins.certificate()[0], *authorities)(inliner, message, trail)

    return handle


_READ_WITH_A_PAIR = ("certificate_chain", "private_key", "pkcs12", "password", "ocsp_staple")


def _on_disk_with(message: Any, trail: Trail) -> list[tuple[Trail, Any]]:
    """Return the sources of a certificate that are on the sidecar's disk."""
    found: list[tuple[Trail, Any]] = [
        ((trail, field), getattr(message, field))
        for field in _READ_WITH_A_PAIR
        if message.HasField(field) and _is_on_disk(getattr(message, field))
    ]
    stamps = enumerate(message.signed_certificate_timestamp)
    return found + [
        (((trail, "signed_certificate_timestamp"), index), each) for index, each in stamps if _is_on_disk(each)
    ]


def _tls_certificate(inliner: Inliner, message: Any, trail: Trail) -> None:
    on_disk = _on_disk_with(message, trail)
    if message.HasField("private_key_provider"):
        inliner.warn((trail, "private_key_provider"), "may need what the sidecar has: another key stood for its key")
    elif not on_disk:
        return
    bundle = message.HasField("pkcs12")
    has_chain = bundle or message.HasField("certificate_chain")
    has_key = bundle or message.HasField("private_key") or message.HasField("private_key_provider")
    for place, source in on_disk:
        _replace(inliner, source, "", place)
    message.Clear()
    chain, key = stand_ins.certificate()
    if has_chain:
        message.certificate_chain.inline_string = chain
    if has_key:
        message.private_key.inline_string = key


def _downstream_tls(inliner: Inliner, message: Any, trail: Trail) -> None:
    """Whoever has another certificate stand for its own has no response of OCSP that would fit it."""
    if message.ocsp_staple_policy != _MUST_STAPLE:
        return
    common = message.common_tls_context
    named = [inliner.found(SECRET, each.name) for each in common.tls_certificate_sds_secret_configs]
    replaced = any(
        each.HasField("ocsp_staple") and (each.HasField("private_key_provider") or _on_disk_with(each, None))
        for each in common.tls_certificates
    )
    if replaced or any(
        each is not None and each.tls_certificate.certificate_chain.inline_string == stand_ins.certificate()[0]
        for each in named
    ):
        inliner.warn(
            (trail, "ocsp_staple_policy"), "was not judged, as another certificate stood for that of the sidecar"
        )
        message.ClearField("ocsp_staple_policy")


_MUST_STAPLE = 2
"""``DownstreamTlsContext.OcspStaplePolicy.MUST_STAPLE``."""


def _validation_context(inliner: Inliner, message: Any, trail: Trail) -> None:
    if message.HasField("trusted_ca") and _is_on_disk(message.trusted_ca):
        _replace(inliner, message.trusted_ca, stand_ins.certificate()[0], (trail, "trusted_ca"))
    if message.HasField("crl") and _is_on_disk(message.crl):
        inliner.warn((trail, "crl"), "is the sidecar's file, and was left out")
        message.ClearField("crl")


def _ticket_keys(inliner: Inliner, message: Any, trail: Trail) -> None:
    for index, key in enumerate(message.keys):
        if _is_on_disk(key):
            _replace(inliner, key, stand_ins.TICKET_KEY, ((trail, "keys"), index))


def _config_source(inliner: Inliner, source: Any, trail: Trail) -> None:
    """Whatever a source names, the sidecar has it: nothing is fetched while validating."""
    which = source.WhichOneof("config_source_specifier")
    if which == "path":
        inliner.warn_of_stand_in((trail, "path"), "file", source.path)
    elif which == "path_config_source":
        inliner.warn_of_stand_in(((trail, which), "path"), "file", source.path_config_source.path)
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
        path = getattr(message, field)
        if path and path not in _NO_FILES:
            inliner.warn_of_stand_in((trail, field), "file", path)
            setattr(message, field, "/dev/null")

    return handle


_NO_FILES = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr"})
"""What Envoy can open wherever it runs."""


def _directory(field: str) -> "Handler":
    """A directory that has to exist."""

    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        value = getattr(message, field)
        path = value if isinstance(value, str) else value.value
        if path:
            inliner.warn_of_stand_in((trail, field), "directory", path)
            if isinstance(value, str):
                setattr(message, field, stand_ins.DIRECTORY)
            else:
                value.value = stand_ins.DIRECTORY

    return handle


def _local_rate_limit(inliner: Inliner, message: Any, trail: Trail) -> None:
    if message.HasField("local_cluster_rate_limit"):
        text = "needs cluster_manager.local_cluster_name in the sidecar's bootstrap: another cluster stood for it"
        inliner.warn((trail, "local_cluster_rate_limit"), text)


def _needs(field: str, what: str) -> "Handler":
    def handle(inliner: Inliner, message: Any, trail: Trail) -> None:
        if getattr(message, field):
            raise UnjudgeableError(f"{what} {getattr(message, field)} is on the sidecar's disk")

    return handle


def _lightstep(inliner: Inliner, message: Any, trail: Trail) -> None:
    _needs("access_token_file", "the file")(inliner, message, trail)
    _any_text("access_token")(inliner, message, trail)


def _tap_by_admin(inliner: Inliner, message: Any, trail: Trail) -> None:
    text = "needs an admin interface in the sidecar's bootstrap, without which Envoy crashes: one was made up"
    inliner.warn(trail, text)


def _cluster(inliner: Inliner, message: Any, trail: Trail) -> None:
    """A validating Envoy asks the DNS for the hosts of a cluster that it resolves."""
    if message.WhichOneof("cluster_discovery_type") == "type" and message.type not in _RESOLVED:
        return
    for locality in message.load_assignment.endpoints:
        for each in locality.lb_endpoints:
            for holder in (each.endpoint, each.endpoint.health_check_config, *each.endpoint.additional_addresses):
                if holder.address.WhichOneof("address") == "socket_address":
                    _resolve(holder.address.socket_address)


_RESOLVED = (1, 2)
"""STRICT_DNS and LOGICAL_DNS."""


def _dns_cache(inliner: Inliner, message: Any, trail: Trail) -> None:
    for each in message.preresolve_hostnames:
        _resolve(each)


def _resolve(address: Any) -> None:
    """Have an address stand for a name, so that nobody is asked for it."""
    if not address.address:
        return
    try:
        ip_address(address.address)
    except ValueError:
        address.address = "127.0.0.1"


def _vm(inliner: Inliner, message: Any, trail: Trail) -> None:
    raise UnjudgeableError("its module is loaded and run by the sidecar")


def _module(inliner: Inliner, message: Any, trail: Trail) -> None:
    raise UnjudgeableError("its module is loaded from the sidecar's disk")


def _maxmind(inliner: Inliner, message: Any, trail: Trail) -> None:
    raise UnjudgeableError("its databases are on the sidecar's disk")


Handler = Callable[[Inliner, Any, Trail], None]
HANDLERS: Mapping[str, Handler] = {
    _CORE + "DataSource": _data_source,
    _CORE + "ConfigSource": _config_source,
    "envoy.config.cluster.v3.Cluster": _cluster,
    "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig": _dns_cache,
    _CORE + "HealthCheck": _written("event_log_path"),
    "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink": _written("event_log_path"),
    "envoy.extensions.access_loggers.file.v3.FileAccessLog": _written("path"),
    _TLS + "TlsKeyLog": _written("path"),
    _TLS + "TlsCertificate": _tls_certificate,
    _TLS + "CertificateValidationContext": _validation_context,
    _TLS + "TlsSessionTicketKeys": _ticket_keys,
    _TLS + "DownstreamTlsContext": _downstream_tls,
    _TLS + "SPIFFECertValidatorConfig": _text(stand_ins.spiffe_bundles, "trust_bundles"),
    _TLS + "SPIFFECertValidatorConfig.TrustDomain": _text(lambda: stand_ins.certificate()[0], "trust_bundle"),
    _TLS + "GenericSecret": _any_text("secret", "secrets"),
    _CORE + "SubstitutionFormatString": _any_text("text_format_source"),
    _CORE + "GrpcService.GoogleGrpc.SslCredentials": _pair("cert_chain", "private_key", "root_certs"),
    "envoy.config.grpc_credential.v3.FileBasedMetadataConfig": _any_text("secret_data"),
    "envoy.extensions.grpc_service.call_credentials.file_based_metadata.v3.FileBasedMetadataCallCredentials": _any_text(
        "secret_data"
    ),
    "envoy.config.route.v3.DirectResponseAction": _any_text("body"),
    "envoy.config.trace.v3.LightstepConfig": _lightstep,
    "envoy.config.trace.v3.DynamicOtConfig": _needs("library", "the library"),
    "envoy.config.trace.v3.XRayConfig": _text(lambda: stand_ins.SAMPLING_RULES, "sampling_rule_manifest"),
    _AWS + "AssumeRoleWithWebIdentityCredentialProvider": _any_text("web_identity_token_data_source"),
    _AWS + "CredentialsFileCredentialProvider": _any_text("credentials_data_source"),
    _AWS + "IAMRolesAnywhereCredentialProvider": _pair("certificate", "private_key", "certificate_chain"),
    "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy": _any_text("body"),
    _HCM + "ResponseMapper": _any_text("body"),
    _NETWORK + "direct_response.v3.Config": _any_text("response"),
    _NETWORK + "redis_proxy.v3.RedisProtocolOptions": _any_text("auth_username", "auth_password"),
    _NETWORK + "redis_proxy.v3.RedisProtocolOptions.Credential": _any_text("auth_username", "auth_password"),
    _NETWORK + "redis_proxy.v3.RedisProxy": _any_text(
        "downstream_auth_username", "downstream_auth_password", "downstream_auth_passwords"
    ),
    _HTTP + "jwt_authn.v3.JwtProvider": _text(stand_ins.jwks, "local_jwks"),
    "envoy.extensions.filters.common.jwks.v3.JwtHandshakeValidator": _text(stand_ins.jwks, "local_jwks"),
    _HTTP + "basic_auth.v3.BasicAuth": _text(lambda: stand_ins.PASSWORDS, "users"),
    _HTTP + "basic_auth.v3.BasicAuthPerRoute": _text(lambda: stand_ins.PASSWORDS, "users"),
    _HTTP + "lua.v3.Lua": _lua_filter,
    _HTTP + "lua.v3.LuaPerRoute": _lua("source_code"),
    "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig": _lua("source_code", functions=("envoy_on_route",)),
    "envoy.extensions.string_matcher.lua.v3.Lua": _lua("source_code", functions=("envoy_match",)),
    "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig.ServerContextConfig": _text(
        lambda: stand_ins.DNS_TABLE, "external_dns_table"
    ),
    "envoy.extensions.common.tap.v3.AdminConfig": _tap_by_admin,
    _HTTP + "local_ratelimit.v3.LocalRateLimit": _local_rate_limit,
    _HTTP + "file_system_buffer.v3.FileSystemBufferFilterConfig": _directory("storage_buffer_path"),
    "envoy.extensions.http.cache.file_system_http_cache.v3.FileSystemHttpCacheConfig": _directory("cache_path"),
    "envoy.extensions.http.cache_v2.file_system_http_cache.v3.FileSystemHttpCacheV2Config": _directory("cache_path"),
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
    "envoy.extensions.network.socket_interface.sockmap.v3.Sockmap": _needs("bpf_program_path", "the program"),
    "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig": _needs("filename", "the file"),
    "envoy.extensions.watchdog.profile_action.v3.ProfileActionConfig": _needs("profile_path", "the directory"),
}
