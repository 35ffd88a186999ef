"""All that one group's nodes see at one revision. It does not know how the next one is made."""

from collections.abc import Mapping
from dataclasses import dataclass

from xds.model.view import View, empty_view


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One group's resources of all types at one revision; immutable. Compared by identity."""

    group: str
    revision: int
    views: Mapping[str, View]

    def view(self, type_url: str) -> View:
        """Return the view of a type; of one that the group has nothing of, an empty view."""
        view = self.views.get(type_url)
        return empty_view(type_url) if view is None else view
