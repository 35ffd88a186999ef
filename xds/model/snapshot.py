"""All that one group's nodes see at one revision. It does not know how the next one is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xds.model.view import EmptyViews, View


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One group's resources of all types at one revision; immutable. Compared by identity.

    ``empty`` has the views of other types, and is the same for all snapshots of a catalog.
    """

    group: str
    revision: int
    views: Mapping[str, View]
    empty: EmptyViews = field(default_factory=EmptyViews)

    def view(self, type_url: str) -> View:
        """Return the view of a type; of one that the group has nothing of, an empty view."""
        view = self.views.get(type_url)
        return self.empty[type_url] if view is None else view
