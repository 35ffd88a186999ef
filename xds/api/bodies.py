"""Parses request bodies of the push API, in JSON, YAML or protobuf, into changes."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xds._generated import snapshots_pb2 as pb
from xds.api.media_types import JSON, PROTOBUF, YAML, YAML_TOO, MediaType, UnknownMediaTypeError, media_type_of
from xds.api.rules import part_of, rules_update_of
from xds.model.closest import closest
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import ALIASES, SHORT_NAMES, TYPE_PREFIX, type_url_of
from xds.model.work import sharing_work
from xds.model.xdstp import canonical
from xds.publishing.changes import Change
from xds.publishing.edits import UpdateRules
from xds.schema.ingest import ingest
from xds.schema.paths import dotted
from xds.schema.pool import load_schema
from xds.schema.quick import ingest_encoded
from xds.sources.json_reader import read_json
from xds.sources.yaml_reader import Document, YamlLimits, read_yaml

ENTRIES_MAX = 250_000
"""Resources that one body may set or remove."""
VALUES_MAX = 5_000_000
"""Values in a JSON or YAML body: each takes 60 bytes or more in memory, but two or three in the body."""
Text = Field(default="", max_length=4_096)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Removal(_Body):
    """What is to be removed."""

    type: str = Field(min_length=1, max_length=1_000, description="clusters, endpoints, …, or a type URL")
    name: str = Field(min_length=1)


class Told(_Body):
    """What every change may say of itself."""

    id: str = Field(default="", max_length=128, description="The same id twice is one change.")
    message: str = Text
    author: str = Text
    expected_revision: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
        description="Refused if the groups that it concerns, or for rules the groups and rules, changed after it.",
    )
    dry_run: bool = Field(default=False, description="Say what it would change.")


class ChangeFields(Told):
    """What a change that brings resources may say of itself and of them."""

    version: str | None = Field(
        default=None, max_length=200, description="The version on the wire of what it sets, instead of a content hash."
    )
    existing_groups_only: bool = Field(
        default=False, description="Refuse to create a group only because resources are set in it."
    )


class ChangesetBody(ChangeFields):
    """Resources to set, each with ``@type``, and to remove: all of it or none."""

    upsert: list[dict[str, Any]] = Field(default=[], max_length=ENTRIES_MAX)
    remove: list[Removal] = Field(default=[], max_length=ENTRIES_MAX)


class GroupChangesBody(_Body):
    """What to change in one group."""

    upsert: list[dict[str, Any]] = Field(default=[], max_length=ENTRIES_MAX)
    remove: list[Removal] = Field(default=[], max_length=ENTRIES_MAX)
    replace: bool = Field(default=False, description="Remove all other resources of the group.")


class GroupsChangesetBody(ChangeFields):
    """Changes of several groups, by name, and of parts of the rules: all of it or none."""

    groups: dict[str, GroupChangesBody] = Field(default={}, max_length=ENTRIES_MAX)
    rules: dict[str, Any] | None = Field(
        default=None, description="Parts of groups.yaml, and add_external. Groups that it names are created."
    )


class SnapshotBody(ChangeFields):
    """All that a group is to have. What reading a snapshot gives is taken too."""

    resources: list[dict[str, Any]] = Field(max_length=ENTRIES_MAX)
    revision: int | None = None
    changed_at: int | None = None
    group: str | None = None
    epoch: str | None = None


class RollbackBody(Told):
    """The revision to go back to."""

    to: int = Field(ge=0, le=2**63 - 1)


class GroupBody(Told):
    """What a group is."""

    extends: str | None = Field(default=None, min_length=1, max_length=200)


class RebalanceBody(_Body):
    """Which share of the xDS connections is to end, and over which time."""

    share: float = Field(description="More than 0, at most 1.")
    over_s: float = Field(default=60.0, description="At random times within so many seconds.")


B = TypeVar("B", bound=BaseModel)


def document_of(data: bytes, media_type: MediaType) -> Document:
    """Parse a JSON or YAML body. Raises ChangesetRejectedError and UnknownMediaTypeError."""
    limits = YamlLimits(file_bytes_max=max(len(data), 1), nodes_max=VALUES_MAX)
    if media_type == JSON or media_type.endswith("+json"):
        if data.count(b",") > VALUES_MAX:  # a comma precedes each value except the first of a list or mapping
            what = f"the body has more than {VALUES_MAX:,} values"
            raise ChangesetRejectedError([Problem(what=what, hint="split it")])
        return read_json(data, file="", limits=limits)
    if media_type == YAML or media_type in YAML_TOO:
        return read_yaml(data, file="", limits=limits)
    raise UnknownMediaTypeError(media_type)


def read_body(model: type[B], document: Document) -> B:
    """Validate a parsed body against its model. Raises ChangesetRejectedError with every problem."""
    value = document.value
    if not isinstance(value, dict):
        raise ChangesetRejectedError([Problem(what="the body is not a mapping", hint="begin it with a key")])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [
            Problem(
                what=detail["msg"][:1].lower() + detail["msg"][1:],
                field=dotted(detail["loc"]),
                line=document.line_of(detail["loc"]),
            )
            for detail in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ChangesetRejectedError(problems) from None


@sharing_work()
def changeset_change(group: str, data: bytes, media_type: MediaType) -> tuple[Change, str]:
    """Return the change of a changeset body, and its version label."""
    if media_type == PROTOBUF:
        return changeset_message(group, parsed(pb.Changeset, data))
    document = document_of(data, media_type)
    body = read_body(ChangesetBody, document)
    problems: list[Problem] = []
    upserts = resources_of(body.upsert, "upsert", group, document, problems)
    removals = tuple(
        _removal(each.type, each.name, f"remove[{at}]", group, problems) for at, each in enumerate(body.remove)
    )
    if problems:
        raise ChangesetRejectedError(problems)
    change = about(body, upserts={group: upserts}, removals={group: removals} if removals else {})
    return change, body.version or ""


@sharing_work()
def groups_change(data: bytes, media_type: MediaType, known: Collection[str]) -> tuple[Change, str]:
    """Return the change of a body with several groups, and its version label. ``known`` are the existing groups."""
    if media_type == PROTOBUF:
        return groups_changeset_message(parsed(pb.GroupsChangeset, data), known)
    document = document_of(data, media_type)
    body = read_body(GroupsChangesetBody, document)
    problems: list[Problem] = []
    upserts: dict[str, tuple[Resource, ...]] = {}
    removals: dict[str, tuple[tuple[str, str], ...]] = {}
    for group, each in body.groups.items():
        path = ("groups", group)
        upserts[group] = resources_of(each.upsert, "upsert", group, document, problems, above=path)
        removals[group] = tuple(
            _removal(removal.type, removal.name, f"groups.{group}.remove[{at}]", group, problems)
            for at, removal in enumerate(each.remove)
        )
    edit = None if body.rules is None else _rules_part(part_of(document, "rules"), known, problems)
    if problems:
        raise ChangesetRejectedError(problems)
    replaced = tuple(group for group, each in body.groups.items() if each.replace)
    change = about(body, **_of_groups(upserts, removals, replaced, edit))
    return _with_made_groups(change), body.version or ""


@sharing_work()
def groups_changeset_message(message: Any, known: Collection[str]) -> tuple[Change, str]:
    """Return the change of an ``api.v1.GroupsChangeset``, and its version label."""
    problems: list[Problem] = []
    upserts: dict[str, tuple[Resource, ...]] = {}
    removals: dict[str, tuple[tuple[str, str], ...]] = {}
    for number, each in enumerate(message.groups):
        place = f"groups[{number}]"
        if each.group in upserts:
            problems.append(Problem(what="the group is given twice", field=place, group=each.group))
        upserts[each.group] = anys_of(each.upsert, f"{place}.upsert", each.group, problems)
        removals[each.group] = tuple(
            _removal(removal.type, removal.name, f"{place}.remove[{at}]", each.group, problems)
            for at, removal in enumerate(each.remove)
        )
    edit = None
    if message.HasField("rules"):
        document = document_of(json_format.MessageToJson(message.rules).encode(), JSON)
        edit = _rules_part(document, known, problems)
    if problems:
        raise ChangesetRejectedError(problems)
    replaced = tuple(each.group for each in message.groups if each.replace)
    change = about_message(message.about, sets_resources=True, **_of_groups(upserts, removals, replaced, edit))
    return _with_made_groups(change), message.about.version


def _with_made_groups(change: Change) -> Change:
    """Return the change with an edit that knows the groups which the change creates by setting resources in them."""
    if not isinstance(change.edit, UpdateRules) or not change.creates_groups:
        return change
    made = tuple(group for group, resources in change.upserts.items() if resources)
    return dataclasses.replace(change, edit=dataclasses.replace(change.edit, made=made))


def _rules_part(document: Document, known: Collection[str], problems: list[Problem]) -> UpdateRules | None:
    def placed(found: Sequence[Problem]) -> tuple[Problem, ...]:
        return tuple(dataclasses.replace(each, field=f"rules.{each.field}".rstrip(".")) for each in found)

    try:
        edit = rules_update_of(document, known)
    except ChangesetRejectedError as error:
        problems += placed(error.problems)
        return None
    return dataclasses.replace(edit, explain=lambda groups: placed(edit.explain(groups)))


def _of_groups(
    upserts: Mapping[str, tuple[Resource, ...]],
    removals: Mapping[str, tuple[tuple[str, str], ...]],
    replaced: tuple[str, ...],
    edit: UpdateRules | None,
) -> dict[str, Any]:
    """Return the fields of a change; groups of which nothing is asked are left out."""
    return {
        "upserts": {group: resources for group, resources in upserts.items() if resources or group in replaced},
        "removals": {group: places for group, places in removals.items() if places},
        "replace": replaced,
        "edit": edit,
    }


@sharing_work()
def snapshot_change(group: str, data: bytes, media_type: MediaType) -> tuple[Change, str]:
    """Return the change that makes a group's resources those of a body, and its version label."""
    if media_type == PROTOBUF:
        return replacement_message(group, parsed(pb.Replacement, data))
    document = document_of(data, media_type)
    body = read_body(SnapshotBody, document)
    problems: list[Problem] = []
    upserts = resources_of(body.resources, "resources", group, document, problems)
    if problems:
        raise ChangesetRejectedError(problems)
    return about(body, upserts={group: upserts}, replace=(group,)), body.version or ""


def resource_of(type_url: str, name: str, group: str, data: bytes, content_type: str) -> Resource:
    """Return the one resource in a body. Raises ChangesetRejectedError and UnknownMediaTypeError.

    ``content_type`` is the whole header: its parameter ``messageType`` names the wrapper of a protobuf body, if any.
    """
    media_type, parameters = media_type_of(content_type)
    if media_type == PROTOBUF:
        written = parameters.get("messagetype", type_url)
        return _in_group(group, lambda: ingest((written, data), type_url=type_url, name=name))
    document = document_of(data, media_type)
    if not isinstance(document.value, dict):
        raise ChangesetRejectedError([Problem(what="the body is not a resource", group=group)])
    return _in_group(group, lambda: ingest(document.value, type_url=type_url, name=name, line_of=document.line_of))


@sharing_work()
def changeset_message(group: str, message: Any) -> tuple[Change, str]:
    """Return the change of an ``api.v1.Changeset``, and its version label."""
    problems: list[Problem] = []
    upserts = anys_of(message.upsert, "upsert", group, problems)
    removals = tuple(
        _removal(each.type, each.name, f"remove[{at}]", group, problems) for at, each in enumerate(message.remove)
    )
    if problems:
        raise ChangesetRejectedError(problems)
    change = about_message(
        message.about,
        sets_resources=True,
        upserts={group: upserts},
        removals={group: removals} if removals else {},
    )
    return change, message.about.version


@sharing_work()
def replacement_message(group: str, message: Any) -> tuple[Change, str]:
    """Return the change of an ``api.v1.Replacement``, and its version label."""
    problems: list[Problem] = []
    upserts = anys_of(message.resources, "resources", group, problems)
    if problems:
        raise ChangesetRejectedError(problems)
    change = about_message(message.about, sets_resources=True, upserts={group: upserts}, replace=(group,))
    return change, message.about.version


def about(body: Told, **what: Any) -> Change:
    """Return a change with the id, author, message, expected revision and dry run of its body."""
    return Change(
        id=body.id,
        author=body.author,
        message=body.message,
        expected_revision=body.expected_revision,
        dry_run=body.dry_run,
        creates_groups=not (isinstance(body, ChangeFields) and body.existing_groups_only),
        **what,
    )


def about_message(message: Any, *, sets_resources: bool = False, **what: Any) -> Change:
    """Return a change with the fields of an ``api.v1.About``. Raises ChangesetRejectedError."""
    problems = [
        Problem(what=f"has more than the {most:,} characters allowed", field=f"about.{field}")
        for field, most in (("id", 128), ("message", 4_096), ("author", 4_096))
        if len(getattr(message, field)) > most
    ]
    if message.version and not sets_resources:
        what_is_wrong = "is a label of resources that a change brings, and this one brings none"
        problems.append(Problem(what=what_is_wrong, field="about.version"))
    if problems:
        raise ChangesetRejectedError(problems)
    return Change(
        id=message.id,
        author=message.author,
        message=message.message,
        expected_revision=message.expected_revision if message.HasField("expected_revision") else None,
        dry_run=message.dry_run,
        creates_groups=not message.existing_groups_only,
        **what,
    )


def resources_of(
    items: Sequence[dict[str, Any]],
    key: str,
    group: str,
    document: Document,
    problems: list[Problem],
    *,
    above: tuple[str, ...] = (),
) -> tuple[Resource, ...]:
    """Read the resources of a list in a body, adding what is wrong with each to ``problems``.

    ``above`` are the keys that lead to the mapping with the list.
    """
    found = []
    for at, item in enumerate(items):
        line_of = partial(_line_within, document, (*above, key, at))
        try:
            found.append(ingest(item, line_of=line_of))
        except ChangesetRejectedError as error:
            problems += [_placed(problem, f"{dotted((*above, key))}[{at}]", group) for problem in error.problems]
    return tuple(found)


def anys_of(items: Sequence[Any], key: str, group: str, problems: list[Problem]) -> tuple[Resource, ...]:
    """Read resources encoded as ``google.protobuf.Any``, adding what is wrong with each to ``problems``."""
    found = []
    for at, item in enumerate(items):
        try:
            found.append(ingest_encoded(item.type_url, item.value))
        except ChangesetRejectedError as error:
            problems += [_placed(problem, f"{key}[{at}]", group) for problem in error.problems]
    return tuple(found)


M = TypeVar("M", bound=Message)


def parsed(message_class: type[M], data: bytes) -> M:
    """Decode a protobuf body of at most ``ENTRIES_MAX`` fields. Raises ChangesetRejectedError.

    Protobuf allocates 64 bytes or more for a field that takes two on the wire, so fields are counted first.
    """
    if len(data) > 2 * ENTRIES_MAX and _has_more_parts(data, ENTRIES_MAX):
        raise ChangesetRejectedError([Problem(what=f"the body has more than {ENTRIES_MAX:,} parts", hint="split it")])
    try:
        return message_class.FromString(data)
    except DecodeError as error:
        what = f"the body does not encode {message_class.DESCRIPTOR.full_name}: {error}"
        raise ChangesetRejectedError([Problem(what=what)]) from None


def _has_more_parts(data: bytes, most: int) -> bool:
    """Return whether a message has more than ``most`` fields, without those of nested messages.

    Source: protobuf.dev, "Encoding". Counting stops at the first malformed field.
    """
    at, end = 0, len(data)
    for _ in range(most):
        if at >= end:
            return False
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                at += size
            case 5:
                at += 4
            case _:
                return False
    return at < end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at an offset, and the offset after it."""
    number = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return number, at


def known_type(word: str) -> str:
    """Return the type URL of a type's short name, message name or URL. Raises ChangesetRejectedError."""
    type_url = type_url_of(word)
    if not load_schema().has(type_url.removeprefix(TYPE_PREFIX)):
        close = closest(word.lower(), [*SHORT_NAMES, *ALIASES])
        meant = f"did you mean {close[0]}? " if close else ""
        hint = f"{meant}write {', '.join(SHORT_NAMES)}, or a type URL"
        raise ChangesetRejectedError([Problem(what=f"{word!r} is not a resource type", hint=hint)])
    return type_url


def _removal(word: str, name: str, field: str, group: str, problems: list[Problem]) -> tuple[str, str]:
    try:
        return known_type(word), canonical(name)
    except ChangesetRejectedError as error:
        problems += [dataclasses.replace(problem, field=f"{field}.type", group=group) for problem in error.problems]
        return "", name


def _in_group(group: str, read: Callable[[], Resource]) -> Resource:
    try:
        return read()
    except ChangesetRejectedError as error:
        raise ChangesetRejectedError([dataclasses.replace(each, group=group) for each in error.problems]) from None


def _placed(problem: Problem, place: str, group: str) -> Problem:
    field = f"{place}.{problem.field}" if problem.field else place
    return dataclasses.replace(problem, field=field, group=group)


def _line_within(document: Document, prefix: tuple[str | int, ...], path: tuple[str | int, ...]) -> int:
    return document.line_of((*prefix, *path))
