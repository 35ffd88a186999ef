"""gRPC server reflection, message by message, for tools like grpcurl."""

from typing import Any

from google.protobuf.message import DecodeError

from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import SERVICES
from xds.transport.calls import HEALTH, Reply


def reflection_replies(pool: Any) -> dict[str, Reply]:
    """Return the reflection methods, by path: they show this server's services and a descriptor pool's types."""
    from grpc_reflection.v1alpha import reflection, reflection_pb2

    names = (*SERVICES, HEALTH.strip("/"), reflection.SERVICE_NAME)
    servicer = reflection.ReflectionServicer(names, pool=pool)

    async def answer(message: bytes) -> bytes:
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(message)
        except DecodeError:
            raise StreamRefusedError(Status.INVALID_ARGUMENT, "no ServerReflectionRequest") from None
        (response,) = servicer.ServerReflectionInfo(iter((request,)), None)
        return bytes(response.SerializeToString())

    return {f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": answer}
