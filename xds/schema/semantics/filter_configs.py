"""What the code of single filters asks of their configuration, beyond the rules of the API."""

import json
import re
from collections.abc import Iterator
from typing import Any

from xds.schema.decode import Findings
from xds.schema.formats import ascii_lower
from xds.schema.paths import MapKey, Trail, path_of
from xds.schema.redact import REDACTED
from xds.schema.rules import shown
from xds.schema.semantics.health_checks import STATUS_END, STATUS_MIN
from xds.schema.semantics.intervals import check_intervals, millis
from xds.schema.semantics.rule import Rule, Walks

FILL_MILLIS_MIN = 50
"""The shortest fill interval of local rate limits."""
_HTTP = "envoy.extensions.filters.http."
_NETWORK = "envoy.extensions.filters.network."
_EXTENSIONS = "envoy.extensions.http."
_ZSTD = "envoy.extensions.compression.zstd."
_ARN = re.compile("arn:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:.*", re.DOTALL)


def _check_local_limit(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.HasField("token_bucket"):
        _check_bucket(message.token_bucket, (trail, "token_bucket"), found)
    if "descriptors" in message.DESCRIPTOR.fields_by_name:
        _check_descriptors(message.descriptors, (trail, "descriptors"), found)


def _check_descriptors(descriptors: Any, trail: Trail, found: Findings) -> None:
    seen: set[tuple[tuple[str, str], ...]] = set()
    for index, each in enumerate(descriptors):
        _check_bucket(each.token_bucket, ((trail, index), "token_bucket"), found)
        entries = tuple((entry.key, entry.value) for entry in each.entries)
        if entries in seen:
            found.add((trail, index), "has the entries of a descriptor before it")
        seen.add(entries)


def _check_bucket(bucket: Any, trail: Trail, found: Findings) -> None:
    if bucket.HasField("fill_interval") and millis(bucket.fill_interval) < FILL_MILLIS_MIN:
        hint = "give it more tokens_per_fill less often"
        found.add((trail, "fill_interval"), f"must be at least {FILL_MILLIS_MIN / 1000:g}s", hint)


def _check_api_version(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the API version with which a message's gRPC service is to be spoken to."""
    has_service = "grpc_service" not in message.DESCRIPTOR.fields_by_name or message.HasField("grpc_service")
    if has_service and message.transport_api_version == _V2:
        found.add((trail, "transport_api_version"), "is V2, which Envoy does not speak any more", "set it to V3")


_V2 = 1
"""``envoy.config.core.v3.ApiVersion.V2``."""


def _check_header_to_metadata(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    for field in ("request_rules", "response_rules"):
        for index, rule in enumerate(getattr(message, field)):
            here: Trail = ((trail, field), index)
            if bool(rule.header) == bool(rule.cookie):
                found.add(here, "must have exactly one of header, cookie")
            if not rule.HasField("on_header_present") and not rule.HasField("on_header_missing"):
                found.add(here, "must have one of on_header_present, on_header_missing")
            if rule.HasField("on_header_missing") and not rule.on_header_missing.value:
                found.add(((here, "on_header_missing"), "value"), "is required")
            present = rule.on_header_present
            if present.value and present.HasField("regex_value_rewrite"):
                found.add(((here, "on_header_present"), "regex_value_rewrite"), "excludes value")
            if rule.remove and rule.cookie:
                found.add((here, "remove"), "must not be set for a cookie")


def _check_health_check(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.HasField("cache_time") and not message.pass_through_mode.value:
        found.add((trail, "cache_time"), "must not be set without pass_through_mode")


def _check_keys(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the keys that a JWT provider has inline."""
    source = message.local_jwks
    kind = source.WhichOneof("specifier") if message.WhichOneof("jwks_source_specifier") == "local_jwks" else None
    if kind not in ("inline_string", "inline_bytes"):
        return
    text = source.inline_string if kind == "inline_string" else source.inline_bytes.decode("utf-8", "replace")
    if not text or REDACTED in text:
        return
    here: Trail = ((trail, "local_jwks"), kind)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        # Envoy's parser takes more: other quotes, names without any, a comma after the last item.
        if not text.lstrip().startswith("{") or ("keys" not in text and "\\" not in text):
            found.add(here, "is not JSON", 'a JWKS is an object with "keys"')
        return
    keys = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(keys, list) or not any(isinstance(each, dict) for each in keys):
        found.add(here, 'is not a JWKS: an object with a list "keys" that has a key')


def _check_admission(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    place = (((trail, "success_criteria"), "http_criteria"), "http_success_status")
    for index, each in enumerate(message.success_criteria.http_criteria.http_success_status):
        if each.start > each.end or each.start < STATUS_MIN or each.end > STATUS_END:
            what = f"must be within {STATUS_MIN} and {STATUS_END}, but is from {each.start} to below {each.end}"
            found.add((place, index), what)


def _check_lambda(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if _ARN.fullmatch(message.arn) is None:
        what = f"is {shown(message.arn)}, not an ARN"
        found.add((trail, "arn"), what, "arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME")


def _check_file_cache(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.manager_config.WhichOneof("manager_type") is None:
        found.add((trail, "manager_config"), "must have a manager", "for example thread_pool: {}")


def _check_redis(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    here = (trail, "prefix_routes")
    routes = message.prefix_routes
    if not routes.routes and not routes.HasField("catch_all_route"):
        found.add(here, "must have routes or a catch_all_route", "for example catch_all_route: {cluster: redis}")
    seen: set[str] = set()
    for index, route in enumerate(routes.routes):
        prefix = ascii_lower(route.prefix) if routes.case_insensitive else route.prefix
        if prefix in seen:
            found.add(
                (((here, "routes"), index), "prefix"), f"is {shown(route.prefix)}, which a route before it has already"
            )
        seen.add(prefix)


def _check_thrift_match(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    kind = message.WhichOneof("match_specifier")
    if message.invert and kind in ("method_name", "service_name") and not getattr(message, kind):
        found.add((trail, "invert"), f"must not be set with an empty {kind}, which matches everything")


def _check_processor(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.HasField("grpc_service") == message.HasField("http_service"):
        found.add(trail, "must have exactly one of grpc_service, http_service")


def _check_ports(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check a range of ports in RBAC, whose end is not part of it."""
    if message.WhichOneof("rule") != "destination_port_range":
        return
    ports, here = message.destination_port_range, (trail, "destination_port_range")
    if ports.start < 0 or ports.end > PORTS_END:
        found.add(here, f"must be within 0 and {PORTS_END}, but is from {ports.start} to below {ports.end}")
    elif ports.start >= ports.end:
        found.add(here, f"is empty: from {ports.start} to below {ports.end}", "end is not part of the range")


PORTS_END = 65_536
"""The end of a range with all ports."""


def _check_users(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the users of HTTP basic authentication, if they are inline: lines of htpasswd with SHA-1."""
    kind = message.users.WhichOneof("specifier")
    if kind not in ("inline_string", "inline_bytes"):
        return
    data = message.users.inline_string.encode() if kind == "inline_string" else message.users.inline_bytes
    text, here = data.decode("latin-1"), ((trail, "users"), kind)
    if not data and message.DESCRIPTOR.name == "BasicAuth":  # for a route, it turns away everyone
        found.add(here, "must not be empty", "leave the filter out, or give a user")
    names: set[str] = set()
    for number, line in enumerate(() if REDACTED in text else text.split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not (name and colon and password.startswith(_SHA) and len(password) == len(_SHA) + _SHA_CHARACTERS):
            what = f"has a line {number} that is not of the form USER:{_SHA}HASH"
            found.add(here, what, "htpasswd -s makes such lines")
        elif name in names:
            found.add(here, f"has the user of line {number} twice")
        names.add(name)


_SHA, _SHA_CHARACTERS = "{SHA}", 28
"""How passwords begin, and how long their SHA-1 in base64 is."""


def _check_api_keys(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    keys: set[str] = set()
    for index, credential in enumerate(message.credentials):
        if credential.key in keys:
            found.add((((trail, "credentials"), index), "key"), "is that of a credential before it")
        keys.add(credential.key)
    for index, source in enumerate(message.key_sources):
        if not (source.header or source.query or source.cookie):
            found.add(((trail, "key_sources"), index), "must have one of header, query, cookie")


def _check_tunnel(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.post_path and not message.use_post:
        found.add((trail, "post_path"), "must not be set without use_post")


def _check_tcp_proxy(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.upstream_connect_mode and not message.HasField("max_early_data_bytes"):
        what = "is required with an upstream_connect_mode other than IMMEDIATE"
        found.add((trail, "max_early_data_bytes"), what)
    if message.HasField("access_log_options"):
        for field in ("access_log_flush_interval", "flush_access_log_on_connected"):
            if message.HasField(field) if field.endswith("interval") else message.flush_access_log_on_connected:
                found.add((trail, field), "excludes access_log_options", "set it there")


def _check_tlv(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    of_proxy = "proxy_protocol_tlvs" in path_of(trail)[-2:]  # elsewhere a value may be empty
    if of_proxy and message.HasField("format_string") == bool(message.value):
        found.add(trail, "must have exactly one of value, format_string")


def _check_retry(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the back-off of a filter that fetches keys or tokens."""
    here = ((trail, "retry_policy"), "retry_back_off")
    check_intervals(message.retry_policy.retry_back_off, here, found)


def _check_fluentd(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_intervals(message.backoff_options, (trail, "backoff_options"), found)


def _check_dictionaries(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check that dictionaries of Zstandard begin as such. With another one, Envoy 1.40 ends."""
    of_many = "dictionaries" in message.DESCRIPTOR.fields_by_name
    here: Trail = (trail, "dictionaries" if of_many else "dictionary")
    if of_many:
        places: list[tuple[Any, Trail]] = [(each, (here, index)) for index, each in enumerate(message.dictionaries)]
    else:
        places = [(message.dictionary, here)] if message.HasField("dictionary") else []
    for source, place in places:
        kind = source.WhichOneof("specifier")
        data = source.inline_string.encode() if kind == "inline_string" else source.inline_bytes
        if kind in ("inline_string", "inline_bytes") and data != REDACTED.encode() and not data.startswith(_DICTIONARY):
            what = "is no dictionary of Zstandard: with it, Envoy 1.40 crashes"
            found.add((place, kind), what, "zstd --train makes one; give it as inline_bytes or by filename")


_DICTIONARY = bytes.fromhex("37a430ec")


def _check_network_rbac(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    for field in ("rules", "shadow_rules"):
        policies = getattr(message, field).policies
        for key in sorted(policies):
            place = (((trail, field), "policies"), MapKey(key))
            for part in ("permissions", "principals"):
                for index, each in enumerate(getattr(policies[key], part)):
                    for here in _headers(each, ((place, part), index)):
                        found.add(here, "is for HTTP, and never matches in a network filter")


def _headers(rule: Any, trail: Trail) -> Iterator[Trail]:
    """Yield the places of rules on headers in a permission or a principal."""
    kind = rule.WhichOneof("rule" if rule.DESCRIPTOR.name == "Permission" else "identifier")
    if kind == "header":
        yield (trail, kind)
    elif kind in ("not_rule", "not_id"):
        yield from _headers(getattr(rule, kind), (trail, kind))
    elif kind in ("and_rules", "or_rules", "and_ids", "or_ids"):
        field = "rules" if kind.endswith("rules") else "ids"
        for index, each in enumerate(getattr(getattr(rule, kind), field)):
            yield from _headers(each, (((trail, kind), field), index))


FILTER_CONFIG_RULES: dict[str, Rule] = {
    _HTTP + "local_ratelimit.v3.LocalRateLimit": _check_local_limit,
    _NETWORK + "local_ratelimit.v3.LocalRateLimit": _check_local_limit,
    **dict.fromkeys(
        (
            *("envoy.config.core.v3.ApiConfigSource", "envoy.config.ratelimit.v3.RateLimitServiceConfig"),
            *(_HTTP + "ext_authz.v3.ExtAuthz", _NETWORK + "ext_authz.v3.ExtAuthz"),
            "envoy.extensions.access_loggers.grpc.v3.CommonGrpcAccessLogConfig",
        ),
        _check_api_version,
    ),
    _HTTP + "header_to_metadata.v3.Config": _check_header_to_metadata,
    _HTTP + "health_check.v3.HealthCheck": _check_health_check,
    _HTTP + "jwt_authn.v3.JwtProvider": _check_keys,
    _HTTP + "admission_control.v3.AdmissionControl": _check_admission,
    _HTTP + "aws_lambda.v3.Config": _check_lambda,
    _EXTENSIONS + "cache.file_system_http_cache.v3.FileSystemHttpCacheConfig": _check_file_cache,
    _EXTENSIONS + "cache_v2.file_system_http_cache.v3.FileSystemHttpCacheV2Config": _check_file_cache,
    _HTTP + "ext_proc.v3.ExternalProcessor": _check_processor,
    "envoy.config.rbac.v3.Permission": _check_ports,
    **dict.fromkeys(
        (_HTTP + name for name in ("basic_auth.v3.BasicAuth", "basic_auth.v3.BasicAuthPerRoute")), _check_users
    ),
    _HTTP + "api_key_auth.v3.ApiKeyAuth": _check_api_keys,
    _HTTP + "gcp_authn.v3.GcpAuthnFilterConfig": _check_retry,
    _HTTP + "jwt_authn.v3.RemoteJwks": _check_retry,
    "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig.RetryOptions": _check_fluentd,
    "envoy.config.core.v3.TlvEntry": _check_tlv,
    _NETWORK + "tcp_proxy.v3.TcpProxy": _check_tcp_proxy,
    _NETWORK + "tcp_proxy.v3.TcpProxy.TunnelingConfig": _check_tunnel,
    "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.UdpTunnelingConfig": _check_tunnel,
    **dict.fromkeys((_ZSTD + name for name in ("compressor.v3.Zstd", "decompressor.v3.Zstd")), _check_dictionaries),
    _NETWORK + "redis_proxy.v3.RedisProxy": _check_redis,
    _NETWORK + "thrift_proxy.v3.RouteMatch": _check_thrift_match,
    _NETWORK + "rbac.v3.RBAC": _check_network_rbac,
}
