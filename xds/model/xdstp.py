"""Names of the form ``xdstp://authority/type/path?key=value&…``, whose context parameters have no order.

Envoy writes them sorted by key, and so does this server: a name is made canonical where it enters, in resources,
references, subscriptions and requests of the push API, and is then compared as text. Source: docs/protocol.md#xdstp.
"""

from collections.abc import Iterable

XDSTP = "xdstp://"
PARAMETERS_MAX = 100
"""Context parameters of a name that are sorted; a name with more is compared as it is."""


def canonical(name: str) -> str:
    """Return the name with its context parameters sorted by key; a name of another form is returned as it is."""
    if not name.startswith(XDSTP) or "?" not in name or name.count("&") >= PARAMETERS_MAX:
        return name
    rest, mark, directives = name.partition("#")
    path, _, query = rest.partition("?")
    parameters = sorted(filter(None, query.split("&")), key=_key)
    return path + ("?" + "&".join(parameters) if parameters else "") + mark + directives


def all_canonical(names: Iterable[str]) -> set[str]:
    """Return the set of the canonical names."""
    found = set(names)
    return set(map(canonical, found)) if any("?" in name for name in found) else found


def _key(parameter: str) -> str:
    return parameter.partition("=")[0]
