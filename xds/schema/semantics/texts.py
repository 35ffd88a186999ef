"""Regular expressions, and the format strings of access logs, local replies and headers."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import re2

from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.pool import load_schema
from xds.schema.semantics.rule import Rule, Walks

REGEXES_CACHED_MAX = 4_096
_CORE = "envoy.config.core.v3."
_FILE_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog"

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # else RE2 writes every error to stderr

NEED_PARAMETERS = frozenset(
    {
        *("REQ", "RESP", "TRAILER", "REQUEST_HEADER", "RESPONSE_HEADER", "RESPONSE_TRAILER", "STREAM_INFO_REQ"),
        *("QUERY_PARAM", "ENVIRONMENT", "COMMON_DURATION", "DYNAMIC_METADATA", "CLUSTER_METADATA"),
        *("UPSTREAM_METADATA", "METADATA", "FILTER_STATE", "UPSTREAM_FILTER_STATE", "CEL", "XFCC_VALUE"),
    }
)
_BARE = """
ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_RETRANSMITTED BYTES_SENT CONNECTION_ID CONNECTION_TERMINATION_DETAILS CUSTOM_FLAGS
DURATION EMIT_TIME EMIT_TIME_LOCAL FILTER_CHAIN_NAME GRPC_STATUS GRPC_STATUS_NUMBER HOSTNAME LISTENER_NAME
LOCAL_REPLY_BODY PACKETS_RETRANSMITTED PATH PROTOCOL QUERY_PARAMS REQUESTED_SERVER_NAME REQUEST_DURATION
REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_CODE RESPONSE_CODE_DETAILS RESPONSE_DURATION RESPONSE_FLAGS
RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES RESPONSE_TX_DURATION ROUNDTRIP_DURATION ROUTE_NAME
ROUTE_RESOLUTION_COUNT ROUTE_RESOLUTION_TIME_US SPAN_ID START_TIME START_TIME_LOCAL STREAM_ID TLS_JA3_FINGERPRINT
TLS_JA4_FINGERPRINT TRACE_ID UNIQUE_ID VIRTUAL_CLUSTER_NAME
DOWNSTREAM_CX_RTT DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT
DOWNSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID
DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_LOCAL_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS
DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_HANDSHAKE_DURATION
DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_LOCAL_ADDRESS
DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_CLOSE_REASON
DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN
DOWNSTREAM_LOCAL_PORT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_CERT DOWNSTREAM_PEER_CERT_V_END
DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256
DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1
DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_IP_SAN DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256
DOWNSTREAM_PEER_ISSUER_SERIAL DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT
DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT
DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_GROUP DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_VERSION
DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT
UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID UPSTREAM_CONNECTION_IDS_ATTEMPTED
UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED
UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT UPSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_HEADER_BYTES_RECEIVED
UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOST UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT
UPSTREAM_HOST_NAME UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT
UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_LOCAL_CLOSE_REASON
UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN UPSTREAM_LOCAL_PORT UPSTREAM_LOCAL_URI_SAN UPSTREAM_PEER_CERT
UPSTREAM_PEER_CERT_V_END UPSTREAM_PEER_CERT_V_START UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER
UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN UPSTREAM_PROTOCOL UPSTREAM_REMOTE_ADDRESS
UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REMOTE_PORT
UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_SERVER_NAME UPSTREAM_TLS_CIPHER UPSTREAM_TLS_GROUP UPSTREAM_TLS_SESSION_ID
UPSTREAM_TLS_VERSION UPSTREAM_TRANSPORT_FAILURE_REASON UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT
"""
_OF_OTHER_CONTEXTS = frozenset(
    {"PER_REQUEST_STATE", "METHOD", "HOST", "SERVICE", "REQUEST_PROPERTY", "RESPONSE_PROPERTY"}
)
"""Commands that only headers, or the logs of ``generic_proxy``, know."""
COMMANDS = NEED_PARAMETERS | frozenset(_BARE.split())
"""The commands of Envoy 1.40, found in its binary and tried one by one."""
_KNOWN = COMMANDS | _OF_OTHER_CONTEXTS
_COMMAND = re.compile(r"%(?P<name>[A-Z0-9_]+)(?:\((?P<parameters>.*?)\))?(?::[0-9]+)?%")


@lru_cache(REGEXES_CACHED_MAX)
def regex_problem(regex: str) -> str:
    """Return why RE2 refuses a regular expression, "" if it takes it."""
    try:
        re2.compile(regex, _OPTIONS)
    except re2.error as error:
        why = error.args[0] if error.args else error
        return why.decode(errors="replace") if isinstance(why, bytes) else str(why)
    return ""


def _check_regex(matcher: Any, trail: Trail, found: Findings, _: Walks) -> None:
    why = regex_problem(matcher.regex)
    if why:
        hint = "RE2 has no lookaround and no backreferences: https://github.com/google/re2/wiki/Syntax"
        found.add((trail, "regex"), f"is not a regular expression that RE2 takes: {why}", hint)


def format_problem(text: str, *, more_commands: bool = False) -> tuple[str, str]:
    """Return what is wrong with a format string and what to do, ("", "") if nothing is.

    ``more_commands``: formatters of the resource may define further commands.
    """
    at = text.find("%")
    while at >= 0:
        if text.startswith("%%", at):
            at = text.find("%", at + 2)
            continue
        command = _COMMAND.match(text, at)
        if command is None:
            return f"has no valid command at {text[at : at + 24]!r}", "write %COMMAND% or %COMMAND(…)%, and %% for a %"
        name, parameters = command["name"], command["parameters"]
        if name not in _KNOWN and not more_commands:
            return f"has the unknown command %{name}%", "write %% for a %"
        if name in NEED_PARAMETERS and not parameters:
            return f"has %{name}% without its parameters", f"write %{name}(…)%"
        at = text.find("%", command.end())
    return "", ""


def check_format(text: str, trail: Trail, found: Findings, *, more_commands: bool = False) -> None:
    """Add what is wrong with a format string. Another Envoy than that of the packaged schema may have more commands."""
    if "%" in text:
        what, hint = format_problem(text, more_commands=more_commands or not load_schema().is_packaged)
        if what:
            found.add(trail, what, hint)


def check_headers(message: Any, fields: Iterable[str], trail: Trail, found: Findings) -> None:
    """Check the headers that a message adds: names that Envoy does not let be changed, and formats of values."""
    for field in fields:
        for index, option in enumerate(getattr(message, field)):
            here = ((trail, field), index)
            key = option.header.key
            if key.startswith(":") or key.lower() == "host":
                hint = "use prefix_rewrite, host_rewrite_literal and the like"
                found.add(((here, "header"), "key"), f"is {key!r}, which Envoy does not let be changed", hint)
            check_format(option.header.value, ((here, "header"), "value"), found)


def check_removed_headers(message: Any, fields: Iterable[str], trail: Trail, found: Findings) -> None:
    """Check the names of headers that a message removes."""
    for field in fields:
        for index, key in enumerate(getattr(message, field)):
            if key.startswith(":") or key.lower() == "host":
                found.add(((trail, field), index), f"is {key!r}, which Envoy does not let be removed")


def _struct_formats(struct: Any, trail: Trail) -> Iterator[tuple[str, Trail]]:
    for key in sorted(struct.fields):
        yield from _value_formats(struct.fields[key], (trail, MapKey(key)))


def _value_formats(value: Any, trail: Trail) -> Iterator[tuple[str, Trail]]:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        yield value.string_value, trail
    elif kind == "struct_value":
        yield from _struct_formats(value.struct_value, trail)
    elif kind == "list_value":
        for index, item in enumerate(value.list_value.values):
            yield from _value_formats(item, (trail, index))


def _check_format_string(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    more = len(message.formatters) > 0
    check_format(message.text_format, (trail, "text_format"), found, more_commands=more)
    source = ((trail, "text_format_source"), "inline_string")
    check_format(message.text_format_source.inline_string, source, found, more_commands=more)
    for text, here in _struct_formats(message.json_format, (trail, "json_format")):
        check_format(text, here, found, more_commands=more)


def _check_file_log(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_format(message.format, (trail, "format"), found)
    for field in ("json_format", "typed_json_format"):
        if message.HasField(field):
            for text, here in _struct_formats(getattr(message, field), (trail, field)):
                check_format(text, here, found)


TEXT_RULES: dict[str, Rule] = {
    "envoy.type.matcher.v3.RegexMatcher": _check_regex,
    _CORE + "SubstitutionFormatString": _check_format_string,
    _FILE_LOG: _check_file_log,
}
