"""The push API from Python: ``async with Client("127.0.0.1:18001") as client: await client.apply(upsert=[…])``.

Everything is typed; errors are ``ClientError`` and its subclasses, each of which says what to do.
"""

from xds.client.client import About, Client, EndpointsPush
from xds.client.errors import (
    ClientError,
    ConflictError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    RejectedError,
    TokenError,
    TooLargeError,
    UnavailableError,
)
from xds.client.results import (
    Applied,
    Difference,
    Event,
    Group,
    NodeProgress,
    Nodes,
    Operation,
    Revision,
    Snapshot,
    TypeProgress,
    unwrapped,
)

__all__ = [
    "About",
    "Applied",
    "Client",
    "ClientError",
    "ConflictError",
    "Difference",
    "EndpointsPush",
    "Event",
    "Group",
    "NodeProgress",
    "Nodes",
    "NotFoundError",
    "Operation",
    "OutcomeUnknownError",
    "RefusedError",
    "RejectedError",
    "Revision",
    "Snapshot",
    "TokenError",
    "TooLargeError",
    "TypeProgress",
    "UnavailableError",
    "unwrapped",
]
