"""The pages of the history: revisions, one revision, rolling back, the audit log."""

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from xds.access.audit import OUTCOMES, AuditFilter
from xds.access.errors import NoAuditError
from xds.access.rights import Right
from xds.model.groups import GroupTable, lineage_of
from xds.page.differences import shown
from xds.page.figures import STATES
from xds.page.rendering import address
from xds.page.visit import Answer, Visit, WrongRequestError
from xds.protocol.convergence import Debts, acceptance
from xds.publishing.changes import Change
from xds.schema.fields import field_changes
from xds.sources.groups_file import groups_json
from xds.store.entries import TEXT_CHARACTERS_MAX

REVISIONS_MAX = 50
"""Revisions on one page."""
RECORDS_MAX = 100
"""Records of the audit log on one page."""
AUTHOR = "page"
"""The author of changes that are made here, beside the identity of who makes them."""


async def revisions(visit: Visit) -> Answer:
    """Show the newest changes that are kept, or those before one."""
    group, before = visit.text("group"), visit.revision("before")
    found = await visit.operations.history(limit=REVISIONS_MAX + 1, before=before, group=group)
    summaries = found[:REVISIONS_MAX]
    content = {
        "summaries": summaries,
        "group": group,
        "before": before,
        "groups": sorted(visit.operations.group_names),
        "older": summaries[-1].revision if len(found) > REVISIONS_MAX else None,
    }
    return Answer("revisions.html", content)


async def revision(visit: Visit) -> Answer:
    """Show one change: who made it and why, how far it has come, and each field that it changed."""
    number = visit.revision("n")
    if number is None:
        raise WrongRequestError("the address lacks n=…: the number of a revision")
    found = await visit.operations.show(number)
    debts, table = await visit.operations.debts(), visit.operations.table
    changed = {each.group for each in found.summary.groups}
    touched = None if found.rules_after is not None else touched_groups(table, changed, debts)
    rules_before, rules_after = (
        {} if each is None else groups_json(each) for each in (found.rules_before, found.rules_after)
    )
    content = {
        "summary": found.summary,
        "shown": await shown(found.differences),
        "rules": field_changes(rules_before, rules_after),
        "counts": counts_at(debts, number, touched),
        "published": debts.revision,
        "is_newest": number == visit.operations.revision,
        "restorable": [each for each in sorted(changed) if visit.may(Right.ROLLOUT, each)],
        "kept": frozenset(table.kept),
        "there": visit.operations.group_names,
        "created": found.created,
    }
    return Answer("revision.html", content)


def touched_groups(table: GroupTable, changed: set[str], debts: Debts) -> set[str]:
    """Return the groups with known nodes that get resources of one of the changed groups."""
    return {group for group in (*debts.by_group, *debts.gone) if changed.intersection(lineage_of(table, group))}


def counts_at(debts: Debts, number: int, groups: set[str] | None = None) -> dict[str, int]:
    """Return the known nodes of groups, or of all, by their state at a revision (docs/protocol.md#convergence)."""
    totals = dict.fromkeys(STATES, 0)
    for group, counts in debts.by_group.items():
        if groups is None or group in groups:
            for state, count in acceptance(counts, number)._asdict().items():
                totals[state] += count
    totals["gone"] = sum(count for group, count in debts.gone.items() if groups is None or group in groups)
    return totals


async def confirm_rollback(visit: Visit) -> Answer:
    """Show what a roll-back would change, and how many nodes it touches; nothing is changed yet."""
    group, to = visit.needed("group"), visit.revision("to")
    if to is None:
        raise WrongRequestError("the address lacks to=…: the revision to return to")
    operations = visit.operations
    now = operations.revision
    differences = await operations.diff(group, now, to)
    debts, table = await operations.debts(), operations.table
    touched = touched_groups(table, {group}, debts).intersection(debts.by_group)
    counts = counts_at(debts, now, touched)
    content = {
        "group": group,
        "to": to,
        "now": now,
        "expected": operations.group_revision(group),
        "shown": await shown(differences),
        "nodes": sum(counts.values()) - counts["gone"],
        "touched": sorted(touched),
        "missing_workers": debts.missing_workers,
        "kept": group in table.kept,
        "may": visit.may(Right.ROLLOUT, group),
        "id": f"page-{secrets.token_hex(8)}",
        "message": f"roll back {group} to revision {to}",
        "message_max": TEXT_CHARACTERS_MAX,
    }
    return Answer("rollback.html", content)


async def rollback(visit: Visit) -> Answer:
    """Restore a group's state of a former revision."""
    group, to, expected = visit.needed("group"), visit.revision("to"), visit.revision("expected")
    if to is None or expected is None:
        raise WrongRequestError("the form lacks the revision to return to")
    like = Change(author=AUTHOR, message=visit.text("message"), id=visit.needed("id"), expected_revision=expected)
    published = await visit.operations.rollback(group, to, like)
    if not published.changed and not published.again:
        return Answer(location=address("group", name=group, done="nothing"))
    return Answer(location=address("revision", n=published.revision, done="rollback"))


async def audit(visit: Visit) -> Answer:
    """Show records of the audit log, newest first."""
    who, group = visit.text("who"), visit.text("group")
    outcome = visit.choice("outcome", ("", *OUTCOMES))
    content: dict[str, Any] = {"who": who, "group": group, "outcome": outcome, "outcomes": OUTCOMES}
    try:
        wanted = AuditFilter(who=who, group=group, outcome=outcome, limit=RECORDS_MAX)
        records = await visit.operations.audit(wanted)
    except NoAuditError as error:
        return Answer("audit.html", content | {"records": [], "why": str(error)})
    return Answer("audit.html", content | {"records": [_record(each) for each in records], "why": ""})


def _record(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its time in milliseconds, and what is not shown in a column of its own as ``more``."""
    try:
        at_ms = int(datetime.fromisoformat(str(found["at"]).replace("Z", "+00:00")).timestamp() * 1000)
    except ValueError:
        at_ms = 0
    columns = {"at", "what", "who", "outcome", "groups", "revision", "detail", "chain"}
    return {
        "at_ms": at_ms,
        "what": str(found.get("what", "")),
        "who": str(found.get("who", "")),
        "outcome": str(found.get("outcome", "")),
        "groups": [str(each) for each in found.get("groups", ())],
        "revision": found.get("revision"),
        "detail": str(found.get("detail", "")),
        "more": {key: value for key, value in found.items() if key not in columns},
    }
