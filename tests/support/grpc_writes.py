"""Writes to a stream of grpc.aio that leave its status alone."""

from typing import Any

import grpc


async def write(call: Any, message: bytes) -> None:
    """Send a message on a call of any client, or nothing if the call has ended: its ``code`` then says why.

    grpc.aio's own ``write`` puts INTERNAL, "Internal error from Core", in place of the server's status if the stream
    ends while the message is sent (https://github.com/grpc/grpc/issues/36066).
    """
    if not hasattr(call, "_cython_call"):
        await call.write(message)
        return
    if call.done():
        return
    try:
        await call.wait_for_connection()
        await call._cython_call.send_serialized_message(message)
    except grpc.aio.AioRpcError:
        return
    except grpc.aio.InternalError:
        await call.code()  # it is on its way
