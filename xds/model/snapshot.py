"""Snapshots: all resources of one group at one revision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from xds.model.resource import Resource
from xds.model.view import EmptyViews, View


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One group's resources of all types at one revision; immutable. Compared by identity.

    ``empty`` has the views of types without resources. All snapshots of a catalog share it.
    """

    group: str
    revision: int
    views: Mapping[str, View]
    empty: EmptyViews = field(default_factory=EmptyViews)

    def view(self, type_url: str) -> View:
        """Return the view of a type, an empty view if the group has no resources of the type."""
        view = self.views.get(type_url)
        return self.empty[type_url] if view is None else view

    def resources(self) -> Iterator[Resource]:
        """Iterate over all resources that the group's nodes see."""
        for view in self.views.values():
            for name in view:
                resource = view.get(name)
                assert resource is not None, "a view iterates over the names that it has"
                yield resource
