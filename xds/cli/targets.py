"""Parses the arguments that name resources: ``TYPE``, ``TYPE NAME…`` and ``TYPE/NAME…``. Pure."""

from collections.abc import Sequence

from xds.model.types import DISCOVERY_SERVICES, SHORT_NAMES, TYPE_PREFIX

Target = tuple[str, str]
"""A type, as it was written, and a name, "" for all of the type."""


class WrongTargetError(Exception):
    """The arguments do not name resources."""


def targets_of(arguments: Sequence[str]) -> list[Target]:
    """Return the types and names that arguments name, without repetitions.

    A name may contain slashes. A type may be written as a type URL, and several types with commas between them.
    """
    if not arguments:
        return []
    first = _split(arguments[0])
    if first is None:
        names = arguments[1:]
        for name in names:
            if name in SHORT_NAMES:
                raise WrongTargetError(
                    f"{name!r} is a type, not a name: write {','.join(arguments)} for several types, or TYPE/NAME"
                )
        types = [arguments[0]] if names else [word for word in arguments[0].split(",") if word]
        return list(dict.fromkeys((word, name) for word in types for name in names or ("",)))
    found = [first]
    for argument in arguments[1:]:
        split = _split(argument)
        if split is None:
            raise WrongTargetError(f"{argument!r} is not TYPE/NAME, as {arguments[0]!r} is; or write TYPE NAME…")
        found.append(split)
    return list(dict.fromkeys(found))


def _split(argument: str) -> Target | None:
    """Return the type and the name of ``TYPE/NAME``, None for a type alone."""
    prefix = TYPE_PREFIX if argument.startswith(TYPE_PREFIX) else ""
    word, slash, name = argument.removeprefix(prefix).partition("/")
    return (prefix + word, name) if slash and name else None


def type_words() -> list[str]:
    """Return the words for types, for completion: the short names first."""
    return [*SHORT_NAMES, *DISCOVERY_SERVICES]
