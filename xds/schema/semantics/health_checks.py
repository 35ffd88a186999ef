"""Health checks: payloads in hexadecimal, ranges of status codes, what gRPC and several checks need."""

import re
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.rules import shown
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.semantics.texts import check_removed_headers

_CORE = "envoy.config.core.v3.HealthCheck"
_HEX = re.compile("(?:[0-9A-Fa-f]{2})*")
STATUS_MIN, STATUS_END = 100, 600


def check_statuses(ranges: Any, trail: Trail, found: Findings) -> None:
    """Check ranges of HTTP status codes, whose ends are not part of them."""
    for index, each in enumerate(ranges):
        if each.start >= each.end:
            what = f"is empty: from {each.start} to below {each.end}"
        elif each.start < STATUS_MIN or each.end > STATUS_END:
            what = f"must be within {STATUS_MIN} and {STATUS_END}, but is from {each.start} to below {each.end}"
        else:
            continue
        found.add((trail, index), what, "end is not part of the range")


def _check_http(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    for field in ("expected_statuses", "retriable_statuses"):
        check_statuses(getattr(message, field), (trail, field), found)
    check_removed_headers(message, ("request_headers_to_remove",), trail, found)


def _check_payload(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if message.WhichOneof("payload") == "text" and _HEX.fullmatch(message.text) is None:
        what = f"must be in hexadecimal, but is {shown(message.text)}"
        found.add((trail, "text"), what, f"the bytes of this text: {message.text.encode().hex()[:80]}")


def _check_udp(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check the payloads of a UDP check, to which the rules of the API do not hold."""
    for field in ("send", "receive"):
        payload = getattr(message, field)
        if payload.WhichOneof("payload") == "text" and not payload.text:
            found.add(((trail, field), "text"), "must not be empty")


HEALTH_RULES: dict[str, Rule] = {
    f"{_CORE}.HttpHealthCheck": _check_http,
    f"{_CORE}.Payload": _check_payload,
    "envoy.extensions.health_checkers.udp.v3.UdpHealthCheck": _check_udp,
}
