"""A node in full, as one replica tells it to another: resources without secrets, and in base64."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Base64Bytes, Field

from xds.model.resource import Resource
from xds.protocol.inspection import Held, InspectedClient, Inspection, InspectQuery, NackSeen, Standing
from xds.protocol.status import NodeSummary
from xds.replicas.questions import question
from xds.schema.show import redacted

Offset = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceTold:
    """What it takes to show a resource and to compare it."""

    type_url: str
    name: str
    version: str
    encoded: Base64Bytes
    body_start: Offset
    body_end: Offset
    ttl_s: float | None
    aliases: tuple[str, ...]
    labelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTold:
    """A ``Held``, with its resources as they are told."""

    type_url: str
    name: str
    has: ResourceTold | None
    wanted: ResourceTold | None
    has_version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTold:
    """An ``InspectedClient``, with its differences as they are told."""

    summary: NodeSummary
    gets_secrets: bool
    standings: tuple[Standing, ...]
    differences: tuple[HeldTold, ...]
    cut: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionTold:
    """What the processes of one replica say of a node."""

    clients: tuple[ClientTold, ...]
    nacks: tuple[NackSeen, ...]
    missing_workers: tuple[str, ...]


INSPECT = question("inspect", InspectQuery, InspectionTold)


def told(found: Inspection) -> InspectionTold:
    """Return what is told to another replica. O(bytes of the resources): it reads them to redact their secrets."""
    return InspectionTold(
        clients=tuple(
            ClientTold(
                summary=client.summary,
                gets_secrets=client.gets_secrets,
                standings=client.standings,
                differences=tuple(map(_held_told, client.differences)),
                cut=client.cut,
            )
            for client in found.clients
        ),
        nacks=found.nacks,
        missing_workers=found.missing_workers,
    )


def _held_told(held: Held) -> HeldTold:
    return HeldTold(
        type_url=held.type_url,
        name=held.name,
        has=_resource_told(held.has),
        wanted=_resource_told(held.wanted),
        has_version=held.has_version,
    )


def _resource_told(resource: Resource | None) -> ResourceTold | None:
    if resource is None:
        return None
    shown = redacted(resource)
    return ResourceTold(
        type_url=shown.type_url,
        name=shown.name,
        version=shown.version,
        encoded=shown.encoded,
        body_start=shown.body_start,
        body_end=shown.body_end,
        ttl_s=shown.ttl_s,
        aliases=shown.aliases,
        labelled=shown.labelled,
    )


def heard(said: InspectionTold, replica: str) -> Inspection:
    """Return what another replica told, under its name."""
    return Inspection(
        clients=tuple(_clients(said, replica)),
        nacks=said.nacks,
        missing_workers=tuple(f"{replica}: {worker}" for worker in said.missing_workers),
    )


def _clients(said: InspectionTold, replica: str) -> Iterator[InspectedClient]:
    for client in said.clients:
        yield InspectedClient(
            summary=replace(client.summary, replica=replica),
            gets_secrets=client.gets_secrets,
            standings=client.standings,
            differences=tuple(
                Held(
                    type_url=each.type_url,
                    name=each.name,
                    has=_resource(each.has),
                    wanted=_resource(each.wanted),
                    has_version=each.has_version,
                )
                for each in client.differences
            ),
            cut=client.cut,
        )


def _resource(each: ResourceTold | None) -> Resource | None:
    if each is None:
        return None
    return Resource(
        type_url=each.type_url,
        name=each.name,
        version=each.version,
        encoded=each.encoded,
        body_start=each.body_start,
        body_end=each.body_end,
        ttl_s=each.ttl_s,
        aliases=each.aliases,
        labelled=each.labelled,
    )
