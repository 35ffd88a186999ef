"""Reads the metrics of servers, and says what happened between two readings."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import BadStatusLine, HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler as Https
from urllib.request import ProxyHandler, Request, build_opener

from prometheus_client.parser import text_string_to_metric_families

from xds.telemetry.histogram import BOUNDS_S, Histogram

WITHIN_S = 3.0
"""How long a server may take to answer."""
ANSWER_BYTES_MAX = 32 * 1024 * 1024
STATES = ("accepted", "pending", "rejected", "gone")


class ScrapeError(Exception):
    """The metrics of a server can't be read."""


@dataclass(slots=True)
class ProcessReading:
    """Totals of one process of a server."""

    streams: int = 0
    responses: int = 0
    nacks: int = 0
    cpu_s: float = 0.0
    resident_bytes: int = 0
    lag: Histogram = field(default_factory=Histogram)
    accepted: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class Reading:
    """What a server's metrics say at one time."""

    at_s: float
    version: str = ""
    revision: int = 0
    streams: int = 0
    nodes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    processes: dict[str, ProcessReading] = field(default_factory=dict)

    def process(self, name: str) -> ProcessReading:
        """Return the reading of a process, to add to."""
        return self.processes.setdefault(name, ProcessReading())


@dataclass(frozen=True, slots=True)
class ProcessRates:
    """What a process did between two readings. Times are None where nothing was measured."""

    name: str
    streams: int
    responses_per_s: float
    nacks: int
    p50_s: float | None
    p99_s: float | None
    cpu: float
    """CPU time per second."""
    resident_bytes: int
    lag_p99_s: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """What a server did between two readings."""

    version: str
    revision: int
    streams: int
    nodes: Mapping[str, int]
    changes_per_s: float
    total: ProcessRates
    """Of all its processes."""
    processes: tuple[ProcessRates, ...]


def reading_of(text: str, at_s: float) -> Reading:
    """Return what a text of metrics says. Raises ScrapeError if it is not one of this product's servers'."""
    reading = Reading(at_s)
    buckets: dict[tuple[str, str], dict[float, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                _take(reading, buckets, sample.name, sample.labels, sample.value)
    except (ValueError, KeyError) as error:
        raise ScrapeError(f"its metrics can't be read: {error}") from None
    if not reading.version:
        raise ScrapeError("it has no metrics of an xds server; give the address of its admin port")
    for (name, process), counts in buckets.items():
        times = reading.process(process).lag if name == "xds_loop_lag_seconds" else reading.process(process).accepted
        bounds = [*BOUNDS_S, float("inf")]
        cumulative = [counts.get(bound, 0.0) for bound in bounds]
        times.counts = [int(now - then) for now, then in zip(cumulative, [0.0, *cumulative[:-1]], strict=True)]
    return reading


def _take(
    reading: Reading,
    buckets: dict[tuple[str, str], dict[float, float]],
    name: str,
    labels: Mapping[str, str],
    value: float,
) -> None:
    match name:
        case "xds_build_info":
            reading.version = labels["version"]
        case "xds_revision":
            reading.revision = int(value)
        case "xds_streams":
            reading.streams = int(value)
        case "xds_nodes":
            reading.nodes[labels["state"]] += int(value)
        case "xds_process_streams":
            reading.process(labels["process"]).streams = int(value)
        case "xds_process_responses_total":
            reading.process(labels["process"]).responses = int(value)
        case "xds_process_nacks_total":
            reading.process(labels["process"]).nacks = int(value)
        case "xds_process_cpu_seconds_total":
            reading.process(labels["process"]).cpu_s = value
        case "xds_process_resident_bytes":
            reading.process(labels["process"]).resident_bytes = int(value)
        case "xds_loop_lag_seconds_bucket" | "xds_process_commit_to_accepted_seconds_bucket":
            key = name.removesuffix("_bucket"), labels["process"]
            buckets.setdefault(key, {})[float(labels["le"])] = value


def rates(before: Reading, now: Reading) -> Rates:
    """Return what a server did between two readings. A process that was replaced began at 0."""
    took_s = max(now.at_s - before.at_s, 1e-9)
    found = []
    lag, accepted = Histogram(), Histogram()
    for name in sorted(now.processes, key=_order):
        new, old = now.processes[name], before.processes.get(name, ProcessReading())
        if new.cpu_s < old.cpu_s:
            old = ProcessReading()
        since_lag, since_accepted = new.lag.less(old.lag), new.accepted.less(old.accepted)
        lag.add(since_lag)
        accepted.add(since_accepted)
        found.append(
            ProcessRates(
                name,
                new.streams,
                (new.responses - old.responses) / took_s,
                new.nacks - old.nacks,
                since_accepted.quantile(0.5),
                since_accepted.quantile(0.99),
                (new.cpu_s - old.cpu_s) / took_s,
                new.resident_bytes,
                since_lag.quantile(0.99),
            )
        )
    total = ProcessRates(
        "all",
        now.streams,
        sum(each.responses_per_s for each in found),
        sum(each.nacks for each in found),
        accepted.quantile(0.5),
        accepted.quantile(0.99),
        sum(each.cpu for each in found),
        sum(each.resident_bytes for each in found),
        lag.quantile(0.99),
    )
    changes = max(0, now.revision - before.revision) / took_s
    return Rates(now.version, now.revision, now.streams, now.nodes, changes, total, tuple(found))


def _order(name: str) -> tuple[bool, int, str]:
    number = name.rpartition(" ")[2]
    return name != "parent", int(number) if number.isdigit() else 0, name


class Scraper:
    """Reads the metrics of one server. ``ca`` are the CAs that sign its certificate, the system's without."""

    def __init__(self, url: str, ca: Path | None = None) -> None:
        """Create it for the URL of an admin port, or HOST:PORT. Raises ScrapeError for another URL."""
        whole = url if "://" in url else f"{'http' if ca is None else 'https'}://{url}"
        wrong = f"{url!r} is not the address of an admin port: HOST:PORT, or a URL of http or https"
        try:
            parts = urlsplit(whole)
            is_usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            raise ScrapeError(wrong) from None
        if not is_usable or not parts.netloc.isprintable() or " " in parts.netloc:
            raise ScrapeError(wrong)
        self.name = parts.netloc.rpartition("@")[2]
        self._url = f"{parts.scheme}://{parts.netloc}/metrics"
        context = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
        self._opener = build_opener(ProxyHandler({}), Https(context=context))

    def read(self) -> Reading:
        """Return what the metrics say now; blocks. Raises ScrapeError."""
        request = Request(self._url, headers={"accept": "text/plain"})  # noqa: S310 - http or https
        try:
            with self._opener.open(request, timeout=WITHIN_S) as answer:
                data = answer.read(ANSWER_BYTES_MAX + 1)
        except BadStatusLine:
            raise ScrapeError(f"{self.name} does not speak HTTP/1.1: give the address of its admin port") from None
        except (URLError, OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ScrapeError(f"{self.name} does not answer: {reason}") from None
        if len(data) > ANSWER_BYTES_MAX:
            raise ScrapeError(f"{self.name} answers with more than {ANSWER_BYTES_MAX:,} bytes")
        return reading_of(data.decode(errors="replace"), time.monotonic())
