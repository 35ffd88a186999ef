"""What the code of single filters asks of their configuration, beyond the rules of the API."""

import json
import re
from collections.abc import Iterator
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.redact import REDACTED
from xds.schema.semantics.health_checks import STATUS_END, STATUS_MIN
from xds.schema.semantics.rule import Rule, Walks

FILL_MILLIS_MIN = 50
"""The shortest fill interval of local rate limits."""
_HTTP = "envoy.extensions.filters.http."
_NETWORK = "envoy.extensions.filters.network."
_CACHE = "envoy.extensions.http."
_ARN = re.compile("arn:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:.+", re.DOTALL)


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
    interval = bucket.fill_interval
    if bucket.HasField("fill_interval") and interval.seconds * 1000 + interval.nanos // 1_000_000 < FILL_MILLIS_MIN:
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
    except ValueError:
        found.add(here, "is not JSON", 'a JWKS is an object with "keys"')
        return
    if not isinstance(content, dict) or not isinstance(content.get("keys"), list) or not content["keys"]:
        found.add(here, 'is not a JWKS: an object with a list "keys" that has a key')


def _check_admission(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    place = (((trail, "success_criteria"), "http_criteria"), "http_success_status")
    for index, each in enumerate(message.success_criteria.http_criteria.http_success_status):
        if each.start > each.end or each.start < STATUS_MIN or each.end > STATUS_END:
            what = f"must be within {STATUS_MIN} and {STATUS_END}, but is from {each.start} to below {each.end}"
            found.add((place, index), what)


def _check_lambda(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if _ARN.fullmatch(message.arn) is None:
        what = f"is {message.arn!r}, not an ARN"
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
        prefix = route.prefix.lower() if routes.case_insensitive else route.prefix
        if prefix in seen:
            found.add(
                (((here, "routes"), index), "prefix"), f"is {route.prefix!r}, which a route before it has already"
            )
        seen.add(prefix)


def _check_thrift_match(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    kind = message.WhichOneof("match_specifier")
    if message.invert and kind in ("method_name", "service_name") and not getattr(message, kind):
        found.add((trail, "invert"), f"must not be set with an empty {kind}, which matches everything")


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
    _CACHE + "cache.file_system_http_cache.v3.FileSystemHttpCacheConfig": _check_file_cache,
    _CACHE + "cache_v2.file_system_http_cache.v3.FileSystemHttpCacheV2Config": _check_file_cache,
    _NETWORK + "redis_proxy.v3.RedisProxy": _check_redis,
    _NETWORK + "thrift_proxy.v3.RouteMatch": _check_thrift_match,
    _NETWORK + "rbac.v3.RBAC": _check_network_rbac,
}
