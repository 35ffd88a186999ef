"""The commands of format strings, and what each takes in its parentheses."""

import json
import re
from collections.abc import Callable

from xds.schema.formats import ascii_lower
from xds.schema.rules import cut, shown

_HEADERS = frozenset(
    {
        *("REQ", "RESP", "TRAILER", "REQUEST_HEADER", "RESPONSE_HEADER", "RESPONSE_TRAILER", "STREAM_INFO_REQ"),
    }
)
"""Commands whose parameter is a header, and perhaps another one in its place: ``a?b``."""
NEED_PARAMETERS = _HEADERS | frozenset(
    {
        *("QUERY_PARAM", "ENVIRONMENT", "COMMON_DURATION", "DYNAMIC_METADATA", "CLUSTER_METADATA"),
        *("UPSTREAM_METADATA", "METADATA", "FILTER_STATE", "UPSTREAM_FILTER_STATE", "CEL", "TYPED_CEL", "XFCC_VALUE"),
        "COALESCE",
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
OF_HEADERS = frozenset({"PER_REQUEST_STATE"})
"""Commands that only the values of headers know."""
OF_GENERIC_LOGS = frozenset({"METHOD", "HOST", "SERVICE", "REQUEST_PROPERTY", "RESPONSE_PROPERTY"})
"""Commands that only the logs of ``generic_proxy`` know."""
COMMANDS = NEED_PARAMETERS | frozenset(_BARE.split())
"""The commands of Envoy 1.40, found in its binary and tried one by one."""
_NO_LENGTH = frozenset(
    {
        *("START_TIME", "START_TIME_LOCAL", "EMIT_TIME", "EMIT_TIME_LOCAL", "RESPONSE_CODE_DETAILS", "GRPC_STATUS"),
        *("DOWNSTREAM_PEER_CERT_V_START", "DOWNSTREAM_PEER_CERT_V_END", "UPSTREAM_PEER_CERT_V_START"),
        *("UPSTREAM_PEER_CERT_V_END", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", "REQUESTED_SERVER_NAME"),
        *("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"),
        *("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"),
        *("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "CLUSTER_METADATA", "UPSTREAM_METADATA", "COMMON_DURATION"),
    }
)
"""Commands that take parameters and no length."""
_MAY_HAVE_PARAMETERS = NEED_PARAMETERS | _NO_LENGTH | {"PATH", "QUERY_PARAMS"}
_HEADER_NAME = re.compile(r":?[-!#$%&'*+.0-9A-Z^_`a-z|~]*")
_COMMAND = re.compile(r"%(?P<name>[A-Z0-9_]+)(?:\((?P<parameters>.*?)\))?(?::(?P<length>[0-9]+))?%")
_METADATA = ("DYNAMIC", "CLUSTER", "ROUTE", "UPSTREAM_HOST", "LISTENER", "VIRTUAL_HOST", "LISTENER_FILTER_CHAIN")
_PRECISIONS = ("ms", "us", "ns")
_STATUSES = ("CAMEL_STRING", "SNAKE_STRING", "NUMBER")
_XFCC_KEYS = ("by", "hash", "cert", "chain", "subject", "uri", "dns")


def format_problem(text: str, *, more: frozenset[str] | None = frozenset()) -> tuple[str, str]:
    """Return what is wrong with a format string and what to do, ("", "") if nothing is.

    ``more``: further commands that are known where it stands; None if formatters of the resource may define any.
    """
    at = text.find("%")
    while at >= 0:
        if text.startswith("%%", at):
            at = text.find("%", at + 2)
            continue
        command = _COMMAND.match(text, at)
        if command is None or _is_too_long(command["length"]):
            return (
                f"has no valid command at {shown(text[at : at + 24])}",
                "write %COMMAND% or %COMMAND(…)%, and %% for a %",
            )
        problem = _problem(command["name"], command["parameters"] or "", command["length"] is not None, more)
        if problem[0]:
            return problem
        at = text.find("%", command.end())
    return "", ""


def _is_too_long(length: str | None) -> bool:
    """Return whether a length does not fit into 64 bits."""
    digits = (length or "").lstrip("0")
    return len(digits) > _DIGITS_MAX or (len(digits) == _DIGITS_MAX and int(digits) >= 1 << 64)


_DIGITS_MAX = 20


def _problem(name: str, parameters: str, has_length: bool, more: frozenset[str] | None) -> tuple[str, str]:
    if name not in COMMANDS:
        is_known = more is None or name in more
        return ("", "") if is_known else (f"has the unknown command %{cut(name)}%", "write %% for a %")
    if name in NEED_PARAMETERS and not parameters:
        return f"has %{cut(name)}% without its parameters", f"write %{cut(name)}(…)%"
    if more is None:
        return "", ""  # a formatter may have the command too, and takes what it likes
    if parameters and name not in _MAY_HAVE_PARAMETERS:
        return f"has %{name}({cut(parameters)})%, but {name} takes no parameters", f"write %{cut(name)}%"
    if has_length and (name in _NO_LENGTH or name not in _MAY_HAVE_PARAMETERS):
        return f"has %{cut(name)}% with a length, which {name} does not take", "leave the length out"
    if name == "COALESCE":
        return _coalesce_problem(parameters, more)
    check = _PARAMETERS.get(name)
    hint = check(parameters) if check is not None and parameters else ""
    return (f"has %{name}({cut(parameters)})%, whose parameters Envoy does not take", hint) if hint else ("", "")


def _header_hint(parameters: str) -> str:
    names = parameters.split("?")
    if len(names) > 2:
        return "one header may stand in the place of another: a?b"
    return "" if all(map(_HEADER_NAME.fullmatch, names)) else "it is not the name of a header"


def _choices(*choices: tuple[str, ...]) -> Callable[[str], str]:
    """Return the check of parameters that are each one of some words, or empty. Envoy ignores further ones."""

    def check(parameters: str) -> str:
        for part, known in zip(parameters.split(":"), choices, strict=False):
            if part and part not in known:
                return f"{shown(part)} is none of {', '.join(known)}"
        return ""

    return check


def _metadata_hint(parameters: str) -> str:
    kind = parameters.partition(":")[0]
    return "" if kind in _METADATA else f"{shown(kind)} is none of {', '.join(_METADATA)}"


def _state_hint(parameters: str) -> str:
    key, _, rest = parameters.partition(":")
    kind, _, field = rest.partition(":")
    if not key:
        return "give the key of the object"
    if kind not in ("", "PLAIN", "TYPED", "FIELD"):
        return f"{shown(kind)} is none of PLAIN, TYPED, FIELD"
    return "FIELD, and only that, has the name of a field" if (kind == "FIELD") != bool(field) else ""


def _duration_hint(parameters: str) -> str:
    parts = parameters.split(":")
    if len(parts) not in (2, 3):
        return "write START:END or START:END:PRECISION"
    return (
        "" if len(parts) == 2 or parts[2] in _PRECISIONS else f"{shown(parts[2])} is none of {', '.join(_PRECISIONS)}"
    )


def _xfcc_hint(parameters: str) -> str:
    return "" if ascii_lower(parameters) in _XFCC_KEYS else f"{shown(parameters)} is none of {', '.join(_XFCC_KEYS)}"


_PARAMETERS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(_HEADERS, _header_hint),
    **dict.fromkeys(("FILTER_STATE", "UPSTREAM_FILTER_STATE"), _state_hint),
    "METADATA": _metadata_hint,
    "COMMON_DURATION": _duration_hint,
    "XFCC_VALUE": _xfcc_hint,
    "GRPC_STATUS": lambda text: "" if text in _STATUSES else f"{shown(text)} is none of {', '.join(_STATUSES)}",
    "PATH": _choices(("WQ", "NQ"), ("ORIG", "PATH", "ORIG_OR_PATH")),
    "QUERY_PARAMS": _choices(("ORIG", "DECODED")),
    "REQUESTED_SERVER_NAME": _choices(("SNI_ONLY", "SNI_FIRST", "HOST_FIRST"), ("ORIG", "HOST", "ORIG_OR_HOST")),
}
"""Returns what parameters must be, "" if they are that. Expressions of CEL are not looked at."""


def _coalesce_problem(parameters: str, more: frozenset[str]) -> tuple[str, str]:
    """Return what is wrong with the commands of which COALESCE shows the first that is there."""
    hint = 'for example %COALESCE({"operators": ["REQUESTED_SERVER_NAME", {"command": "REQ", "param": ":authority"}]})%'
    try:
        content = json.loads(parameters)
    except (ValueError, RecursionError):
        return "has %COALESCE% with parameters that are not JSON", hint
    operators = content.get("operators") if isinstance(content, dict) else None
    if not isinstance(operators, list) or not operators:
        return "has %COALESCE% without a list of operators", hint
    for operator in operators:
        entry = {"command": operator} if isinstance(operator, str) else operator
        if not isinstance(entry, dict) or not isinstance(entry.get("command"), str):
            return "has %COALESCE% with an operator that names no command", hint
        length, parameter = entry.get("max_length"), entry.get("param", "")
        if "max_length" in entry and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
            return "has %COALESCE% with a max_length that is not a positive number", hint
        if not isinstance(parameter, str):
            return "has %COALESCE% with a param that is not text", hint
        problem = _problem(entry["command"], parameter, length is not None, more - OF_HEADERS)
        if problem[0]:
            return problem
    return "", ""
