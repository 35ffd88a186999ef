"""An xDS server inside your own asyncio program: every public name of it.

``async with ControlPlane(Settings(...)) as control_plane: control_plane.apply(upsert=[...])``; docs/embedding.md has
whole programs.

What is public, and when it may change:

- Public in Python are the names in ``__all__`` of this module and of ``xds.client`` (the push API's client), and the
  members of those classes without a leading underscore. ``tests/public_names.txt`` lists all of them with their
  signatures. Everything else in the package ``xds`` is internal and may change in any release: other modules, the
  modules that a public name is defined in, ``GroupTable.kept`` and ``GroupTable.rules_kept`` (they belong to
  ``xds serve``), and how to construct what you are handed (``Applied``, errors).
- While the version is 0.x, a public name is removed, renamed or changed incompatibly only where the second number of
  the version grows (0.1 to 0.2). From 1.0 on only the first number allows that, and such a name gives a
  DeprecationWarning for at least one minor release before. CHANGELOG.md says under "Breaking" what to write instead.
- Any release may add names, optional keyword parameters, settings, fields of results and subclasses of errors, and may
  accept what was refused. So don't subclass ``ControlPlane``.
- Settings are public by name, type and meaning. A default may change where the second number grows.
- Not fixed: the text of errors and of ``str()``, log lines, and the pickled form of any object.
"""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from xds.address import Address, BindError
from xds.app import App
from xds.config import Settings
from xds.model.changeset import Applied, Changeset
from xds.model.closest import closest
from xds.model.given import ResourceLike
from xds.model.groups import DEFAULT_GROUP, GroupTable, Patterns, Rule
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import SHORT_NAMES, TYPE_PREFIX, type_url_of
from xds.model.xdstp import canonical
from xds.schema.pool import load_schema
from xds.sources.inline import read_resources
from xds.transport.pool import WorkerFailedError
from xds.version import __version__

__all__ = [
    "Address",
    "Applied",
    "BindError",
    "ChangesetRejectedError",
    "ControlPlane",
    "GroupTable",
    "Patterns",
    "Problem",
    "Rule",
    "Settings",
    "WorkerFailedError",
    "__version__",
]


class ControlPlane:
    """An xDS server to embed: publish resources with ``apply`` and ``replace``, serve them between start and stop.

    Use it in one event loop, as ``async with ControlPlane(settings) as control_plane``. Methods that are not coroutines
    do not wait; when they return, their change is being sent to the Envoys.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._app = App(settings or Settings())

    @property
    def settings(self) -> Settings:
        """The settings of the constructor."""
        return self._app.settings

    @property
    def address(self) -> Address | None:
        """The address of the xDS port; None before ``start``."""
        return self._app.address

    @property
    def admin_address(self) -> Address | None:
        """The address of the admin port; None before ``start``, and if it is off."""
        return self._app.admin_address

    # --- Publishing --------------------------------------------------------------------------------------------

    def apply(
        self,
        *,
        upsert: Iterable[ResourceLike] = (),
        remove: Iterable[tuple[str, str]] = (),
        group: str = DEFAULT_GROUP,
    ) -> Applied:
        """Add, change and remove resources of a group, all or none.

        A resource is a dict in Envoy's JSON form with ``@type``, YAML text, an ``envoy-data-plane`` message or a
        google.protobuf one. A removal is a type (``clusters``, or a type URL) and a name. Raises ChangesetRejectedError
        with every problem; the resources served before are then still served.
        """
        removals = tuple((type_url_of(word), canonical(name)) for word, name in remove)
        schema = load_schema()
        unknown = {type_url for type_url, _ in removals if not schema.has(type_url.removeprefix(TYPE_PREFIX))}
        if unknown:
            self._app.note_rejected()
            raise ChangesetRejectedError([_not_a_type(type_url, group) for type_url in sorted(unknown)])
        # An empty upsert does not create a group, as a removal does not.
        upserts = {name: resources for name, resources in self._read({group: upsert}).items() if resources}
        return self._apply(Changeset(upserts=upserts, removals={group: removals} if removals else {}))

    def replace(self, groups: Mapping[str, Iterable[ResourceLike]], *, rules: GroupTable | None = None) -> Applied:
        """Replace all groups and resources by these, all or none. Raises ChangesetRejectedError."""
        return self._apply(Changeset(upserts=self._read(groups), groups=rules, replace=True))

    def _apply(self, changeset: Changeset) -> Applied:
        applied = self._app.apply(changeset)
        return Applied(revision=applied.revision, changed=applied.changed, regrouped=applied.regrouped)

    def _read(self, groups: Mapping[str, Iterable[ResourceLike]]) -> dict[str, tuple[Resource, ...]]:
        try:
            return {group: read_resources(items, group=group) for group, items in groups.items()}
        except ChangesetRejectedError:
            self._app.note_rejected()
            raise

    # --- Life --------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Bind the xDS port and start the worker processes in advance, before the first resources. Raises BindError.

        Optional: ``start`` does it otherwise. No client can connect before ``start``.
        """
        self._app.launch()

    async def start(self) -> Address:
        """Listen and serve; return the bound address.

        Raises BindError, or WorkerFailedError if a worker process does not start to serve; nothing is left open then.
        """
        return await self._app.start()

    async def drain(self) -> None:
        """Report the server as not ready, then end the streams one by one over the drain window."""
        await self._app.drain()

    async def stop(self) -> None:
        """Close everything, including open streams; call ``drain`` before for a graceful end."""
        await self._app.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _not_a_type(type_url: str, group: str) -> Problem:
    word = type_url.removeprefix(TYPE_PREFIX)
    close = closest(word, SHORT_NAMES)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(SHORT_NAMES)}, and type URLs"
    return Problem(what=f"{word!r} is not a resource type", hint=hint, group=group)
