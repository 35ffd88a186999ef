"""What operators read in the log: events of streams, faults of ours, what was applied. It knows no streams."""

from collections import Counter
from itertools import islice

import structlog

from xds.model.types import short_name
from xds.protocol.events import Event, Nacked, Refused
from xds.publishing.changes import Published

log = structlog.get_logger("xds")


def log_tls_problem(text: str) -> None:
    log.error("tls", problem=text)


def log_degraded(text: str) -> None:
    log.warning("the directory is only polled", reason=text)


def log_fault(error: Exception) -> None:
    log.error("a stream was ended by a bug in this server; please report it", error=repr(error), exc_info=error)


def log_published(published: Published) -> None:
    totals = Counter(short_name(key.type_url) for key in published.changed)
    log.info("applied", revision=published.revision, changed=dict(sorted(totals.items())))


def log_event(event: Event) -> None:
    if isinstance(event, Refused):
        log.warning("refused", node=event.node_id[:200], status=event.status, message=event.message[:500])
        return
    about = {
        "node": event.node_id[:200],
        "group": event.group,
        "type": short_name(event.type_url),
        "nonce": event.nonce,
    }
    if isinstance(event, Nacked):
        names = list(islice(event.resources, 20))
        count = len(event.resources)
        log.warning("nack", **about, message=event.message[:2_000], resources=names, resource_count=count)
    else:
        log.warning("no answer", **about, waited_s=round(event.waited_s, 1))
