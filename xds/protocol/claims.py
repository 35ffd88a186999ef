"""Resources that a client says it has from an earlier stream: a name and a version, and no body."""

from weakref import WeakValueDictionary

from xds.model.resource import Resource


class Claims:
    """The table that makes equal claims one object, for as long as any stream holds it.

    So clients that come back with the same share one response.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, str, str], Resource] = WeakValueDictionary()

    def get(self, type_url: str, name: str, version: str) -> Resource:
        """Return the one resource without a body for this name and version; an empty version is unknown."""
        key = (type_url, name, version)
        claim = self._known.get(key)
        if claim is None:
            claim = self._known[key] = Resource(type_url=type_url, name=name, version=version, encoded=b"")
        return claim

    def __len__(self) -> int:
        return len(self._known)
