"""A client of the gRPC push API."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from xds._generated import snapshots_pb2 as pb
from xds.address import Address
from xds.client.endpoints import EndpointStream
from xds.client.errors import (
    ClientError,
    OutcomeUnknownError,
    RejectedError,
    TokenError,
    UnavailableError,
    error_of,
)
from xds.client.results import (
    Applied,
    BackupPart,
    Caller,
    Convergence,
    Difference,
    Event,
    Grant,
    Group,
    GroupChanges,
    Json,
    Nodes,
    ResourceList,
    Revision,
    RevisionDetails,
    Snapshot,
    applied_of,
    convergence_of,
    details_of,
    difference_of,
    event_of,
    group_of,
    json_of,
    list_of,
    nodes_of,
    revision_of,
)
from xds.model.given import ResourceLike
from xds.model.groups import DEFAULT_GROUP
from xds.model.problem import ChangesetRejectedError

SERVICE = "/xds_control_plane.api.v1.Snapshots/"
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
CONNECT_S = 3.0
"""Timeout of one attempt to connect, TLS and the first HTTP/2 frame included."""
KEEPALIVE_S, KEEPALIVE_TIMEOUT_S = 20.0, 20.0
"""Interval of keepalive pings during a call, and timeout of their answers, after which the call fails: the server is
frozen or unreachable. The server allows such pings (``xds.api.grpc_api.PING_INTERVAL_MIN_S``)."""
RULES_KEYS = ("groups", "rules", "unmatched", "external")
MESSAGE_BYTES_MAX = 1024 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Metadata and options of a change."""

    id: str = ""
    """Identifies the change, so that a retry does not make it twice. By default each call makes a new id."""
    message: str = ""
    author: str = ""
    expected_revision: int | None = None
    """If set, the change fails with ConflictError if the groups that it concerns, or for rules the groups and rules,
    changed after this revision."""
    version: str = ""
    """A version for the resources, instead of the hash of their content."""
    dry_run: bool = False
    existing_groups_only: bool = False
    """If set, a change that sets resources in a group that does not exist fails with NotFoundError."""


class Client:
    """A connection to one control plane, open inside ``async with``.

    ``token`` says who the client is. ``tls_ca`` is a PEM file of the CAs that sign the server's certificate; with it
    the connection uses TLS. ``tls_cert`` and ``tls_key`` are the client's own certificate, if the server asks for one.
    Without TLS, a token for another machine raises TokenError. Changes whose outcome is unknown after a lost
    connection, and all changes while the server is unavailable, are retried with the same id for ``patience_s``
    seconds. Secrets in results read ``[redacted]``, unless ``redact`` is False.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:18001",
        *,
        token: str = "",
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        patience_s: float = 10.0,
        redact: bool = True,
    ) -> None:
        self._address = address
        if token:
            _check_token(token, address, is_encrypted=tls_ca is not None)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._tls_ca = tls_ca
        if (tls_cert is None) is not (tls_key is None) or (tls_cert is not None and tls_ca is None):
            raise TokenError("tls_cert, tls_key and tls_ca belong together: give all three")
        self._tls_pair = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
        self._patience_s = patience_s
        self._secrets = not redact
        self._stack = AsyncExitStack()
        self._channel: aio.Channel | None = None

    async def __aenter__(self) -> Self:
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            # Reconnects to a restarted server at once; by default that takes up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", round(CONNECT_S * 1_000)),  # bounds an attempt, not the pause after it
            ("grpc.max_reconnect_backoff_ms", 300),
            ("grpc.keepalive_time_ms", round(KEEPALIVE_S * 1_000)),
            ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1_000)),
            ("grpc.http2.ping_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1_000)),  # also applies to bandwidth probes
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if self._tls_ca is None:
            options.append(("grpc.enable_http_proxy", 0))  # else an http_proxy would be sent the token in clear
            channel = aio.insecure_channel(self._address, options=options)
        else:
            credentials = await asyncio.to_thread(_credentials, self._tls_ca, self._tls_pair)
            channel = aio.secure_channel(self._address, credentials, options=options)
        self._channel = await self._stack.enter_async_context(channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._channel = None

    # --- Changes -----------------------------------------------------------------------------------------------------

    async def apply(
        self,
        *,
        upsert: Iterable[ResourceLike] = (),
        remove: Iterable[tuple[str, str]] = (),
        group: str = DEFAULT_GROUP,
        about: About | None = None,
    ) -> Applied:
        """Set and remove resources of a group, all or none; return once the change is stored and served.

        Each of ``upsert`` is a dict with ``@type``, YAML text, or a message; each of ``remove`` is a type and a name.
        Raises RejectedError, ConflictError, NotFoundError, RefusedError, TooLargeError, UnavailableError and
        OutcomeUnknownError.
        """
        request = pb.Changeset(
            group=group,
            upsert=_anys(upsert, group),
            remove=[pb.ResourceName(type=word, name=name) for word, name in remove],
        )
        return await self._change("Apply", request, about)

    async def apply_groups(
        self, groups: Mapping[str, GroupChanges], *, rules: Json | None = None, about: About | None = None
    ) -> Applied:
        """Change several groups, and parts of the rules, all or none, at one revision.

        ``rules`` are parts of groups.yaml, as ``update_rules`` takes them; the groups that they name are created.
        """
        request = pb.GroupsChangeset()
        for group, changes in groups.items():
            request.groups.add(
                group=group,
                upsert=_anys(changes.upsert, group),
                remove=[pb.ResourceName(type=word, name=name) for word, name in changes.remove],
                replace=changes.replace,
            )
        if rules is not None:
            request.rules.update(rules)
        return await self._change("ApplyGroups", request, about)

    async def replace(
        self, resources: Iterable[ResourceLike], *, group: str = DEFAULT_GROUP, about: About | None = None
    ) -> Applied:
        """Replace all resources of a group."""
        return await self._change("Replace", pb.Replacement(group=group, resources=_anys(resources, group)), about)

    async def rollback(self, to: int, *, group: str = DEFAULT_GROUP, about: About | None = None) -> Applied:
        """Restore a group's resources of a revision, as a new revision."""
        return await self._change("Rollback", pb.RollbackRequest(group=group, to=to), about)

    async def put_group(self, group: str, *, extends: str | None = None, about: About | None = None) -> Applied:
        """Create a group, or change which group it extends."""
        return await self._change("PutGroup", pb.GroupRequest(group=group, extends=extends or ""), about)

    async def delete_group(self, group: str, *, about: About | None = None) -> Applied:
        """Remove a group and all its resources."""
        return await self._change("DeleteGroup", pb.GroupRequest(group=group), about)

    async def put_rules(self, rules: Json, *, about: About | None = None) -> Applied:
        """Replace the rules and the inheritance of groups; existing groups stay. Raises RejectedError."""
        return await self._change("PutRules", _rules(rules), about)

    async def update_rules(self, parts: Json, *, about: About | None = None) -> Applied:
        """Replace the given parts of the rules, and leave the others. Raises RejectedError.

        Of ``groups``, only the named groups are changed. ``add_external`` adds to the external names.
        """
        return await self._change("UpdateRules", _rules(parts), about)

    @asynccontextmanager
    async def pushing_endpoints(self, *, group: str = DEFAULT_GROUP) -> AsyncIterator["EndpointsPush"]:
        """Push assignments on one stream: ``async with client.pushing_endpoints() as push: await push(assignment)``.

        If the connection is lost, pushes that were sent and not answered fail with OutcomeUnknownError, as does the end
        of the ``async with``; those that were not sent fail with UnavailableError. Push again on a new stream.
        """
        call = self._open().stream_stream(
            SERVICE + "PushEndpoints",
            request_serializer=pb.EndpointsPush.SerializeToString,
            response_deserializer=pb.EndpointsPushed.FromString,
        )(metadata=self._metadata)
        stream = EndpointStream(call, group)
        try:
            yield EndpointsPush(stream, group)
            await stream.finish()
        except aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            stream.close()

    async def _change(self, name: str, request: Any, about: About | None) -> Applied:
        about = about or About()
        change_id = about.id or uuid4().hex
        request.about.CopyFrom(
            pb.About(
                id=change_id,
                message=about.message,
                author=about.author,
                expected_revision=about.expected_revision,
                version=about.version,
                dry_run=about.dry_run,
                existing_groups_only=about.existing_groups_only,
            )
        )
        at_stake = "" if request.about.dry_run else change_id
        return applied_of(await self._persist(lambda: self._call(name, request, pb.Applied, at_stake)))

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Retry while the outcome is unknown or the server unavailable, at once when it is reachable again.

        If one attempt leaves the outcome unknown, it stays unknown until a later attempt is answered.
        """
        channel = self._open()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        pause_s = RETRY_MIN_S
        unknown: OutcomeUnknownError | None = None
        while True:
            try:
                return await work()
            except (OutcomeUnknownError, UnavailableError) as error:
                if isinstance(error, OutcomeUnknownError):
                    unknown = error
                if loop.time() + pause_s > deadline:
                    raise unknown or error from None
            await asyncio.sleep(pause_s)
            if channel.get_state() is grpc.ChannelConnectivity.READY:
                pause_s = min(2 * pause_s, RETRY_MAX_S)
            else:
                pause_s = RETRY_MIN_S
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await channel.channel_ready()

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def get(self, type: str, name: str, *, group: str = DEFAULT_GROUP, revision: int | None = None) -> Json:  # noqa: A002
        """Return one of a group's own resources. Raises NotFoundError."""
        request = pb.ResourceRequest(
            group=group, resource=pb.ResourceName(type=type, name=name), revision=revision, secrets=self._secrets
        )
        return json_of(await self._call("GetResource", request, AnyMessage))

    async def snapshot(self, group: str = DEFAULT_GROUP, *, revision: int | None = None, type: str = "") -> Snapshot:  # noqa: A002
        """Return a group's own resources, now or at a revision."""
        request = pb.SnapshotRequest(group=group, revision=revision, type=type, secrets=self._secrets)
        found = await self._call("GetSnapshot", request, pb.Snapshot)
        resources = tuple(json_of(each) for each in found.resources)
        return Snapshot(found.revision, found.epoch, resources, found.changed_at)

    async def list_resources(
        self,
        group: str = DEFAULT_GROUP,
        *,
        revision: int | None = None,
        type: str = "",  # noqa: A002
        prefix: str = "",
        limit: int = 0,
    ) -> ResourceList:
        """Return the names of a group's own resources, without their content: those that begin with ``prefix``.

        With a ``limit`` other than 0, at most that many.
        """
        request = pb.ListResourcesRequest(group=group, revision=revision, type=type, prefix=prefix, limit=limit)
        return list_of(await self._call("ListResources", request, pb.ResourceList))

    async def diff(self, before: int, after: int | None = None, *, group: str = DEFAULT_GROUP) -> list[Difference]:
        """Return the differences between two revisions of a group."""
        fields: dict[str, Any] = {"from": before, "to": after}  # `from` is a Python keyword
        request = pb.DiffRequest(group=group, secrets=self._secrets, **fields)
        found = await self._call("Diff", request, pb.Differences)
        return [difference_of(each) for each in found.differences]

    async def route(
        self,
        url: str,
        *,
        group: str = DEFAULT_GROUP,
        method: str = "",
        headers: Iterable[str] = (),
        listener: str = "",
        address: str = "",
        source: str = "",
        revision: int | None = None,
    ) -> Json:
        """Return which way a request would take through the resources that a group's nodes see.

        ``method`` "" is GET, or POST for gRPC. ``headers`` are like ``name: value``. The answer has ``revision``,
        ``certain``, ``steps``, ``doubts`` and ``outcome``, as REST's ``GET /v1/groups/{group}/route``. Raises
        RejectedError for a wrong URL.
        """
        request = pb.RouteRequest(
            group=group,
            url=url,
            method=method,
            headers=list(headers),
            listener=listener,
            address=address,
            source=source,
            revision=revision,
        )
        found = await self._call("FindRoute", request, pb.RouteAnswer)
        answer: Json = _integers(json_format.MessageToDict(found.answer))
        return {"group": group, "revision": found.revision, **answer}

    async def history(self, *, limit: int = 100, before: int | None = None, group: str = "") -> list[Revision]:
        """Return the newest changes, newest first; with a ``group``, only those of its own resources."""
        request = pb.HistoryRequest(limit=limit, before=before, group=group)
        found = await self._call("History", request, pb.Revisions)
        return [revision_of(each) for each in found.revisions]

    async def show(self, revision: int) -> RevisionDetails:
        """Return one change of the history in full. Raises NotFoundError."""
        request = pb.RevisionRequest(revision=revision, secrets=self._secrets)
        return details_of(await self._call("GetRevision", request, pb.RevisionDetails))

    async def find(self, change_id: str) -> int | None:
        """Return the revision of the change with this id, None if the history has no such change."""
        return (await self._call("FindRevision", pb.FindRequest(id=change_id), pb.Revision)).revision or None

    async def watch(self, after: int) -> AsyncIterator[Event]:
        """Yield every change after a revision, once and in order, until the connection is lost."""
        call = self._open().unary_stream(
            SERVICE + "Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.Event.FromString,
        )(pb.WatchRequest(after=after, secrets=self._secrets), metadata=self._metadata)
        try:
            async for message in call:
                yield event_of(message)
        except aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()

    async def groups(self) -> list[Group]:
        """Return all groups by name."""
        return [group_of(each) for each in (await self._call("ListGroups", pb.ListGroupsRequest(), pb.Groups)).groups]

    async def rules(self) -> Json:
        """Return group inheritance and the rules that assign nodes to groups, in the form of ``groups.yaml``."""
        return (await self.rules_at())[1]

    async def rules_at(self) -> tuple[int, Json]:
        """Return the served revision, for ``About.expected_revision``, and the rules at that revision."""
        found = await self._call("GetRules", pb.GetRulesRequest(), pb.Rules)
        rules = json_format.MessageToDict(found.rules)
        return found.revision, {key: rules[key] for key in sorted(rules, key=RULES_KEYS.index)}

    async def revision(self) -> int:
        """Return the served revision."""
        return int((await self._call("ListGroups", pb.ListGroupsRequest(), pb.Groups)).revision)

    async def status(self) -> Json:
        """Return how the fleet and its server stand, in the form of ``GET /v1/status``."""
        found = await self._call("GetStatus", pb.StatusRequest(), pb.FleetStatus)
        return _whole_numbers(json_format.MessageToDict(found.status))

    async def nodes(
        self,
        *,
        id: str = "",  # noqa: A002
        group: str = "",
        state: str = "",
        search: str = "",
        sort: str = "id",
        known: bool = False,
        limit: int = 1_000,
        cursor: str = "",
        types: bool = True,
    ) -> Nodes:
        """Return a page of nodes, one entry for each of their connections; with ``known`` also nodes that are gone.

        ``sort``: ``id``, ``group``, ``state``, ``since`` or ``version``. At most 1,000 are on a page.
        """
        request = pb.NodesRequest(
            id=id,
            group=group,
            state=state,
            search=search,
            sort=sort,
            known=known,
            limit=limit,
            cursor=cursor,
            no_types=not types,
        )
        return nodes_of(await self._call("ListNodes", request, pb.Nodes))

    async def inspect(self, id: str, *, type: str = "", differs: bool = False) -> Json:  # noqa: A002
        """Return one node in full: its resources, or with ``differs`` those with another version.

        In the form of ``GET /v1/nodes/{id}/resources`` and ``…/diff``. Raises NotFoundError.
        """
        found = await self._call(
            "InspectNode", pb.InspectNodeRequest(id=id, type=type, differs=differs), pb.InspectedNode
        )
        return _whole_numbers(json_format.MessageToDict(found.node))

    async def explain(self, id: str, type: str, name: str) -> Json:  # noqa: A002
        """Return why a node has a resource, or not, in the form of ``GET /v1/nodes/{id}/explain``."""
        request = pb.ExplainNodeRequest(id=id, resource=pb.ResourceName(type=type, name=name))
        found = await self._call("ExplainNode", request, pb.ExplainedNode)
        return _whole_numbers(json_format.MessageToDict(found.explanation))

    async def converge(
        self,
        revision: int,
        *,
        group: str = "",
        quorum: float = 1.0,
        rejected_max: int = 0,
        timeout_s: float = 60.0,
        of: str = "known",
    ) -> AsyncIterator[Convergence]:
        """Yield how many nodes have accepted a revision, at once and whenever that changes.

        ``of`` says which nodes count: those that are ``known``, or only those that are ``connected``. Ends once the
        share ``quorum`` of them has, once more than ``rejected_max`` reject it, or after ``timeout_s``. The last one
        names nodes that have not accepted it.
        """
        request = pb.ConvergenceRequest(
            revision=revision, group=group, quorum=quorum, rejected_max=rejected_max, timeout_s=timeout_s, of=of
        )
        call = self._open().unary_stream(
            SERVICE + "WaitForConvergence",
            request_serializer=pb.ConvergenceRequest.SerializeToString,
            response_deserializer=pb.Convergence.FromString,
        )(request, metadata=self._metadata)
        try:
            async for message in call:
                yield convergence_of(message)
        except aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()

    async def rebalance(self, share: float, *, over_s: float = 60.0) -> int:
        """End a share of the server's xDS connections at random times within ``over_s``; return how many will end.

        Their clients connect anew, to any replica, and are sent only what they lack. Raises RejectedError for a wrong
        share, and RefusedError if the server's transport can't do it.
        """
        request = pb.RebalanceRequest(share=share, over_s=over_s)
        return int((await self._call("Rebalance", request, pb.Rebalanced)).connections)

    async def whoami(self) -> Caller:
        """Return who this client is to the server, and what it may do."""
        found = await self._call("WhoAmI", pb.WhoAmIRequest(), pb.Caller)
        return Caller(found.identity, tuple(Grant(tuple(each.roles), tuple(each.groups)) for each in found.grants))

    async def audit(
        self, *, who: str = "", group: str = "", since_s: float | None = None, outcome: str = "", limit: int = 100
    ) -> list[Json]:
        """Return records of the server's audit log, newest first; ``who`` and ``group`` are globs.

        ``since_s`` is in Unix seconds. Raises RefusedError unless the client has the role admin.
        """
        since_ms = None if since_s is None else round(since_s * 1_000)
        request = pb.AuditRequest(who=who, group=group, since_ms=since_ms, outcome=outcome, limit=limit)
        found = await self._call("ListAudit", request, pb.AuditRecords)
        return [_whole_numbers(json_format.MessageToDict(each)) for each in found.records]

    async def back_up_store(self) -> AsyncIterator[BackupPart]:
        """Yield a copy of the server's store in parts: the first says which it is, the others have its bytes.

        It is complete once ``size_bytes`` have come. It has the history, and secrets also if ``redact`` is set. Raises
        RefusedError if the store has no file.
        """
        call = self._open().unary_stream(
            SERVICE + "BackUpStore",
            request_serializer=pb.BackUpStoreRequest.SerializeToString,
            response_deserializer=pb.BackupPart.FromString,
        )(pb.BackUpStoreRequest(), metadata=self._metadata)
        try:
            async for part in call:
                yield BackupPart(part.revision, part.size_bytes, part.path, part.data)
        except aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()

    def _open(self) -> aio.Channel:
        if self._channel is None:
            raise ClientError("use the client within `async with`")
        return self._channel

    async def _call(self, name: str, request: Any, response_class: Any, change_id: str = "") -> Any:
        call = self._open().unary_unary(
            SERVICE + name,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_class.FromString,
        )
        try:
            return await call(request, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise error_of(error, change_id) from None


def _credentials(ca: Path, pair: tuple[Path, Path] | None) -> grpc.ChannelCredentials:
    chain, key = (None, None) if pair is None else (each.read_bytes() for each in pair)
    return grpc.ssl_channel_credentials(ca.read_bytes(), private_key=key, certificate_chain=chain)


def _integers(value: Any) -> Any:
    """Return a value with ints again, at every depth."""
    if isinstance(value, dict):
        return {key: _integers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_integers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_numbers(record: Json) -> Json:
    """Return a record with ints again: protobuf's Struct has only doubles."""
    return {key: _whole(value) for key, value in record.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return _whole_numbers(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class EndpointsPush:
    """Pushes assignments on one stream: call it with an assignment; it returns the future of the revision."""

    def __init__(self, stream: EndpointStream, group: str) -> None:
        self._stream = stream
        self._group = group

    async def __call__(self, assignment: ResourceLike) -> "asyncio.Future[int]":
        """Queue an assignment. The future raises RejectedError if the content is invalid.

        It raises OutcomeUnknownError if the stream broke before the answer arrived, and another ClientError if the
        assignment was not set.
        """
        (message,) = _anys((assignment,), self._group)
        return await self._stream.push(message)

    async def finish(self) -> None:
        """Wait until all pushed assignments are answered."""
        await self._stream.finish()


def _check_token(token: str, address: str, *, is_encrypted: bool) -> None:
    """Raise TokenError if the token can't, or must not, be sent to an address."""
    if not (token.isascii() and token.isprintable()):
        raise TokenError("the token has characters that a header can't have; it must be one line of printable ASCII")
    try:
        is_local = Address.parse(address).is_loopback
    except ValueError:
        is_local = False  # another form that gRPC accepts, such as dns:///xds.example:18001
    if not is_encrypted and not is_local:
        raise TokenError(
            f"the token would be sent in clear to {address}; give the CAs of the server's certificate (--ca, tls_ca)"
        )


def _rules(rules: Json) -> pb.Rules:
    message = pb.Rules()
    message.rules.update(rules)
    return message


def _anys(items: Iterable[ResourceLike], group: str) -> list[AnyMessage]:
    """Check and encode resources before sending them: problems then have the line of the text."""
    from xds.schema.wrapping import as_any
    from xds.sources.inline import read_resources

    try:
        return [as_any(each) for each in read_resources(items, group=group)]
    except ChangesetRejectedError as error:
        raise RejectedError(str(error), error.problems) from None
