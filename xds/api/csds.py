"""The Client Status Discovery Service (CSDS): the resources and their status at each node.

Source: ``envoy.service.status.v3.ClientStatusDiscoveryService``. Secrets are never shown: Secret resources are listed
without their body, and secrets within other resources are redacted.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from xds.api.shown import resource_body
from xds.model.types import SECRET
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.hub import Hub
from xds.protocol.status import NodeStatus, Progress, ResourceStatus, TypeStatus, node_statuses
from xds.schema.pool import Schema, load_schema

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"
PATHS = tuple(f"/{SERVICE}/{name}" for name in ("FetchClientStatus", "StreamClientStatus"))
NODES_MAX = 1_000
"""Nodes in one response; the others can be requested with node matchers."""

# envoy.service.status.v3.ConfigStatus and envoy.admin.v3.ClientResourceStatus
_CONFIG_STATUS = {
    Progress.ACKED: "SYNCED",
    Progress.SENT: "STALE",
    Progress.NACKED: "ERROR",
    Progress.HELD: "NOT_SENT",
    Progress.MISSING: "UNKNOWN",
}
_CLIENT_STATUS = {
    Progress.ACKED: "ACKED",
    Progress.SENT: "REQUESTED",
    Progress.NACKED: "NACKED",
    Progress.HELD: "ACKED",
    Progress.MISSING: "DOES_NOT_EXIST",
}


class ClientStatusService:
    """Answers CSDS requests from the hub's state at that moment. ``clock`` is the hub's clock."""

    def __init__(self, hub: Hub, schema: Schema, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._clock = clock
        self._request = schema.message_class("envoy.service.status.v3.ClientStatusRequest")
        self._response = schema.message_class("envoy.service.status.v3.ClientStatusResponse")

    async def reply(self, message: bytes) -> bytes:
        """Answer an encoded request. Raises StreamRefusedError."""
        try:
            return _encode(self.answer(self._request.FromString(message)))
        except DecodeError:
            raise StreamRefusedError(Status.INVALID_ARGUMENT, "no ClientStatusRequest") from None
        except ValueError as error:
            raise StreamRefusedError(Status.INVALID_ARGUMENT, str(error)) from None

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler to add to a gRPC server."""
        decode: Callable[[bytes], Any] = self._request.FromString
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "FetchClientStatus": grpc.unary_unary_rpc_method_handler(
                self._fetch, request_deserializer=decode, response_serializer=_encode
            ),
            "StreamClientStatus": grpc.stream_stream_rpc_method_handler(
                self._stream, request_deserializer=decode, response_serializer=_encode
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _fetch(self, request: Any, context: Any) -> Any:
        try:
            return self.answer(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._fetch(request, context)

    def answer(self, request: Any) -> Any:
        """Return the ClientStatusResponse to a ClientStatusRequest. Raises ValueError for an unsupported matcher."""
        response: Any = self._response()
        for status in node_statuses(self._hub.streams, self._clock()):
            if len(response.config) >= NODES_MAX:
                break
            if _matches(status, request.node_matchers):
                self._describe(status, response.config.add(), bodies=not request.exclude_resource_contents)
        return response

    def _describe(self, status: NodeStatus, config: Any, *, bodies: bool) -> None:
        node = status.node
        config.node.id, config.node.cluster = node.id, node.cluster
        config.node.locality.region, config.node.locality.zone = node.locality.region, node.locality.zone
        config.client_scope = status.group
        for type_status in status.types:
            for resource in type_status.resources:
                _describe_resource(type_status, resource, config.generic_xds_configs.add())
        if bodies:
            self._add_bodies(status, config)

    def _add_bodies(self, status: NodeStatus, config: Any) -> None:
        snapshot = self._hub.snapshot(status.group)
        for generic in config.generic_xds_configs:
            resource = snapshot.view(generic.type_url).get(generic.name)
            if resource is not None and resource.version == generic.version_info and generic.type_url != SECRET:
                generic.xds_config.ParseFromString(resource_body(resource, secrets=False))


def missing_worker(worker: str) -> bytes:
    """Return a response that reports a worker's nodes as missing: an entry without a node, to be merged with others.

    A ClientStatusResponse has no other field for this.
    """
    response: Any = load_schema().message_class("envoy.service.status.v3.ClientStatusResponse")()
    response.config.add().client_scope = f"{worker} did not answer: its nodes are missing"
    return _encode(response)


def _describe_resource(status: TypeStatus, resource: ResourceStatus, generic: Any) -> None:
    generic.type_url, generic.name, generic.version_info = status.type_url, resource.name, resource.version
    _set_enum(generic, "config_status", _CONFIG_STATUS[resource.progress])
    _set_enum(generic, "client_status", _CLIENT_STATUS[resource.progress])
    if resource.progress is Progress.NACKED and status.rejections:
        of_it = (each for each in status.rejections if not each.versions or resource.name in each.versions)
        rejection = next(of_it, status.rejections[0])
        generic.error_state.details = rejection.message
        generic.error_state.version_info = rejection.versions.get(resource.name, "")


def _set_enum(message: Any, field: str, name: str) -> None:
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_name
    setattr(message, field, values[name].number)


def _matches(status: NodeStatus, matchers: Any) -> bool:
    """Return whether any of the node matchers matches the node; without matchers every node matches."""
    return not matchers or any(_matches_one(status.node.id, matcher) for matcher in matchers)


def _matches_one(node_id: str, matcher: Any) -> bool:
    if matcher.node_metadatas:
        raise ValueError("node_matchers.node_metadatas is not supported; match by node_id")
    pattern = matcher.node_id
    kind = pattern.WhichOneof("match_pattern")
    if kind is None:
        return True
    if kind not in ("exact", "prefix", "suffix", "contains"):
        raise ValueError(f"node_matchers.node_id.{kind} is not supported")
    wanted, value = getattr(pattern, kind), node_id
    if pattern.ignore_case:
        wanted, value = wanted.lower(), value.lower()
    tests = {"exact": value == wanted, "prefix": value.startswith(wanted), "suffix": value.endswith(wanted)}
    return wanted in value if kind == "contains" else tests[kind]


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString())
