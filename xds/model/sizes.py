"""Limits of the size of a resource: the one that the settings have, and the one that gRPC clients have by default."""

from collections.abc import Iterable, Iterator, Mapping

from xds.model.problem import ChangesetRejectedError, Problem, place_of
from xds.model.resource import Resource
from xds.model.types import short_name

MIB = 1024 * 1024
RESOURCE_BYTES_MAX = 64 * MIB
"""Maximum bytes of a resource, unless the settings have another limit (``protocol.resource_bytes_max``)."""
GRPC_BYTES_MAX = 4 * MIB
"""Maximum bytes of a message that gRPC's libraries receive by default. Envoy has no such limit."""

LARGE = "gRPC clients refuse a message of more than 4 MiB unless grpc.max_receive_message_length is raised"
LARGE_HINT = "Envoy takes it; split the resource if other clients are to get it"


def check_sizes(upserts: Mapping[str, Iterable[Resource]], bytes_max: int) -> None:
    """Raise ChangesetRejectedError with a problem for each resource of a group that has more than ``bytes_max``."""
    problems = [
        _problem(
            resource,
            group,
            f"is {_size(resource):,} bytes, more than the {bytes_max:,} allowed (protocol.resource_bytes_max)",
            "split the resource, or raise the limit",
        )
        for group, resources in upserts.items()
        for resource in resources
        if _size(resource) > bytes_max
    ]
    if problems:
        raise ChangesetRejectedError(problems)


def large(resources: Iterable[Resource], group: str = "") -> Iterator[Problem]:
    """Yield a warning for each resource that gRPC clients refuse by default."""
    for resource in resources:
        if _size(resource) > GRPC_BYTES_MAX:
            yield _problem(resource, group, f"is {_size(resource):,} bytes: {LARGE}", LARGE_HINT)


def _size(resource: Resource) -> int:
    return resource.body_end - resource.body_start


def _problem(resource: Resource, group: str, what: str, hint: str) -> Problem:
    file, line = place_of(resource.source)
    label = f"{short_name(resource.type_url)}/{resource.name}"
    return Problem(what=what, hint=hint, file=file, line=line, group=group, resource=label)
