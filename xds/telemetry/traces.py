"""Traces with OpenTelemetry: from a call of the push API to the nodes that have accepted its change.

A trace has the call, and below it the change's way: planned, kept by the store, fed to the processes that serve
streams, sent by all of them, accepted by the first and by the last node. The exporter, the sampler and the service are
configured by OpenTelemetry's own environment variables (``OTEL_*``). No other module imports OpenTelemetry.

https://opentelemetry.io/docs/specs/semconv/
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from xds.process.background import Background
from xds.protocol.convergence import Acceptance, Debts
from xds.protocol.errors import StreamRefusedError
from xds.publishing.journey import Journey, current

WATCHERS_MAX = 100
"""Maximum changes that are followed at once until nodes have accepted them; further ones end with the feed."""
WATCH_S = 60.0
"""How long a change is followed."""
ASK_MIN_S, ASK_MAX_S = 0.005, 0.25
"""The pause between two looks at a change: it grows by half each time."""
GROUPS_SHOWN_MAX = 10
TEXT_CHARACTERS_MAX = 200
SHUTDOWN_S = 5.0
SERVICE = "xds-control-plane"
_KINDS = {"store": SpanKind.CLIENT}

log = structlog.get_logger("xds")
Attributes = Mapping[str, str | int]


class CallSpan:
    """The span of a call."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def rename(self, name: str, attributes: Attributes) -> None:
        """Set the name, and add attributes."""
        self._span.update_name(name[:TEXT_CHARACTERS_MAX])
        self._span.set_attributes(dict(attributes))

    def fail(self, description: str) -> None:
        """Set the status to an error."""
        self._span.set_status(Status(StatusCode.ERROR, description[:TEXT_CHARACTERS_MAX]))


class Traces:
    """Traces calls and the changes that they make. ``store``: the kind of the store. Use it in one event loop."""

    def __init__(
        self, provider: TracerProvider, debts: Callable[[], Awaitable[Debts]], background: Background, *, store: str
    ) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)
        self._debts = debts
        self._background = background
        self._store = store
        self._watching = 0
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def call(self, name: str, context: Mapping[str, str], attributes: Attributes) -> Iterator[CallSpan]:
        """Trace a call of a caller with a trace context, and the change that it publishes, if it is sampled."""
        parent = self._propagator.extract(context) if context else Context()
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, dict(attributes))
        if not span.is_recording():
            yield CallSpan(span)
            return
        journey = Journey()
        token = current.set(journey)
        try:
            yield CallSpan(span)
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            current.reset(token)
            self._add_steps(set_span_in_context(span, Context()), journey)
            span.end()
            if journey.revision and self._watching < WATCHERS_MAX:
                self._watching += 1
                self._background.run("trace a change", self._watch(span, journey))

    def _add_steps(self, context: Context, journey: Journey) -> None:
        for step in journey.steps:
            attributes: dict[str, Any] = {}
            if step.name == "store":
                attributes = {"db.system.name": self._store, "db.operation.name": "append"}
            elif step.name == "feed":
                attributes = _about(journey)
            kind = _KINDS.get(step.name, SpanKind.INTERNAL)
            made = self._tracer.start_span(f"xds.{step.name}", context, kind, attributes, start_time=step.begun_ns)
            made.end(step.ended_ns)

    async def _watch(self, span: Span, journey: Journey) -> None:
        """Add the spans of a change that is being sent, as the counts of what nodes owe show it."""
        try:
            context = set_span_in_context(span, Context())
            begun_ns = journey.steps[-1].ended_ns
            until = time.monotonic() + WATCH_S
            await self._wait(lambda debts: debts.revision >= journey.revision, until)
            sent_ns = self._end(context, "send", begun_ns, journey, None)
            found = await self._wait(lambda debts: _is_accepted_by_one(_acceptance(debts, journey)), until)
            self._end(context, "accept.first", sent_ns, journey, found)
            found = await self._wait(lambda debts: _acceptance(debts, journey).pending == 0, until)
            self._end(context, "accept.all", sent_ns, journey, found)
        except StreamRefusedError as error:  # no process answers
            log.warning("a change can't be traced to its nodes", revision=journey.revision, problem=str(error))
        finally:
            self._watching -= 1

    async def _wait(self, is_done: Callable[[Debts], bool], until: float) -> Debts:
        """Return what nodes owe, once that is as wanted, or the time is over."""
        pause_s = ASK_MIN_S
        while True:
            debts = await self._debts()
            if is_done(debts) or time.monotonic() >= until:
                return debts
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, ASK_MAX_S)

    def _end(self, context: Context, name: str, begun_ns: int, journey: Journey, found: Debts | None) -> int:
        """Add a span that ends now, and return when."""
        attributes = _about(journey)
        acceptance = None if found is None else _acceptance(found, journey)
        if acceptance is not None:
            attributes |= {f"xds.nodes.{key}": value for key, value in acceptance._asdict().items()}
        made = self._tracer.start_span(f"xds.{name}", context, SpanKind.INTERNAL, attributes, start_time=begun_ns)
        if acceptance is not None and acceptance.rejected:
            made.set_status(Status(StatusCode.ERROR, f"{acceptance.rejected} nodes have rejected it"))
        elif acceptance is not None and name == "accept.all" and acceptance.pending:
            made.set_status(Status(StatusCode.ERROR, f"{acceptance.pending} nodes have not answered in time"))
        ended_ns = time.time_ns()
        made.end(ended_ns)
        return ended_ns

    async def stop(self) -> None:
        """Export what is not exported yet, for a few seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_S):
                await asyncio.to_thread(self._provider.shutdown)


def _is_accepted_by_one(found: Acceptance) -> bool:
    """Say whether a node has accepted a change, or none is to be waited for."""
    return found.accepted > 0 or found.pending == 0


def _about(journey: Journey) -> dict[str, Any]:
    groups = [group[:TEXT_CHARACTERS_MAX] for group in journey.groups[:GROUPS_SHOWN_MAX]]
    return {"xds.revision": journey.revision, "xds.groups": groups}


def _acceptance(debts: Debts, journey: Journey) -> Acceptance:
    """Return how many nodes of the changed groups have accepted the change; of all groups, where many are changed."""
    if not journey.groups or len(journey.groups) > GROUPS_SHOWN_MAX:
        return debts.at(journey.revision)
    found = [debts.at(journey.revision, group) for group in journey.groups]
    return Acceptance(*(sum(numbers) for numbers in zip(*found, strict=True)))


def open_traces(
    debts: Callable[[], Awaitable[Debts]], background: Background, *, store: str, instance: str, version: str
) -> Traces:
    """Return traces that are exported by OTLP, as the environment says (``OTEL_EXPORTER_OTLP_ENDPOINT`` and others)."""
    attributes = {SERVICE_VERSION: version, SERVICE_INSTANCE_ID: instance}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        attributes[SERVICE_NAME] = SERVICE
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return Traces(provider, debts, background, store=store)


def _exporter() -> SpanExporter:
    both = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", both)
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()
