"""The push API from Python: ``async with Client("127.0.0.1:18001") as client: await client.apply(upsert=[…])``.

All results are typed. All errors are subclasses of ``ClientError``. The names in ``__all__`` are public, by the rules
of ``xds.embed``; the modules of this package are not.
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
    AppliedResource,
    BackupPart,
    Caller,
    Difference,
    Event,
    Grant,
    Group,
    GroupChanges,
    GroupCounts,
    ListedResource,
    Name,
    NodeProgress,
    Nodes,
    Operation,
    ResourceList,
    Revision,
    RevisionDetails,
    Snapshot,
    TypeProgress,
    unwrapped,
)
from xds.model.problem import Problem

__all__ = [
    "About",
    "Applied",
    "AppliedResource",
    "BackupPart",
    "Caller",
    "Client",
    "ClientError",
    "ConflictError",
    "Difference",
    "EndpointsPush",
    "Event",
    "Grant",
    "Group",
    "GroupChanges",
    "GroupCounts",
    "ListedResource",
    "Name",
    "NodeProgress",
    "Nodes",
    "NotFoundError",
    "Operation",
    "OutcomeUnknownError",
    "Problem",
    "RefusedError",
    "RejectedError",
    "ResourceList",
    "Revision",
    "RevisionDetails",
    "Snapshot",
    "TokenError",
    "TooLargeError",
    "TypeProgress",
    "UnavailableError",
    "unwrapped",
]
