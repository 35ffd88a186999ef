"""How a call of the push API ended, for its metrics: a word of a small set, and the role of the caller."""

from typing import TYPE_CHECKING

from xds.access.rights import Caller

if TYPE_CHECKING:
    import grpc

OK, REFUSED, FORBIDDEN, UNAUTHENTICATED, BUSY, FAILED, GONE = (
    *("ok", "refused", "forbidden", "unauthenticated"),
    *("busy", "failed", "gone"),
)
_HTTP = {401: UNAUTHENTICATED, 403: FORBIDDEN, 421: FORBIDDEN, 429: BUSY, 499: GONE, 503: BUSY}
_GRPC = {
    "OK": OK,
    "UNAUTHENTICATED": UNAUTHENTICATED,
    "PERMISSION_DENIED": FORBIDDEN,
    "CANCELLED": GONE,
    "UNAVAILABLE": BUSY,
    "RESOURCE_EXHAUSTED": BUSY,
    "INTERNAL": FAILED,
    "UNKNOWN": FAILED,
}
NOBODY = "nobody"
"""The role of a caller that was not admitted."""
ANYONE = "anyone"
"""The role of everyone where the API asks for no credentials."""
UNKNOWN_CALL = "unknown"
"""The call of a request that has no route, or was refused before its route was looked up."""


def http_outcome(status: int) -> str:
    """Return the outcome of a REST call by its status."""
    if status < 400:
        return OK
    return _HTTP.get(status) or (FAILED if status >= 500 else REFUSED)


def grpc_outcome(code: "grpc.StatusCode | None") -> str:
    """Return the outcome of a gRPC call by its status, None if no handler has set one."""
    return OK if code is None else _GRPC.get(code.name, REFUSED)


def role_of(caller: Caller) -> str:
    """Return the roles of a caller as one label: ``admin``, or all of them."""
    if not caller.identity:
        return ANYONE
    return "admin" if "admin" in caller.roles else "+".join(caller.roles)
