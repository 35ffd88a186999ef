"""One node in full, as JSON: its resources, what differs, its NACKs, and explanations. Pure.

Secrets within resources are hidden: where two versions differ in nothing else, that is said.
"""

from typing import Any

from xds.api.answers import node_json
from xds.api.explain import Explanation
from xds.api.shown import resource_json
from xds.model.types import short_name
from xds.protocol.inspection import Held, InspectedClient, Inspection, NackSeen, Standing, Waiting
from xds.schema.fields import field_changes


def resources_of_node_json(found: Inspection, node_id: str) -> dict[str, Any]:
    """Return each connection of a node with its resources."""
    return _told(
        found, node_id, {id(c): {"resources": [_standing_json(s) for s in c.standings]} for c in found.clients}
    )


def differences_of_node_json(found: Inspection, node_id: str) -> dict[str, Any]:
    """Return each connection of a node with what it has in another version than it should."""
    return _told(
        found, node_id, {id(c): {"differences": [held_json(each) for each in c.differences]} for c in found.clients}
    )


def _told(found: Inspection, node_id: str, content: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": node_id,
        "connections": [{**_client_json(each), **content[id(each)]} for each in found.clients],
        "nacks": [_nack_json(each) for each in found.nacks],
        "missing_workers": list(found.missing_workers),
        "missing_replicas": list(found.missing_replicas),
    }


def size_of(found: Inspection) -> int:
    """Return the bytes of all resources in it."""
    bodies = (one for client in found.clients for each in client.differences for one in (each.has, each.wanted))
    return sum(len(one.encoded) for one in bodies if one is not None)


def _client_json(client: InspectedClient) -> dict[str, Any]:
    told = {key: value for key, value in node_json(client.summary).items() if key != "types"}
    return told | {"gets_secrets": client.gets_secrets, "more": client.cut}


def _standing_json(each: Standing) -> dict[str, Any]:
    return {
        "type": short_name(each.type_url),
        "name": each.name,
        "subscribed": each.how.value,
        "sent": each.sent,
        "accepted": each.accepted,
        "wanted": each.wanted,
        "wanted_at": each.wanted_at,
        "progress": each.progress.value,
        "waits": [_waiting_json(waiting) for waiting in each.waits],
        "waited_s": None if each.waited_s is None else round(each.waited_s, 1),
    }


def _waiting_json(waiting: Waiting) -> dict[str, Any]:
    left_s = None if waiting.left_s is None else round(waiting.left_s, 1)
    return {"code": waiting.why.name.lower(), "why": waiting.why.value, "for": list(waiting.names), "left_s": left_s}


def held_json(each: Held) -> dict[str, Any]:
    """Return a difference, field by field where both versions are at hand."""
    wanted = each.wanted
    change = "removed" if wanted is None else "added" if each.has_version == "" else "changed"
    told: dict[str, Any] = {
        "type": short_name(each.type_url),
        "name": each.name,
        "change": change,
        "has": each.has_version,
        "wanted": "" if wanted is None else wanted.version,
        "fields": None,
        "note": "",
    }
    if each.has is None or wanted is None:
        if change == "changed":
            told["note"] = "what it has is no longer at hand, only its version"
        return told
    fields = field_changes(resource_json(each.has, secrets=False), resource_json(wanted, secrets=False))
    told["fields"] = [field.as_json() for field in fields]
    if not fields:
        told["note"] = "they differ only in what is not shown: a secret, a TTL or a label"
    return told


def _nack_json(nack: NackSeen) -> dict[str, Any]:
    return {
        "at_ms": nack.at_ms,
        "type": short_name(nack.type_url),
        "names": list(nack.names),
        "count": nack.count,
        "message": nack.message,
        "nonce": nack.nonce,
    }


def explanations_json(found: list[Explanation]) -> dict[str, Any]:
    """Return explanations, one for each connection."""
    return {
        "id": found[0].node,
        "type": short_name(found[0].type_url),
        "name": found[0].name,
        "explanations": [
            {
                "replica": each.replica,
                "worker": each.worker,
                "verdict": each.verdict.name.lower(),
                "says": each.verdict.value,
                "steps": [
                    {"code": step.why.name.lower(), "well": step.is_well, "what": step.text, "do": step.do}
                    for step in each.steps
                ],
            }
            for each in found
        ],
    }
