"""A worker process: ``python -m xds.serving.worker CHANNEL SOCKET``, both numbers of inherited descriptors.

It serves the resources that its parent sends on a socket that it inherits, and exits when its parent does.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop

from xds.model.catalog import Catalog
from xds.process.descriptors import make_all_room, worker_room
from xds.process.memory import HoleWatch, hold_collection, return_large_blocks, settle_memory
from xds.process.signals import ignore_in_worker
from xds.protocol.errors import StreamRefusedError
from xds.protocol.holders import HoldersQuery
from xds.protocol.inspection import InspectQuery
from xds.protocol.status import NodesQuery
from xds.reporting.logs import configure_logging
from xds.schema.pool import choose_schema, load_schema
from xds.serving.asking import ANSWER_S, Questions
from xds.serving.feed import (
    Answer,
    Ask,
    Begin,
    DebtsQuery,
    Drain,
    FeedChange,
    Figures,
    Move,
    Probe,
    PublishedTo,
    Ready,
    Reload,
    Remember,
    Sessions,
    decode,
    encode,
)
from xds.serving.names_feed import NamesDecoder, NamesEncoder
from xds.serving.own_figures import process_figures
from xds.serving.streams import Streams
from xds.transport.channel import Channel

log = structlog.get_logger("xds")
FIGURES_EVERY_S = 1.0
EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h."""


class ServingWorker:
    """Handles the parent's messages in order. Any error ends the process, and the parent starts another."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._channel = Channel(self._on_message, self._on_parent_gone)
        self._catalog = Catalog(check_references=False)  # the parent has checked the references
        self._streams: Streams | None = None
        self._questions = Questions()
        self._decoder, self._encoder = NamesDecoder(), NamesEncoder()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()

    async def run(self, end: socket.socket) -> None:
        """Serve until the parent sends ``Drain`` and draining is done."""
        await self._channel.attach(end)
        await self._done.wait()
        self._channel.close()

    def _on_parent_gone(self) -> None:
        if not self._done.is_set():
            os._exit(0)  # no more changes would arrive: clients reconnect to the next server

    def _on_message(self, data: bytes) -> None:
        try:
            self._handle(self._decoder.decode(data))
        except Exception as error:
            _fail(error)

    def _handle(self, message: object) -> None:
        match message:
            case Begin():
                self._begin(message)
            case FeedChange():
                self._change(message)
            case Remember(entry):
                self._serving.hub.remember(entry)
            case Probe(sessions):
                self._serving.probe(sessions)
            case Reload():
                self._serving.reload_certificates()
            case Drain(window_s):
                self._run(self._drain(window_s))
            case Ask():
                self._run(self._answer(message))
            case Answer():
                self._questions.take(message)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _fail(error)

    @property
    def _serving(self) -> Streams:
        assert self._streams is not None, "Begin is the first message"
        return self._streams

    # --- Messages of the parent ------------------------------------------------------------------------------------

    def _begin(self, begin: Begin) -> None:
        configure_logging(level=begin.settings.log.level, form=begin.settings.log.format)
        if (schema := begin.schema) is not None:
            choose_schema("of the parent", lambda: schema)
        load_schema().hide(begin.settings.redact.fields, begin.settings.redact.headers)
        self._catalog.resume(decode(begin.state), begin.revision)
        share = lambda entry: self._channel.send(self._encoder.encode(Remember(entry)))  # noqa: E731
        report = lambda told: self._channel.send(encode(told))  # noqa: E731
        self._streams = Streams(
            begin.settings,
            load_schema(),
            self._catalog,
            tls=begin.tls,
            share=share,
            processes=begin.processes,
            on_rejected=report,
            on_published=lambda revision: self._channel.send(encode(PublishedTo(revision))),
            on_nacks=report,
            on_sessions=lambda events: self._channel.send(encode(Sessions(events))),
            name=begin.name,
        )
        self._streams.connections_max = worker_room(begin.settings.connections.xds_max)
        for entry in begin.entries:
            self._streams.hub.remember(entry)
        self._run(self._serve(self._streams))

    async def _serve(self, streams: Streams) -> None:
        settle_memory()
        ask = self._ask if streams.settings.csds else None
        await streams.start(listening=self._listening, ask_status=ask)
        self._channel.send(encode(Ready()))
        HoleWatch().start(asyncio.get_running_loop())
        while not self._done.is_set():
            self._send_figures()
            await asyncio.sleep(FIGURES_EVERY_S)

    def _send_figures(self) -> None:
        streams = self._serving
        figures = Figures(
            streams.counters,
            streams.count,
            self._catalog.revision,
            tls_failures=dict(streams.tls_failures),
            limit_hits=streams.limit_hits,
            memory=streams.memory,
            measures=streams.take_measures(),
            process=process_figures("", streams.lag),
            client_states=streams.client_states,
        )
        self._channel.send(encode(figures))

    def _change(self, change: FeedChange) -> None:
        applied = self._catalog.apply(change.changeset, revision=change.revision)
        assert self._catalog.revision == change.revision, f"{self._catalog.revision} is not {change.revision}"
        self._serving.publish(applied, change.committed_at)

    async def _drain(self, window_s: float) -> None:
        await self._serving.drain(window_s)
        await self._serving.stop()
        self._send_figures()
        self._done.set()

    # --- CSDS ------------------------------------------------------------------------------------------------------

    async def _ask(self, message: bytes) -> bytes:
        """Request the parent's answer to a CSDS request, for the streams of all workers."""
        within_s = 2 * ANSWER_S  # the parent itself waits for other workers
        return await self._questions.ask(lambda ask: self._channel.send(encode(ask)), message, within_s)

    async def _answer(self, ask: Ask) -> None:
        """Answer a request of the parent."""
        serving = self._serving
        refusal = None
        match ask.what:
            case NodesQuery() as query:
                message = encode(await serving.nodes(query))
            case InspectQuery() as asked:
                message = encode(await serving.inspect(asked))
            case HoldersQuery() as of:
                message = encode(await serving.holders(of))
            case Move(share, over_s):
                message = encode(await serving.move(share, over_s))
            case DebtsQuery(doubled):
                message = encode(serving.own_debts(doubled))
            case None:
                self._send_figures()
                message = b""
            case bytes() as request:
                message = b""
                try:
                    message = await serving.client_status().reply(request)
                except StreamRefusedError as error:
                    refusal = (error.status.name, error.message)
        self._channel.send(encode(Answer(ask.number, message, refusal)))


def _fail(error: BaseException) -> None:
    log.error("this worker ends because of a bug in this server; please report it", error=repr(error), exc_info=error)
    os._exit(EXIT_FAULT)


def main() -> None:
    """Run the worker until its parent ends it."""
    ignore_in_worker()  # the parent sends Drain and Reload
    channel, listening = (int(argument) for argument in sys.argv[1:3])
    make_all_room()
    return_large_blocks()
    hold_collection()
    end = socket.socket(fileno=channel)
    end.setblocking(False)
    uvloop.run(ServingWorker(socket.socket(fileno=listening)).run(end))


if __name__ == "__main__":
    main()
