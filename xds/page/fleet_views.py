"""The pages of the fleet: the overview, groups, nodes, one node, and the servers."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from xds.access.rights import Right
from xds.api.bodies import known_type
from xds.api.fleet import FleetStatus, GroupStatus
from xds.api.operations import ResourceDifference, UnknownNodeError
from xds.model.types import SHORT_NAMES, short_name
from xds.page.differences import shown
from xds.page.figures import STATES
from xds.page.history_views import counts_at
from xds.page.visit import Answer, Visit, WrongRequestError
from xds.protocol.inspection import Inspection, InspectQuery, Standing
from xds.protocol.paging import NodeState, Sort, WrongCursorError, position_of
from xds.protocol.status import NodesQuery
from xds.sources.groups_file import groups_json
from xds.store.entries import Key

LATEST_MAX = 8
"""Revisions whose convergence the overview shows."""
NAMED_MAX = 8
"""Nodes of each state that the overview names."""
GROUPS_MAX = 8
"""Groups on the overview: those with the most nodes that have not accepted the newest revision."""
NODES_MAX = 50
"""Nodes on one page of the list."""
STANDINGS_MAX = 500
"""Resources on the page of a node: those first that it has in another version than it should."""
TROUBLE = ("rejected", "pending", "gone")


async def overview(visit: Visit) -> Answer:
    """Show how far the last revisions have come, and who has not accepted them."""
    operations = visit.operations
    status, debts = await operations.status(), await operations.debts()
    summaries = await operations.history(limit=LATEST_MAX)
    totals = totals_of(status.groups)
    named = {state: await _named(visit, state) if totals[state] else () for state in TROUBLE}
    there = [each for each in status.groups if each.name in visit.operations.group_names]
    worst = sorted(there, key=lambda each: (-_troubled(each), -each.nodes, each.name))
    content = {
        "status": status,
        "totals": totals,
        "connected": totals["accepted"] + totals["pending"] + totals["rejected"],
        "latest": [(summary, counts_at(debts, summary.revision)) for summary in summaries],
        "published": debts.revision,
        "named": named,
        "worst": [(each, counts_of(each)) for each in worst[:GROUPS_MAX]],
        "oldest": min(
            (each.oldest_unaccepted for each in status.groups if each.oldest_unaccepted),
            default=None,
            key=lambda each: each.revision,
        ),
    }
    return Answer("overview.html", content)


async def _named(visit: Visit, state: str) -> tuple[Any, ...]:
    query = NodesQuery(state=NodeState(state), known=state == "gone", sort=Sort.SINCE, limit=NAMED_MAX)
    return (await visit.operations.nodes(query)).nodes


def counts_of(group: GroupStatus) -> dict[str, int]:
    """Return the nodes of a group by state."""
    return {state: getattr(group, state) for state in STATES}


def totals_of(groups: Iterable[GroupStatus]) -> dict[str, int]:
    """Return the nodes of all groups by state."""
    totals = dict.fromkeys(STATES, 0)
    for group in groups:
        for state, count in counts_of(group).items():
            totals[state] += count
    return totals


def _troubled(group: GroupStatus) -> int:
    return group.pending + group.rejected + group.gone


async def groups(visit: Visit) -> Answer:
    """Show all groups, how far their nodes are, and the rules that assign nodes to them."""
    status: FleetStatus = await visit.operations.status()
    found = {each.name: each for each in visit.operations.groups()}
    rows = [(each, counts_of(each), found[each.name]) for each in status.groups if each.name in found]
    return Answer("groups.html", {"rows": rows, "rules": groups_json(visit.operations.table)["rules"]})


async def group(visit: Visit) -> Answer:
    """Show one group: its nodes by state, its resources, its last changes."""
    name = visit.needed("name")
    operations = visit.operations
    about = operations.group(name)
    status = next((each for each in (await operations.status()).groups if each.name == name), None)
    table = operations.table
    content = {
        "about": about,
        "status": status,
        "counts": {} if status is None else counts_of(status),
        "types": sorted((short_name(type_url), count) for type_url, count in about.resources.items()),
        "summaries": await operations.history(limit=10, group=name),
        "extended_by": sorted(each for each, base in table.extends.items() if base == name),
        "may": visit.may(Right.ROLLOUT, name),
    }
    return Answer("group.html", content)


async def nodes(visit: Visit) -> Answer:
    """Show a page of the nodes that match a search and filters."""
    group, search = visit.text("group"), visit.text("search").strip()
    state = visit.choice("state", ("", *STATES))
    sort = Sort(visit.choice("sort", tuple(each.value for each in Sort)))
    try:
        after = position_of(sort, visit.text("cursor"))
    except WrongCursorError as error:
        raise WrongRequestError(str(error)) from None
    query = NodesQuery(
        group=group or None,
        state=NodeState(state) if state else None,
        search=search,
        known=True,
        sort=sort,
        after=after,
        limit=NODES_MAX,
        types=False,
    )
    found = await visit.operations.nodes(query)
    content = {
        "found": found,
        "next": found.after(query),
        "is_first": after is None,
        "group": group,
        "groups": sorted(visit.operations.group_names),
        "search": search,
        "state": state,
        "states": STATES,
        "sort": sort.value,
    }
    return Answer("nodes.html", content)


async def node(visit: Visit) -> Answer:
    """Show one node: what it is, how far it is and why, each resource with its versions, its last NACKs."""
    node_id = visit.needed("id")
    found = await visit.operations.node(node_id)
    inspection = Inspection()
    if any(each.state is not NodeState.GONE for each in found.nodes):
        with suppress(UnknownNodeError):  # it has just left
            inspection = await visit.operations.inspect(InspectQuery(id=node_id))
    standings = [each for client in inspection.clients for each in client.standings]
    standings.sort(key=lambda each: (not lags(each), each.type_url, each.name))
    content = {
        "id": node_id,
        "found": found,
        "short_name": short_name,
        "nacks": inspection.nacks,
        "standings": [(each, lags(each)) for each in standings[:STANDINGS_MAX]],
        "total": len(standings) + sum(each.cut for each in inspection.clients),
        "lagging": sum(map(lags, standings)),
    }
    return Answer("node.html", content)


def lags(standing: Standing) -> bool:
    """Return whether a client has a resource in another version than it should, or may have."""
    return standing.accepted != standing.wanted or bool(standing.waits)


async def node_diff(visit: Visit) -> Answer:
    """Show what a node has otherwise than it should, field by field."""
    node_id = visit.needed("id")
    inspection = await visit.operations.inspect(InspectQuery(id=node_id, differs=True))
    held = [
        (client.summary.group, each)
        for client in inspection.clients
        for each in client.differences
        if each.has is not None or each.wanted is not None
    ]
    differences = [
        ResourceDifference(Key(group, each.type_url, each.name), each.has, each.wanted) for group, each in held
    ]
    return Answer("node_diff.html", {"id": node_id, "shown": await shown(differences), "found": inspection})


async def explain(visit: Visit) -> Answer:
    """Show why a node has a resource, or not: each step of the way, and what to do."""
    node_id, word, name = visit.needed("id"), visit.text("type"), visit.text("name").strip()
    content: dict[str, Any] = {"id": node_id, "type": word, "name": name, "types": tuple(SHORT_NAMES), "found": ()}
    if word and name:
        content["found"] = await visit.operations.explain(node_id, known_type(word), name)
    return Answer("explain.html", content)


async def servers(visit: Visit) -> Answer:
    """Show the replicas, the worker processes, the store, what is followed, limits and certificates."""
    status = await visit.operations.status()
    return Answer("servers.html", {"status": status, "sees_all": visit.call.caller.may_everywhere(Right.READ)})
