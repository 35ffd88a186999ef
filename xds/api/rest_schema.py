"""OpenAPI descriptions of bodies, names and errors, which routes parse without FastAPI."""

from typing import Any

from pydantic import BaseModel

from xds.api import bodies
from xds.api.media_types import JSON, YAML

_PROBLEM = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("what", "hint", "group", "resource", "field")},
        "line": {"type": "integer"},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "problems": {"type": "array", "items": _PROBLEM}},
}
_ERROR_TEXTS = {
    400: "The request can't be read",
    401: "The token is missing or wrong",
    403: "A page of another origin may not ask",
    404: "There is no such group, resource, node or revision",
    405: "The path has no such method",
    408: "The body did not arrive in time",
    409: "A conflict: the revision is another one, the id is that of another change, or a directory keeps it",
    410: "The revision is no longer kept",
    412: "If-Match does not match",
    413: "The change, or the body, is too large",
    415: "Bodies are JSON, YAML or protobuf",
    421: "The server is not known by the name in Host",
    422: "The content is wrong: every problem, with its resource and field",
    431: "The request's line and headers are too long",
    503: "The store can't be reached, or the bodies of others take all the room: this request changed nothing",
    504: "It can't be told whether the change was made: send it again with its id",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in _ERROR_TEXTS.items()
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    types = (JSON, YAML)
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {each: {"schema": schema} for each in types}}}
    }


def _model(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    inlined: dict[str, Any] = _inlined(schema, definitions)
    return inlined


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _path_parameter(name: str, text: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


NAMES: dict[str, Any] = {
    "openapi_extra": {
        "parameters": [
            _path_parameter("group", "The group"),
            _path_parameter("type", "clusters, endpoints, routes, listeners, secrets, runtimes, …, or a type URL"),
            _path_parameter("name", "The resource's name, URL-escaped"),
        ]
    }
}
_RESOURCE = {"type": "object", "description": "A resource in Envoy's JSON", "properties": {"@type": {"type": "string"}}}
BODIES: dict[str, dict[str, Any]] = {
    "changeset": _body(_model(bodies.ChangesetBody)),
    "changesets": _body(_model(bodies.GroupsChangesetBody)),
    "snapshot": _body(_model(bodies.SnapshotBody)),
    "rollback": _body(_model(bodies.RollbackBody)),
    "group": _body(_model(bodies.GroupBody)),
    "rebalance": _body(_model(bodies.RebalanceBody)),
    "rules": _body({"type": "object", "description": "As groups.yaml: groups, rules, unmatched, external"}),
    "rules_update": _body({"type": "object", "description": "Parts of groups.yaml, and add_external"}),
    "resource": {"openapi_extra": NAMES["openapi_extra"] | _body(_RESOURCE)["openapi_extra"]},
}
"""The ``openapi_extra`` of routes, by the kind of their body."""
