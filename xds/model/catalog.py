"""The catalog: all groups and their resources. It applies changesets and has the snapshots.

The catalog is the only mutable object of the model. ``apply`` builds the complete next state beside the current one and
checks it before it takes effect, so a rejected changeset changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from immutables import Map

from xds.model.changeset import AppliedChangeset, Changeset
from xds.model.consistency import Referrers, dangling
from xds.model.groups import DEFAULT_GROUP, GroupTable, Node, lineage_of
from xds.model.problem import ChangesetRejectedError, Problem, place_of
from xds.model.resource import Resource
from xds.model.rules import Placement, Rules
from xds.model.snapshot import Snapshot
from xds.model.types import short_name
from xds.model.view import FINGERPRINT_MASK, EmptyViews, Layer, RevisionLog, View, fingerprint_of
from xds.model.work import sharing_work

Changes = dict[str, dict[str, Resource | None]]  # type URL → name → the new resource, or None if it is removed


@dataclass(slots=True, eq=False)
class _Group:
    layers: dict[str, Layer] = field(default_factory=dict)
    referrers: Referrers = field(default_factory=Referrers)


class Catalog:
    """The groups, their resources and rules, and one revision counter that increases with every change.

    ``check_references`` False allows dangling references; Envoy then waits for the missing resources, or answers 503.
    """

    def __init__(self, *, check_references: bool = True) -> None:
        self._check_references = check_references
        self._lines = _Lines.of(GroupTable(), [DEFAULT_GROUP])
        self._groups: dict[str, _Group] = {DEFAULT_GROUP: _Group()}
        self._empty = EmptyViews()
        self._snapshots: dict[str, Snapshot] = {DEFAULT_GROUP: Snapshot(DEFAULT_GROUP, 0, {}, self._empty)}
        self.revision = 0

    @property
    def table(self) -> GroupTable:
        """The current groups and rules."""
        return self._lines.table

    @property
    def snapshots(self) -> Mapping[str, Snapshot]:
        """Group name to its current snapshot. The group ``default`` always exists."""
        return self._snapshots

    @property
    def rules_use_identities(self) -> bool:
        """Whether any rule looks at the identities of nodes."""
        return self._lines.rules.use_identities

    def place(self, node: Node) -> Placement:
        """Return the group that the node belongs to, or why no group takes it."""
        return self._lines.rules.place(node, self._groups)

    def group_of(self, node: Node) -> str | None:
        """Return the group that the node belongs to, or None if no group takes it."""
        return self.place(node).group

    def own(self, group: str) -> Iterator[Resource]:
        """Iterate over the group's own resources, sorted by type and name; none for an unknown group."""
        for _, layer in sorted(self._own_layers(group).items()):
            for _, resource in sorted(layer.resources.items()):
                yield resource

    def groups_with(self, type_url: str) -> list[str]:
        """Return the groups that have resources of a type of their own, by name."""
        layers = {name: group.layers.get(type_url) for name, group in self._groups.items()}
        return sorted(name for name, layer in layers.items() if layer is not None and layer.resources)

    def own_resource(self, group: str, type_url: str, name: str) -> Resource | None:
        """Return the group's own resource, or None."""
        layer = self._own_layers(group).get(type_url)
        return layer.resources.get(name) if layer is not None else None

    def own_by_type(self, group: str) -> dict[str, Mapping[str, Resource]]:
        """Return the group's own resources by name, by type; no later change is seen in them."""
        return {type_url: layer.resources for type_url, layer in self._own_layers(group).items()}

    def own_names(self, group: str, type_url: str) -> Iterable[str]:
        """Return the names of the group's own resources of a type, in no particular order."""
        layer = self._own_layers(group).get(type_url)
        return layer.resources if layer is not None else ()

    def apply(self, changeset: Changeset, *, revision: int | None = None) -> AppliedChangeset:
        """Apply a changeset as a whole and return what it changed.

        Raises ChangesetRejectedError, and then changes nothing. Costs O(changed × groups that see the change). A
        resource whose version is already served is no change. ``revision`` is the revision afterwards, for callers that
        count revisions themselves; without it, each change increases the revision by one.
        """
        if revision is None:
            return self._apply(changeset)
        before, self.revision = self.revision, revision - 1
        try:
            applied = self._apply(changeset)
        except BaseException:
            self.revision = before
            raise
        self.revision = revision
        return replace(applied, revision=revision)

    def _apply(self, changeset: Changeset) -> AppliedChangeset:
        lines = self._lines_after(changeset)
        changes = self._changes(changeset, lines)
        regrouped = lines is not self._lines
        if not regrouped and not changes:
            return AppliedChangeset(revision=self.revision, changed={})
        revision = self.revision + 1
        layers = {group: self._layers_after(group, own, revision) for group, own in changes.items()}
        touched = {seer for group in changes for seer in lines.seen_by[group]}
        if regrouped:
            touched.update(lines.differing(self._lines))
        step = _Step(revision, lines, changes, layers, {}, {})
        for group in touched:
            self._advance(group, step)
        if self._check_references:
            self._check(step, changeset)
        effect = _effect(changes, self._lines, lines)
        self._commit(step)
        return AppliedChangeset(
            revision=revision,
            changed={g: c for g, c in step.changed.items() if c},
            regrouped=regrouped,
            effect=effect,
        )

    def export(self) -> Changeset:
        """Return the changeset that makes an empty catalog equal to this one."""
        upserts = {
            name: tuple(resource for layer in group.layers.values() for resource in layer.resources.values())
            for name, group in self._groups.items()
        }
        return Changeset(upserts=upserts, groups=self.table, replace=True)

    def resume(self, state: Changeset, revision: int) -> AppliedChangeset:
        """Apply another catalog's ``export`` at its revision."""
        return self.apply(state, revision=revision)

    def inverse(self, changeset: Changeset) -> Changeset:
        """Return the changeset that restores the current state after ``changeset`` is applied."""
        if changeset.replace:
            return self.export()
        lines = self._lines_after(changeset)
        made = tuple(group for group in lines.lineages if group not in self._groups)
        places = [(group, each.type_url, each.name) for group, all_ in changeset.upserts.items() for each in all_]
        places += [(group, *place) for group, all_ in changeset.removals.items() for place in all_]
        upserts: dict[str, list[Resource]] = {}
        removals: dict[str, list[tuple[str, str]]] = {}
        for group in self._groups.keys() - lines.lineages.keys():
            upserts[group] = []
            places += [(group, each.type_url, each.name) for each in self.own(group)]
        for group, type_url, name in dict.fromkeys(places):
            if group in made:
                continue
            resource = self.own_resource(group, type_url, name)
            if resource is None:
                removals.setdefault(group, []).append((type_url, name))
            else:
                upserts.setdefault(group, []).append(resource)
        return Changeset(
            upserts={group: tuple(all_) for group, all_ in upserts.items()},
            removals={group: tuple(all_) for group, all_ in removals.items()},
            groups=None if changeset.groups is None else self.table,
            gone=made,
        )

    def _lines_after(self, changeset: Changeset) -> "_Lines":
        """Return the group inheritance after the changeset: the current object if it does not change."""
        table = changeset.groups or self._lines.table
        named = [*changeset.upserts, *table.names, *table.extends, *table.extends.values()]
        named += [rule.group for rule in table.rules]
        stay = () if changeset.replace else [group for group in self._groups if group not in changeset.gone]
        known = dict.fromkeys([DEFAULT_GROUP, *stay, *named])
        if table == self._lines.table and known.keys() == self._groups.keys():
            return self._lines
        return _Lines.of(table, known, self._lines)

    def _changes(self, changeset: Changeset, lines: "_Lines") -> dict[str, Changes]:
        problems: list[Problem] = []
        changes: dict[str, Changes] = {}
        named = [*changeset.upserts, *(group for group in changeset.removals if group in lines.seen_by)]
        groups = lines.seen_by if changeset.replace else dict.fromkeys(named)
        for group in groups:
            own = self._groups[group].layers if group in self._groups else {}
            wanted: Changes = {}
            for resource in changeset.upserts.get(group, ()):
                names = wanted.setdefault(resource.type_url, {})
                if resource.name in names:
                    problems.append(_twice(group, resource, names[resource.name]))
                names[resource.name] = resource
            for type_url, name in changeset.removals.get(group, ()):
                wanted.setdefault(type_url, {}).setdefault(name, None)
            if changeset.replace:
                for type_url, layer in own.items():
                    names = wanted.setdefault(type_url, {})
                    names.update((name, None) for name in layer.resources if name not in names)
            if effective := _effective(own, wanted):
                changes[group] = effective
        if problems:
            raise ChangesetRejectedError(problems)
        return changes

    def _layers_after(self, group: str, changes: Changes, revision: int) -> dict[str, Layer]:
        layers = dict(self._groups[group].layers) if group in self._groups else {}
        for type_url, names in changes.items():
            layer = layers.get(type_url) or Layer(Map(), 0, RevisionLog())
            layers[type_url] = layer.replaced(names, revision)
        return layers

    def _advance(self, group: str, step: "_Step") -> None:
        """Add the group's next snapshot, and the names that differ in it, to ``step``."""
        before = self._snapshots.get(group) or Snapshot(group, 0, {}, self._empty)
        lineage = step.lines.lineages[group]
        line = [step.layers.get(base) or self._own_layers(base) for base in lineage]
        views = dict(before.views)
        changed: dict[str, frozenset[str]] = {}
        for type_url in {*before.views, *(type_url for own in line for type_url in own)}:
            old = before.view(type_url)
            stack = tuple(own[type_url] for own in line if type_url in own)
            if stack == old.layers:
                continue
            candidates = [step.changes.get(base, {}).get(type_url, ()) for base in lineage]
            views[type_url], names = _next_view(old, stack, candidates)
            if names:
                changed[type_url] = names
        step.snapshots[group] = Snapshot(group, step.revision, views, self._empty)
        step.changed[group] = changed

    def _own_layers(self, group: str) -> dict[str, Layer]:
        return self._groups[group].layers if group in self._groups else {}

    def _check(self, step: "_Step", changeset: Changeset) -> None:
        before, table = self._lines.table, step.lines.table
        everything = table.external != before.external or table.extends != before.extends
        problems: dict[Problem, None] = {}
        with sharing_work():
            for group, snapshot in sorted(step.snapshots.items()):
                lineage = step.lines.lineages[group]
                referrers = [self._groups[base].referrers for base in lineage if base in self._groups]
                names: Mapping[str, Iterable[str]] = snapshot.views if everything else step.changed[group]
                places = _Places(changeset, lineage)
                problems.update(dict.fromkeys(dangling(snapshot, names, referrers, table.external, places.source_of)))
        if problems:
            raise ChangesetRejectedError(list(problems))

    def _commit(self, step: "_Step") -> None:
        self.revision = step.revision
        if step.lines is not self._lines:
            self._lines = step.lines
            self._groups = {name: self._groups.get(name) or _Group() for name in step.lines.lineages}
            self._snapshots = {name: self._snapshots[name] for name in step.lines.lineages if name in self._snapshots}
        self._snapshots.update(step.snapshots)
        for group_name, by_type in step.changes.items():
            group = self._groups[group_name]
            for type_url, names in by_type.items():
                before = group.layers.get(type_url)
                after = step.layers[group_name][type_url]
                if self._check_references:
                    _index(group.referrers, before, names)
                for name in names:
                    after.log.record(name, step.revision, live=len(after.resources))
            group.layers = step.layers[group_name]


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """The rules, with each group's lineage and, in reverse, the groups that inherit from it."""

    table: GroupTable
    lineages: Mapping[str, tuple[str, ...]]
    seen_by: Mapping[str, tuple[str, ...]]

    rules: Rules

    @classmethod
    def of(cls, table: GroupTable, known: Iterable[str], before: "_Lines | None" = None) -> "_Lines":
        try:
            lineages = {group: lineage_of(table, group) for group in known}
        except ValueError as error:
            raise ChangesetRejectedError([Problem(what=str(error), hint="let one of them extend nothing")]) from None
        seen_by: dict[str, list[str]] = {group: [] for group in lineages}
        for group, lineage in lineages.items():
            for base in lineage:
                seen_by[base].append(group)
        same = before is not None and _same_rules(before.table, table)
        rules = before.rules if before is not None and same else _compiled(table)
        return cls(table, lineages, {group: tuple(seers) for group, seers in seen_by.items()}, rules)

    def differing(self, before: "_Lines") -> Iterable[str]:
        """Return the groups that are new, whose lineage changed, or whose external references changed."""
        if self.table.external != before.table.external:
            return self.lineages
        return [group for group, lineage in self.lineages.items() if lineage != before.lineages.get(group)]


def _same_rules(one: GroupTable, other: GroupTable) -> bool:
    return (one.rules, one.deny_unmatched) == (other.rules, other.deny_unmatched)


def _compiled(table: GroupTable) -> Rules:
    try:
        return Rules(table)
    except ValueError as error:
        raise ChangesetRejectedError([Problem(what=str(error), hint="see the form of groups.yaml")]) from None


class _Places:
    """Finds the source of a group's resources in a changeset. Indexes the changeset, O(changeset), at first use."""

    def __init__(self, changeset: Changeset, lineage: tuple[str, ...]) -> None:
        self._changeset = changeset
        self._lineage = lineage
        self._sources: dict[tuple[str, str], str] | None = None

    def source_of(self, resource: Resource) -> str:
        if self._sources is None:
            upserts = self._changeset.upserts
            found = [each for group in reversed(self._lineage) for each in upserts.get(group, ())]
            self._sources = {(each.type_url, each.name): each.source for each in found}
        return self._sources.get((resource.type_url, resource.name), resource.source)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """The state after a changeset, built beside the current one."""

    revision: int
    lines: _Lines
    changes: Mapping[str, Changes]
    layers: Mapping[str, dict[str, Layer]]
    snapshots: dict[str, Snapshot]
    changed: dict[str, dict[str, frozenset[str]]]


def _index(referrers: Referrers, before: Layer | None, names: Mapping[str, Resource | None]) -> None:
    """Update the index of references for changed names."""
    for name, resource in names.items():
        old = before.resources.get(name) if before else None
        if old is not None:
            referrers.discard(old)
        if resource is not None:
            referrers.add(resource)


def _effect(changes: Mapping[str, Changes], before: _Lines, after: _Lines) -> Changeset:
    """Return the changeset with only the effective changes, which updates another catalog in the same state."""
    upserts: dict[str, tuple[Resource, ...]] = {}
    removals: dict[str, tuple[tuple[str, str], ...]] = {}
    for group, by_type in changes.items():
        pairs = [(type_url, name, r) for type_url, names in by_type.items() for name, r in names.items()]
        if present := tuple(resource for _, _, resource in pairs if resource is not None):
            upserts[group] = present
        if removed := tuple((type_url, name) for type_url, name, resource in pairs if resource is None):
            removals[group] = removed
    if after is before:
        return Changeset(upserts=upserts, removals=removals)
    new = {group: upserts.get(group, ()) for group in after.lineages if group not in before.lineages}
    gone = tuple(group for group in before.lineages if group not in after.lineages)
    table = None if after.table == before.table else after.table
    return Changeset(upserts=upserts | new, removals=removals, groups=table, gone=gone)


def _twice(group: str, resource: Resource, first: Resource | None) -> Problem:
    file, line = place_of(resource.source)
    first_place = f", first at {first.source}" if first is not None and first.source else ""
    return Problem(
        what=f"is in the changeset twice{first_place}",
        hint="remove or rename one of them",
        file=file,
        line=line,
        group=group,
        resource=f"{short_name(resource.type_url)}/{resource.name}",
    )


def _effective(own: Mapping[str, Layer], wanted: Changes) -> Changes:
    """Return the changes in ``wanted`` that change the version of a resource."""
    changes: Changes = {}
    for type_url, names in wanted.items():
        layer = own.get(type_url)
        for name, resource in names.items():
            present = layer.resources.get(name) if layer else None
            if (present and present.version) != (resource and resource.version):
                changes.setdefault(type_url, {})[name] = resource
    return changes


def _next_view(old: View, stack: tuple[Layer, ...], candidates: Sequence[Iterable[str]]) -> tuple[View, frozenset[str]]:
    """Return the view over the new layers, and the names and aliases that differ from the old one."""
    same_line = [layer.log for layer in old.layers] == [layer.log for layer in stack]
    new = View(old.type_url, stack, 0)
    names: Iterable[str] = {n for names in candidates for n in names} if same_line else {*old, *new}
    differing = set()
    fingerprint = old.fingerprint
    for name in names:
        before, after = old.get(name), new.get(name)
        if (before and before.version) == (after and after.version):
            continue
        differing.add(name)
        differing.update(before.aliases if before else (), after.aliases if after else ())
        fingerprint += (after.fingerprint if after else 0) - (before.fingerprint if before else 0)
    view = View(old.type_url, stack, fingerprint & FINGERPRINT_MASK)
    assert same_line or view.fingerprint == fingerprint_of(view)
    return view, frozenset(differing)
