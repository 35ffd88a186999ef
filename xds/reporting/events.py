"""Logs for operators: events of streams, bugs of this server, applied changes."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import structlog

from xds.model.problem import Problem
from xds.model.sizes import GRPC_BYTES_MAX, LARGE
from xds.model.types import ENDPOINTS, SHORT_NAMES, short_name
from xds.protocol.errors import Status
from xds.protocol.status import Overdue, Refused, SecretsWithheld, UnknownType
from xds.reporting.merged_log import MergedLog, peers_log
from xds.store.entries import Stored
from xds.transport.tls_failures import TlsFailure

log = structlog.get_logger("xds")
PROBLEMS_LOGGED_MAX = 20
TEXT_CHARACTERS_MAX = 200


def log_tls_problem(text: str) -> None:
    log.error("tls", problem=text)


keys_log = MergedLog(log, window_s=600.0, lines_max=1)
"""The log for keys that can't be read: one line, and every ten minutes another one, while that lasts."""


def log_refused_token(client: str, subject: str, reason: str, problem: str) -> None:
    """Log a token that was refused; similar ones are merged. The problem must not have the token.

    ``subject`` is whom the token claims to be of: it is not proven.
    """
    peers_log.warning(
        "a token was refused",
        kind=reason,
        examples={"clients": _host(client), "subjects": subject},
        client=client,
        subject=subject[:TEXT_CHARACTERS_MAX],
        reason=reason,
        problem=problem[:500],
    )


def log_keys(issuer: str, count: int, left_out: Iterable[str]) -> None:
    log.info("keys read", issuer=issuer, keys=count, left_out=list(islice(left_out, PROBLEMS_LOGGED_MAX)))


def log_keys_problem(issuer: str, source: str, problem: str, age_s: float | None) -> None:
    """Log that an issuer's keys can't be read. ``age_s``: how long ago those in use were read, None for never."""
    used = "tokens of this issuer are not taken" if age_s is None else "the former keys stay in use"
    keys_log.error("keys can't be read", kind=(issuer, problem), issuer=issuer, source=source, problem=problem, so=used)


def log_tls_failure(port: str, failure: TlsFailure) -> None:
    """Log a handshake that failed, or a client certificate that was refused. Similar ones are merged."""
    peers_log.warning(
        "a client was refused by TLS",
        kind=(port, failure.reason),
        examples={"clients": _host(failure.peer), "problems": failure.text},
        port=port,
        client=failure.peer,
        reason=failure.reason,
        problem=failure.text[:500],
    )


def log_expiry(text: str) -> None:
    log.warning("a certificate expires", problem=text, hint="renew it: the file is read again when it changes")


def log_certificates(port: str) -> None:
    log.info("certificates read again", port=port)


def log_little_room(room: dict[str, int], wanted: dict[str, int]) -> None:
    hint = "raise the limit of open files (ulimit -Hn), or lower the settings"
    log.warning("fewer connections than set, for want of descriptors", connections=room, settings=wanted, hint=hint)


def log_rebalance(connections: int, share: float, over_s: float) -> None:
    log.info("connections are moved", connections=connections, share=round(share, 4), over_s=over_s)


def log_open_xds(address: str) -> None:
    log.warning(
        "xDS is served to other machines without client certificates: anyone who connects can read it, keys included",
        listen=address,
    )


def log_open_api(addresses: list[str]) -> None:
    log.warning(
        "the push API is open to other machines without TLS and token: anyone who can connect can change everything",
        addresses=addresses,
    )


def log_plain_values(count: int) -> None:
    log.warning(
        "resources that were stored before there was a key are not encrypted",
        resources=count,
        hint="stop the server and run xds store encrypt; with etcd it can run meanwhile",
    )


def log_degraded(text: str) -> None:
    log.warning("the directory is only polled", reason=text)


def log_fault(error: Exception) -> None:
    """Log a bug of ours that ended a stream. Similar ones are merged, as a client may cause one repeatedly."""
    peers_log.error(
        "a stream was ended by a bug in this server; please report it",
        kind=type(error).__name__,
        error=repr(error)[:2_000],
        exc_info=error,
    )


CHANGES_LOGGED_MAX = 600
changes_log = MergedLog(log, lines_max=CHANGES_LOGGED_MAX)
"""The log for changes: an author's are merged beyond ten a second, taken over a minute."""


def flush_changes() -> None:
    """Log what is counted of merged changes; to be called once no more come."""
    changes_log.flush()
    peers_log.flush()


def log_entry(stored: Stored) -> None:
    """Log a change that is served from now on. Those of endpoints alone are merged, as they are pushed all the time."""
    entry = stored.entry
    changed, removed = Counter[str](), Counter[str]()
    for key, encoded in entry.operations.items():
        if encoded is not None and len(encoded) > GRPC_BYTES_MAX:
            what = f"{short_name(key.type_url)}/{key.name}"
            log.warning("a large resource", resource=what, group=key.group, size_bytes=len(encoded), hint=LARGE)
        (removed if encoded is None else changed)[key.type_url] += 1
    groups = sorted({key.group for key in entry.operations})
    about = {
        "revision": stored.revision,
        "author": entry.author,
        "message": entry.message,
        "groups": groups,
        "changed": _by_type(changed),
        "removed": _by_type(removed),
        "rules": entry.groups is not None,
    }
    if entry.groups is None and (changed | removed).keys() == {ENDPOINTS}:
        peers_log.info("applied", kind=hash((entry.author, *groups)), **about)
    else:
        changes_log.info("applied", kind=hash(entry.author), **about)


def log_rejected(problems: tuple[Problem, ...], *, at_start: bool = False) -> None:
    """Log that the directory's content is rejected, and its problems."""
    if at_start:
        hint = "mend the files; the directory is followed, and applied once it has no problems"
        log.error(
            "the directory can't be served; its last good state is served from the store",
            problems=len(problems),
            hint=hint,
        )
    else:
        log.error("change rejected, what was served stays served", problems=len(problems))
    for problem in problems[:PROBLEMS_LOGGED_MAX]:
        log.error("problem", problem=str(problem))


def _by_type(counts: Counter[str]) -> dict[str, int]:
    return {short_name(type_url): count for type_url, count in sorted(counts.items())}


def log_event(event: Refused | UnknownType | SecretsWithheld | Overdue) -> None:
    """Log an event of a stream other than a NACK. Similar ones are merged, as clients cause them."""
    if isinstance(event, Refused):
        _log_refusal(event)
        return
    node = event.node_id[:TEXT_CHARACTERS_MAX]
    group = event.group
    if isinstance(event, UnknownType):
        peers_log.warning(
            "unknown type",
            kind=group,
            examples={"nodes": node, "types": event.type_url},
            node=node,
            group=group,
            type=event.type_url,
            hint="it is answered as a type without resources; add its descriptors with --schema",
        )
        return
    if isinstance(event, SecretsWithheld):
        hint = "secrets need TLS and an identity (secrets.require)"
        peers_log.warning("secrets withheld", kind=group, examples={"nodes": node}, node=node, group=group, hint=hint)
        return
    peers_log.warning(
        "no answer",
        kind=(group, event.type_url if event.type_url in SHORT_NAMES.values() else ""),  # clients choose other types
        examples={"nodes": node},
        node=node,
        group=group,
        type=short_name(event.type_url),
        nonce=event.nonce,
        waited_s=round(event.waited_s, 1),
    )


def _log_refusal(event: Refused) -> None:
    """Log a refused stream. The refusals of one client and one claimed node are merged.

    That the server is full says nothing of a client, so those are merged whoever the clients are.
    """
    names = ", ".join(event.identity)
    identity = names[:TEXT_CHARACTERS_MAX]
    host, node = _host(event.address), event.node_id[:TEXT_CHARACTERS_MAX]
    is_full = event.status == Status.UNAVAILABLE.name
    peers_log.warning(
        "refused",
        kind=event.status if is_full else (event.status, node),
        source="" if is_full else names or host or "unknown",
        examples={"nodes": node, "clients": host, "identities": identity},
        node=node,
        identity=identity,
        client=event.address,
        status=event.status,
        message=event.message[:500],
    )


def _host(address: str) -> str:
    """Return the host of HOST:PORT: the ports of one client's connections differ."""
    return address.rpartition(":")[0] or address
