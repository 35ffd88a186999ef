"""The push API over gRPC (``snapshots.proto``): grpc.aio around ``Operations``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf import json_format
from grpc import aio

from xds._generated import replicas_pb2
from xds._generated import snapshots_pb2 as pb
from xds.access.audit import RECORDS_MAX, AuditFilter
from xds.address import Address, BindError
from xds.api.admission import CHANGES, Admission, until_lapsed
from xds.api.answers import EXPECTED, after_cursor, error_answer, header_value, status_json
from xds.api.bodies import (
    about_message,
    changeset_message,
    document_of,
    groups_changeset_message,
    known_type,
    parsed,
    replacement_message,
)
from xds.api.convergence import KNOWN, Goal
from xds.api.grpc_admission import GrpcAdmission, RefusedCallError, nothing_made_after
from xds.api.intake import BodyRoom, BusyError, Intake, TooSlowError
from xds.api.media_types import JSON
from xds.api.messages import (
    applied_message,
    convergence_message,
    details_message,
    difference_message,
    event_message,
    group_message,
    list_message,
    node_messages,
    problems_message,
    revision_message,
    snapshot_message,
)
from xds.api.node_answers import differences_of_node_json, explanations_json, resources_of_node_json, size_of
from xds.api.operations import HISTORY_MAX, ITEM_BYTES, Operations, StoreCopy
from xds.api.operations import size_of as size_of_all
from xds.api.permitted import Permitted
from xds.api.rules import rules_of, rules_update_of
from xds.api.run_in_thread import LARGE_BYTES, read_in_thread, run_in_thread
from xds.api.shown import resource_any
from xds.api.tracing import Tracing, traced
from xds.api.watched import EncodedChanges
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.work import sharing_work
from xds.protocol.inspection import InspectQuery
from xds.protocol.paging import NodeState, Sort
from xds.protocol.status import NODES_MAX, NodesQuery
from xds.publishing.changes import Published
from xds.publishing.edits import RULES
from xds.routing.answer import answer_json
from xds.routing.request import read_request
from xds.schema.quick import ingest_encoded
from xds.sources.groups_file import groups_json
from xds.sources.yaml_reader import Document
from xds.store.entries import Stored
from xds.store.errors import OutcomeUnknownError
from xds.transport.grpcio_tls import GrpcioCertificates
from xds.transport.tls import TlsFiles

log = structlog.get_logger("xds")
C = TypeVar("C", bound=Enum)
SERVICE = "xds_control_plane.api.v1.Snapshots"
REPLICAS_SERVICE = "xds_control_plane.replicas.v1.Replicas"
AnswerReplica = Callable[[replicas_pb2.Question], Awaitable[replicas_pb2.Answer]]
IN_FLIGHT_MAX = 1_000
"""Endpoint pushes of one stream that may wait for their outcome at a time."""
LARGE_CALLS = frozenset({"Apply", "ApplyGroups", "Replace", "PutRules", "UpdateRules"})
PART_BYTES = 1024 * 1024
"""Bytes of a store's copy in one message."""
QUESTIONS_MAX = 16
"""Other calls whose messages are read concurrently: small ones, which arrive together with their headers."""
REVISION_MAX = 2**63 - 1
TIME_MS_MAX = 10**14
"""The latest time that a request may name, in Unix milliseconds: in the year 5138."""
DECIDED_S = 1.0
"""How long the end of a stream of pushes waits for the outcome of accepted pushes."""
STOP_GRACE_S = 1.0
CONNECTIONS_MAX = 1_000
METADATA_BYTES_MAX = 32 * 1024
"""Maximum size of a call's headers: a token of any size that is read, and others."""
PING_INTERVAL_MIN_S = 10.0
"""Shortest interval between a client's pings on an idle connection, such as a watch; gRPC's default is 5 minutes."""
Handler = Callable[[Any, Permitted], Awaitable[Any]]
Outcome = asyncio.Future[Published] | ChangesetRejectedError
Answer = tuple[Outcome, BodyRoom] | None
"""The outcome of a push, and the room that it holds until then; None at the end of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLimits:
    """Limits of a connection, in seconds: for its handshake, without calls, and for keepalive pings.

    ``push_streams_max`` streams may push endpoints at once. Each reads its next message, whose size gRPC does not
    report in advance.
    """

    push_streams_max: int = 64
    connection_streams_max: int = 256
    message_timeout_s: float = 5.0
    """How long the message of a call may take, other than of ``LARGE_CALLS``: it comes right after the headers."""
    handshake_s: float = 5.0
    idle_s: float = 300.0
    keepalive_interval_s: float = 30.0
    keepalive_timeout_s: float = 10.0

    def channel_options(self) -> list[tuple[str, int]]:
        """Return the limits as gRPC channel options."""
        return [
            # Both, as gRPC refuses calls between the two at random, the more the larger.
            ("grpc.max_metadata_size", METADATA_BYTES_MAX),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_s * 1000)),
            ("grpc.max_connection_idle_ms", int(self.idle_s * 1000)),
            ("grpc.max_concurrent_streams", self.connection_streams_max),
            ("grpc.keepalive_time_ms", int(self.keepalive_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", int(PING_INTERVAL_MIN_S * 1000)),
        ]


class GrpcApi:
    """Serves the push API on its own address, between ``start`` and ``stop``; not at all without an address."""

    def __init__(
        self,
        address: Address | None,
        operations: Operations,
        admission: Admission,
        *,
        tls: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
        body_bytes_max: int,
        body_timeout_s: float = 60.0,
        intake: Intake | None = None,
        limits: GrpcLimits | None = None,
        on_tls_problem: Callable[[str], None] = lambda _problem: None,
        answer_replica: AnswerReplica | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """``answer_replica`` answers the questions of other replicas, if there may be any."""
        self._answer_replica = answer_replica
        self.address = address
        self._tracing = tracing
        self._admission = GrpcAdmission(operations, admission)
        self._tls = tls
        self._client_ca = client_ca
        self._body_bytes_max = body_bytes_max
        self._body_timeout_s = body_timeout_s
        self._intake = intake or Intake(2 * body_bytes_max)
        self._questions = Intake(QUESTIONS_MAX * body_bytes_max, hits=self._intake.hits)
        self._pushing = 0
        self._encoded = {shown: EncodedChanges(partial(_event, secrets=shown)) for shown in (False, True)}
        self._limits = limits or GrpcLimits()
        self._on_tls_problem = on_tls_problem
        self._server: aio.Server | None = None
        self._certificates: GrpcioCertificates | None = None

    def reload_certificates(self) -> bool:
        """Reload the TLS files; return whether there are any and they can be used."""
        return self._certificates is not None and self._certificates.reload()

    async def start(self, connections_max: int = CONNECTIONS_MAX) -> None:
        """Listen, for at most ``connections_max`` connections, and set the port of ``address``. Raises BindError."""
        if self.address is None:
            return
        server = aio.server(
            interceptors=[self._admission],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self._body_bytes_max),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message may expand to any size
                ("grpc.max_allowed_incoming_connections", connections_max),
                *self._limits.channel_options(),
            ],
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        if self._answer_replica is not None:
            handlers = self._replica_handlers(self._answer_replica)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REPLICAS_SERVICE, handlers),))
        target = str(self.address)
        try:
            if self._tls is None:
                port = server.add_insecure_port(target)
            else:
                cert, key = self._tls
                self._certificates = GrpcioCertificates(
                    TlsFiles(cert=cert, key=key, client_ca=self._client_ca), self._on_tls_problem
                )
                port = server.add_secure_port(target, self._certificates.credentials)
        except RuntimeError as error:
            raise BindError("push API", self.address, OSError(0, str(error))) from None
        await server.start()
        self._server = server
        self.address = Address(self.address.host, port)

    async def stop(self) -> None:
        """Close everything; calls in progress get a second."""
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None

    # --- Calls -------------------------------------------------------------------------------------------------------

    def _handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        calls: dict[str, tuple[Any, Handler]] = {
            "Apply": (pb.Changeset, self._apply),
            "ApplyGroups": (pb.GroupsChangeset, self._apply_groups),
            "Replace": (pb.Replacement, self._replace),
            "Rollback": (pb.RollbackRequest, self._rollback),
            "GetResource": (pb.ResourceRequest, self._get_resource),
            "GetSnapshot": (pb.SnapshotRequest, self._get_snapshot),
            "ListResources": (pb.ListResourcesRequest, self._list_resources),
            "Diff": (pb.DiffRequest, self._diff),
            "FindRoute": (pb.RouteRequest, self._find_route),
            "History": (pb.HistoryRequest, self._history),
            "FindRevision": (pb.FindRequest, self._find),
            "GetRevision": (pb.RevisionRequest, self._get_revision),
            "ListGroups": (pb.ListGroupsRequest, self._list_groups),
            "PutGroup": (pb.GroupRequest, self._put_group),
            "DeleteGroup": (pb.GroupRequest, self._delete_group),
            "GetRules": (pb.GetRulesRequest, self._get_rules),
            "PutRules": (pb.Rules, self._put_rules),
            "UpdateRules": (pb.Rules, self._update_rules),
            "GetStatus": (pb.StatusRequest, self._get_status),
            "ListNodes": (pb.NodesRequest, self._list_nodes),
            "InspectNode": (pb.InspectNodeRequest, self._inspect_node),
            "ExplainNode": (pb.ExplainNodeRequest, self._explain_node),
            "Rebalance": (pb.RebalanceRequest, self._rebalance),
            "WhoAmI": (pb.WhoAmIRequest, self._who_am_i),
            "ListAudit": (pb.AuditRequest, self._list_audit),
        }
        # Without a deserializer, and as streams on this side: so a message is read on demand, as bytes.
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.stream_unary_rpc_method_handler(
                self._answering(name, request, call, self._intake if name in LARGE_CALLS else self._questions),
                response_serializer=_encode,
            )
            for name, (request, call) in calls.items()
        }
        handlers["PushEndpoints"] = grpc.stream_stream_rpc_method_handler(
            self._push_endpoints, response_serializer=_encode
        )
        handlers["BackUpStore"] = grpc.stream_stream_rpc_method_handler(
            self._back_up_store, response_serializer=_encode
        )
        handlers["WaitForConvergence"] = grpc.stream_stream_rpc_method_handler(
            self._wait_for_convergence, response_serializer=_encode
        )
        handlers["Watch"] = grpc.stream_stream_rpc_method_handler(self._watch)
        return handlers

    def _replica_handlers(self, answer: AnswerReplica) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        async def asked(question: replicas_pb2.Question, operations: Permitted) -> replicas_pb2.Answer:
            operations.must_answer_replicas()
            return await answer(question)

        handle = self._answering("AskReplica", replicas_pb2.Question, asked, self._questions)
        return {"Ask": grpc.stream_unary_rpc_method_handler(handle, response_serializer=_encode)}

    def _answering(
        self, name: str, message_class: Any, call: Handler, intake: Intake
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(context: Any, operations: Permitted) -> Any:
            with self._admission.recording_unmade(operations):
                async with intake.room(self._body_bytes_max, operations.call.source) as room:
                    message = await self._read(message_class, context, room, is_large=name in LARGE_CALLS)
                    if name in CHANGES:
                        operations.call.fate.groups = _groups_of(message)
                    return await call(message, operations)

        async def handle(_: Any, context: Any) -> Any:
            refusal: tuple[Any, ...]
            try:
                operations = self._admission.operations(name, context)
                if self._tracing is None:
                    return await answer(context, operations)
                return await traced(self._tracing, SERVICE, name, context, answer(context, operations))
            except RefusedCallError as refused:
                refusal = refused.refusal
            except EXPECTED as error:
                refusal = _refusal(error)
            # Outside of the except block: else the abort's context would hold the error, and its frames the body.
            return await context.abort(*refusal)

        return handle

    async def _question(self, message_class: Any, context: Any, operations: Permitted) -> Any:
        """Return the one message of a call with a stream of answers."""
        async with self._questions.room(self._body_bytes_max, operations.call.source) as room:
            return await self._read(message_class, context, room)

    async def _read(self, message_class: Any, context: Any, room: BodyRoom, *, is_large: bool = False) -> Any:
        """Return a call's one message; its size is known once it has arrived."""
        limit, timeout_s = "message_timeout", self._limits.message_timeout_s
        if is_large or self._body_timeout_s < timeout_s:
            limit, timeout_s = "body_timeout", self._body_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                data = await context.read()
        except TimeoutError:
            self._intake.hits.add(limit)
            raise TooSlowError(f"the request took more than {timeout_s:g} s to arrive (api.{limit}_s)") from None
        if data is aio.EOF:
            raise ChangesetRejectedError([Problem(what="the call has no message")])
        room.shrink(len(data))
        message = await run_in_thread(len(data), lambda: parsed(message_class, data))
        if problems := [*_too_large(message)]:
            raise ChangesetRejectedError(problems)
        return message

    # --- Changes -----------------------------------------------------------------------------------------------------

    async def _apply(self, request: Any, operations: Permitted) -> Any:
        change, version = await read_in_thread(request.ByteSize(), lambda: changeset_message(request.group, request))
        return applied_message(await operations.publish(change, version=version))

    async def _apply_groups(self, request: Any, operations: Permitted) -> Any:
        known = frozenset(operations.group_names)
        change, version = await read_in_thread(request.ByteSize(), lambda: groups_changeset_message(request, known))
        return applied_message(await operations.publish(change, version=version))

    async def _replace(self, request: Any, operations: Permitted) -> Any:
        change, version = await read_in_thread(request.ByteSize(), lambda: replacement_message(request.group, request))
        return applied_message(await operations.publish(change, version=version))

    async def _rollback(self, request: Any, operations: Permitted) -> Any:
        like = about_message(request.about)
        return applied_message(await operations.rollback(request.group, request.to, like))

    async def _push_endpoints(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Answer each push, in order, while the following ones are being read."""
        try:
            operations = self._admission.operations("PushEndpoints", context)
        except RefusedCallError as refused:
            await context.abort(*refused.refusal)
        if self._pushing >= self._limits.push_streams_max:
            self._intake.hits.add("push_streams")
            most = self._limits.push_streams_max
            error = BusyError(
                f"{most} streams push endpoints already, as many as may be at once (api.push_streams_max)"
            )
            await context.abort(*_stream_refusal(error, answered=0))
        self._pushing += 1
        try:
            with self._admission.lapse_of(operations) as lapse:
                async for pushed in self._answer_pushes(requests, context, operations, lapse):
                    yield pushed
        finally:
            self._pushing -= 1

    async def _answer_pushes(
        self, requests: AsyncIterator[bytes], context: Any, operations: Permitted, lapse: "asyncio.Future[None]"
    ) -> AsyncIterator[Any]:
        answers: asyncio.Queue[Answer] = asyncio.Queue()
        places = asyncio.Semaphore(IN_FLIGHT_MAX)
        reading = asyncio.create_task(self._read_pushes(requests, answers, places, operations))
        lapse.add_done_callback(lambda _: reading.cancel())
        answered = 0
        try:
            while (answer := await answers.get()) is not None:
                outcome, room = answer
                try:
                    if isinstance(outcome, ChangesetRejectedError):
                        raise outcome
                    published = await asyncio.shield(outcome)
                    await operations.reached(published.revision)
                except ChangesetRejectedError as error:
                    yield pb.EndpointsPushed(rejected=problems_message(error.problems))
                else:
                    yield pb.EndpointsPushed(revision=published.revision)
                finally:
                    room.give_back()
                answered += 1
                places.release()
            if lapse.done():
                lapse.result()
            await reading
        except EXPECTED as error:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)  # from here on no push is taken in
            is_none_made = await _is_none_made([error, *_given_back(answers)])
            await context.abort(*_stream_refusal(error, answered=answered if is_none_made else None))
        finally:
            reading.cancel()
            _given_back(answers)

    async def _read_pushes(
        self,
        requests: AsyncIterator[bytes],
        answers: "asyncio.Queue[Answer]",
        places: asyncio.Semaphore,
        operations: Permitted,
    ) -> None:
        try:
            async for data in requests:
                await places.acquire()
                group = ""
                try:
                    room = await self._intake.take(len(data))
                except BusyError as error:
                    operations.record_unpushed(group, error)
                    raise
                try:
                    request = await run_in_thread(len(data), partial(parsed, pb.EndpointsPush, data))
                    group = request.group
                    read = partial(_endpoints_of, request)
                    endpoints = await read_in_thread(len(data), read, at_once_bytes=LARGE_BYTES)
                    outcome: Outcome = await operations.push_endpoints(request.group, endpoints)
                except ChangesetRejectedError as error:
                    operations.record_unpushed(group, error)
                    outcome = error
                except BaseException as error:
                    operations.record_unpushed(group, error)
                    room.give_back()
                    raise
                answers.put_nowait((outcome, room))
        finally:
            answers.put_nowait(None)

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def _get_resource(self, request: Any, operations: Permitted) -> Any:
        revision = request.revision if request.HasField("revision") else None
        type_url = known_type(request.resource.type)
        found = await operations.resource(
            request.group, type_url, request.resource.name, revision, secrets=request.secrets
        )
        return resource_any(found, secrets=request.secrets)

    async def _get_snapshot(self, request: Any, operations: Permitted) -> Any:
        revision = request.revision if request.HasField("revision") else None
        type_url = known_type(request.type) if request.type else None
        found = await operations.snapshot(request.group, revision, type_url, secrets=request.secrets)
        return await run_in_thread(
            found.size_bytes, lambda: snapshot_message(found, operations.epoch, secrets=request.secrets)
        )

    async def _list_resources(self, request: Any, operations: Permitted) -> Any:
        revision = request.revision if request.HasField("revision") else None
        type_url = known_type(request.type) if request.type else None
        found = await operations.listed(request.group, revision, type_url, prefix=request.prefix, limit=request.limit)
        return await run_in_thread(ITEM_BYTES * len(found.resources), lambda: list_message(found))

    async def _diff(self, request: Any, operations: Permitted) -> Any:
        to = request.to if request.HasField("to") else None
        found = await operations.diff(request.group, getattr(request, "from"), to, secrets=request.secrets)
        size_bytes = size_of_all(found, lambda each: each.size_bytes)
        told = partial(difference_message, secrets=request.secrets)
        return await run_in_thread(size_bytes, lambda: pb.Differences(differences=map(told, found)))

    async def _find_route(self, request: Any, operations: Permitted) -> Any:
        asked = read_request(
            request.url,
            method=request.method,
            headers=request.headers,
            listener=request.listener,
            address=request.address,
            source=request.source,
        )
        revision = request.revision if request.HasField("revision") else None
        at, answer = await operations.route(request.group, asked, revision)
        message = pb.RouteAnswer(revision=at)
        message.answer.update(answer_json(answer))
        return message

    async def _history(self, request: Any, operations: Permitted) -> Any:
        before = request.before if request.HasField("before") else None
        found = await operations.history(
            limit=min(request.limit or 100, HISTORY_MAX), before=before, group=request.group
        )
        return pb.Revisions(revisions=[revision_message(summary) for summary in found])

    async def _find(self, request: Any, operations: Permitted) -> Any:
        return pb.Revision(revision=await operations.find(request.id) or 0, id=request.id)

    async def _get_revision(self, request: Any, operations: Permitted) -> Any:
        found = await operations.show(request.revision, secrets=request.secrets)
        return await run_in_thread(found.size_bytes, lambda: details_message(found, secrets=request.secrets))

    async def _watch(self, _: Any, context: Any) -> AsyncIterator[Any]:
        try:
            operations = self._admission.operations("Watch", context)
            request = await self._question(pb.WatchRequest, context, operations)
            await operations.must_be_kept(request.after)
            encoded, epoch = self._encoded[request.secrets], operations.epoch
            is_whole = operations.sees_whole_changes and not request.secrets
            async for page in operations.watch(request.after, secrets=request.secrets):
                for stored in page:
                    yield await encoded.of(stored, epoch, is_whole=is_whole)
        except RefusedCallError as refused:
            await context.abort(*refused.refusal)
        except EXPECTED as error:
            await context.abort(*_refusal(error))

    async def _wait_for_convergence(self, _: Any, context: Any) -> AsyncIterator[Any]:
        try:
            operations = self._admission.operations("WaitForConvergence", context)
            request = await self._question(pb.ConvergenceRequest, context, operations)
            goal = Goal(
                revision=request.revision,
                group=request.group or None,
                quorum=request.quorum or 1.0,
                rejected_max=request.rejected_max,
                of=request.of or KNOWN,
            )
            async for found in operations.converge(goal, request.timeout_s):
                yield convergence_message(found)
        except RefusedCallError as refused:
            await context.abort(*refused.refusal)
        except EXPECTED as error:
            await context.abort(*_refusal(error))

    async def _back_up_store(self, _: Any, context: Any) -> AsyncIterator[Any]:
        try:
            operations = self._admission.operations("BackUpStore", context)
            with self._admission.recording_unmade(operations):
                await self._question(pb.BackUpStoreRequest, context, operations)
                async with operations.backup() as made:
                    with self._admission.lapse_of(operations) as lapse:
                        async for part in until_lapsed(_parts_of(made), lapse):
                            yield part
        except RefusedCallError as refused:
            await context.abort(*refused.refusal)
        except EXPECTED as error:
            await context.abort(*_refusal(error))

    async def _list_groups(self, _: Any, operations: Permitted) -> Any:
        groups = [group_message(each) for each in operations.groups()]
        return pb.Groups(groups=groups, revision=operations.revision)

    async def _put_group(self, request: Any, operations: Permitted) -> Any:
        like = about_message(request.about)
        return applied_message(await operations.put_group(request.group, request.extends or None, like))

    async def _delete_group(self, request: Any, operations: Permitted) -> Any:
        return applied_message(await operations.delete_group(request.group, about_message(request.about)))

    async def _get_rules(self, _: Any, operations: Permitted) -> Any:
        message = pb.Rules(revision=operations.revision, changed_at=operations.group_revision(RULES))
        message.rules.update(groups_json(operations.table))
        return message

    async def _put_rules(self, request: Any, operations: Permitted) -> Any:
        known = frozenset(operations.group_names)
        rules = await read_in_thread(request.ByteSize(), lambda: rules_of(_document(request), known))
        return applied_message(await operations.edit_rules(rules, about_message(request.about)))

    async def _update_rules(self, request: Any, operations: Permitted) -> Any:
        known = frozenset(operations.group_names)
        rules = await read_in_thread(request.ByteSize(), lambda: rules_update_of(_document(request), known))
        return applied_message(await operations.edit_rules(rules, about_message(request.about)))

    async def _rebalance(self, request: Any, operations: Permitted) -> Any:
        return pb.Rebalanced(connections=await operations.rebalance(request.share, request.over_s))

    async def _list_nodes(self, request: Any, operations: Permitted) -> Any:
        sort = _one_of(Sort, request.sort or "id", "sort")
        query = NodesQuery(
            id=request.id or None,
            group=request.group or None,
            state=_one_of(NodeState, request.state, "state") if request.state else None,
            search=request.search,
            known=request.known,
            sort=sort,
            after=after_cursor(sort, request.cursor),
            limit=min(request.limit or NODES_MAX, NODES_MAX),
            types=not request.no_types,
        )
        found = await operations.nodes(query)
        return pb.Nodes(
            nodes=node_messages(found.nodes),
            missing_workers=found.missing_workers,
            missing_replicas=found.missing_replicas,
            problems=found.problems,
            next=found.after(query),
            total=found.total,
        )

    async def _get_status(self, _: Any, operations: Permitted) -> Any:
        message = pb.FleetStatus()
        message.status.update(status_json(await operations.status()))
        return message

    async def _inspect_node(self, request: Any, operations: Permitted) -> Any:
        type_url = known_type(request.type) if request.type else ""
        found = await operations.inspect(InspectQuery(id=request.id, type_url=type_url, differs=request.differs))
        told = differences_of_node_json if request.differs else resources_of_node_json

        def message() -> Any:
            made = pb.InspectedNode()
            made.node.update(told(found, request.id))
            return made

        return await run_in_thread(size_of(found), message)

    async def _explain_node(self, request: Any, operations: Permitted) -> Any:
        message = pb.ExplainedNode()
        found = await operations.explain(request.id, known_type(request.resource.type), request.resource.name)
        message.explanation.update(explanations_json(found))
        return message

    # --- Access ------------------------------------------------------------------------------------------------------

    async def _who_am_i(self, _: Any, operations: Permitted) -> Any:
        caller = operations.call.caller
        grants = [pb.Grant(roles=each.roles, groups=each.groups) for each in caller.grants]
        return pb.Caller(identity=caller.identity, grants=grants)

    async def _list_audit(self, request: Any, operations: Permitted) -> Any:
        wanted = AuditFilter(
            who=request.who,
            group=request.group,
            since_s=request.since_ms / 1_000 if request.HasField("since_ms") else None,
            outcome=request.outcome,
            limit=min(request.limit or 100, RECORDS_MAX),
        )
        message = pb.AuditRecords()
        for record in await operations.audit(wanted):
            message.records.add().update(record)
        return message


async def _parts_of(made: StoreCopy) -> AsyncIterator[Any]:
    yield pb.BackupPart(revision=made.revision, size_bytes=made.size_bytes, path=str(made.store))
    with await asyncio.to_thread(made.copy.open, "rb") as file:
        while data := await asyncio.to_thread(file.read, PART_BYTES):
            yield pb.BackupPart(data=data)


def _too_large(message: Any, within: str = "") -> Iterator[Problem]:
    """Yield what is wrong with revisions and times of a request: those that neither a store nor a calendar has."""
    for field, value in message.ListFields():
        place = f"{within}{field.name}"
        if place == "about":
            yield from _too_large(value, "about.")
        elif field.cpp_type == field.CPPTYPE_UINT64 and value > REVISION_MAX:
            yield Problem(what=f"{value} is more than {REVISION_MAX}", field=place)
        elif field.cpp_type == field.CPPTYPE_INT64 and not 0 <= value <= TIME_MS_MAX:
            yield Problem(what=f"{value} is not between 0 and {TIME_MS_MAX}", field=place)


def _one_of(kind: type[C], value: str, field: str) -> C:
    """Return the member with a value. Raises ChangesetRejectedError."""
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(each.value for each in kind)
        raise ChangesetRejectedError([Problem(what=f"{value!r} is no {field}", hint=choices, field=field)]) from None


def _groups_of(message: Any) -> tuple[str, ...]:
    """Return the groups that a request names, none if it has no such field."""
    group, groups = getattr(message, "group", ""), getattr(message, "groups", ())
    named = (group,) if isinstance(group, str) else ()
    return tuple(filter(None, (*named, *(getattr(each, "group", each) for each in groups))))


@sharing_work()
def _endpoints_of(message: Any) -> tuple[Resource, ...]:
    return tuple(ingest_encoded(each.type_url, each.value) for each in message.endpoints)


def _document(message: Any) -> Document:
    return document_of(json_format.MessageToJson(message.rules).encode(), JSON)


def _refusal(error: Exception) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Return the status, the message and the trailing metadata that a call ends with."""
    answer = error_answer(error)
    metadata: list[tuple[str, str | bytes]] = []
    if isinstance(error, ChangesetRejectedError):
        metadata.append(("xds-problems-bin", _encode(problems_message(error.problems))))
    metadata += [
        (f"xds-{key}", header_value(str(answer.more[key])))
        for key in ("revision", "oldest", "id")
        if key in answer.more
    ]
    if answer.grpc == "UNAVAILABLE":
        metadata.append(("xds-outcome", "none"))  # the status alone could also mean a lost connection
    return grpc.StatusCode[answer.grpc], answer.message[:2_000], tuple(metadata)


def _given_back(answers: "asyncio.Queue[Answer]") -> list[Outcome]:
    """Return the outcomes of the pushes that are not answered, and give back the room that those take."""
    outcomes = []
    while not answers.empty():
        if (answer := answers.get_nowait()) is not None:
            answer[1].give_back()
            outcomes.append(answer[0])
    return outcomes


async def _is_none_made(outcomes: Sequence[Outcome | Exception]) -> bool:
    """Say whether it turns out within ``DECIDED_S`` that nothing of all these was made."""
    futures = [each for each in outcomes if isinstance(each, asyncio.Future)]
    if futures:
        await asyncio.wait(futures, timeout=DECIDED_S)
    errors: list[BaseException | None] = [each for each in outcomes if isinstance(each, Exception)]
    errors += [each.exception() for each in futures if each.done() and not each.cancelled()]
    refused = [each for each in errors if isinstance(each, EXPECTED) and not isinstance(each, OutcomeUnknownError)]
    return len(refused) == len(outcomes)


def _stream_refusal(
    error: Exception, *, answered: int | None
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Return what a stream of pushes ends with, where none was made after the first ``answered``; None: not known.

    The client counts too: where a call ends with an error, gRPC may drop answers that were not read yet.
    """
    status, text, metadata = _refusal(error)
    metadata = tuple(pair for pair in metadata if pair[0] != "xds-outcome")
    return status, text, metadata if answered is None else (*metadata, *nothing_made_after(answered))


def _event(stored: Stored, *, secrets: bool) -> bytes:
    return _encode(event_message(stored, secrets=secrets))


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString())
