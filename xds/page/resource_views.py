"""The pages of resources: those of a group, and one of them with who has which version."""

from typing import Any

from xds.api.bodies import known_type
from xds.api.run_in_thread import run_in_thread
from xds.api.shown import resource_json
from xds.model.groups import DEFAULT_GROUP, lineage_of
from xds.model.types import short_name
from xds.page.visit import Answer, Visit, WrongRequestError
from xds.reporting.escaping import json_text

RESOURCES_MAX = 200
"""Resources on one page."""
PAGES_MAX = 5_000
HOLDINGS_MAX = 200
"""Versions of a resource, by group, on its page."""
CONTENT_CHARACTERS_MAX = 200_000
"""Characters of a resource that are shown."""


async def resources(visit: Visit) -> Answer:
    """Show the names and versions of a group's own resources."""
    operations = visit.operations
    names = sorted(operations.group_names)
    group = visit.text("group") or (DEFAULT_GROUP if DEFAULT_GROUP in names else next(iter(names), DEFAULT_GROUP))
    word, prefix, number = visit.text("type"), visit.text("prefix"), visit.number("page", "a page")
    number = 1 if number is None else number
    if not 1 <= number <= PAGES_MAX:
        raise WrongRequestError(f"page: {number:,} is not between 1 and {PAGES_MAX:,}")
    about = operations.group(group)
    found = await operations.listed(
        group, None, known_type(word) if word else None, prefix=prefix, limit=number * RESOURCES_MAX + 1
    )
    begin = (number - 1) * RESOURCES_MAX
    content: dict[str, Any] = {
        "group": group,
        "groups": names,
        "type": word,
        "types": sorted((short_name(type_url), count) for type_url, count in about.resources.items()),
        "prefix": prefix,
        "total": sum(about.resources.values()),
        "bases": [each for each in lineage_of(operations.table, group)[1:] if each in names],
        "resources": [
            {"type": short_name(each.type_url), "name": each.name, "version": each.version}
            for each in found.resources[begin : begin + RESOURCES_MAX]
        ],
        "number": number,
        "has_more": len(found.resources) > number * RESOURCES_MAX,
    }
    return Answer("resources.html", content)


async def resource(visit: Visit) -> Answer:
    """Show one resource of a group, without its secrets, and who has which version of it."""
    operations = visit.operations
    group, word, name = visit.needed("group"), visit.needed("type"), visit.needed("name")
    at = visit.revision("at")
    found = await operations.resource(group, known_type(word), name, at)
    text = await run_in_thread(len(found.encoded), lambda: json_text(resource_json(found, secrets=False), indent=2))
    who = await operations.holders(group, found.type_url, found.name)
    content = {
        "group": group,
        "type": short_name(found.type_url),
        "resource": found,
        "at": at,
        "content": text[:CONTENT_CHARACTERS_MAX],
        "cut": len(text) > CONTENT_CHARACTERS_MAX,
        "size_bytes": len(found.encoded),
        "who": who,
        "holdings": who.holdings[:HOLDINGS_MAX],
    }
    return Answer("resource.html", content)
