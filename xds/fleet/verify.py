"""Compares the sidecars' resources with those of an observer that connected last."""

from dataclasses import dataclass
from typing import Any

from xds.fleet.plan import SubscriptionPlan
from xds.fleet.session import SidecarSession
from xds.model.types import short_name

NAMES_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class TypeMismatch:
    """The differences of one type of a sidecar from the observer's: their number, and the first names of each kind."""

    type_name: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    outdated: tuple[str, ...]
    count: int

    def __str__(self) -> str:
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (
                ("lacks", self.missing),
                ("still has", self.unexpected),
                ("has another version or content of", self.outdated),
            )
            if names
        ]
        return f"{self.type_name}: {self.count} differ: {'; '.join(parts)}"


def equal(session: SidecarSession, observed: SidecarSession) -> bool:
    """Return whether two sessions hold the same resources: names, versions and content."""
    if session is observed:
        return True
    return all(
        mine.fingerprint == other.fingerprint and len(mine.held) == len(other.held)
        for mine, other in zip(session.types, observed.types, strict=True)
    )


def differences(plan: SubscriptionPlan, session: SidecarSession, observed: SidecarSession) -> list[TypeMismatch]:
    """Return the differences of a session from the observer's, type by type."""
    found = []
    for type_url, mine, other in zip(plan.types, session.types, observed.types, strict=True):
        missing = sorted(name for name in other.held if name not in mine.held)
        unexpected = sorted(name for name in mine.held if name not in other.held)
        outdated = sorted(
            name for name, held in mine.held.items() if name in other.held and held.digest != other.held[name].digest
        )
        count = len(missing) + len(unexpected) + len(outdated)
        if count:
            found.append(
                TypeMismatch(short_name(type_url), _first(missing), _first(unexpected), _first(outdated), count)
            )
    return found


def _first(names: list[str]) -> tuple[str, ...]:
    return tuple(names[:NAMES_SHOWN_MAX])


def waiting_for(plan: SubscriptionPlan, session: SidecarSession) -> str:
    """Describe the answers that a session which is not ready still waits for."""
    parts = []
    for index, (type_url, state) in enumerate(zip(plan.types, session.types, strict=True)):
        word = short_name(type_url)
        if state.waits(wildcard=plan.wildcard[index], sotw=plan.sotw):
            names = sorted(name for name in state.wanted if name not in state.held and name not in state.missing)
            more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
            parts.append(f"{word} {', '.join(names[:NAMES_SHOWN_MAX])}{more}".strip())
    return "no answer for " + ("; ".join(parts) or "its last requests")


def summary(plan: SubscriptionPlan, session: SidecarSession) -> dict[str, dict[str, Any]]:
    """Return the number of a session's resources by type, and their fingerprint, which is equal in all processes."""
    return {
        short_name(type_url): {"resources": len(state.held), "fingerprint": f"{state.fingerprint:032x}"}
        for type_url, state in zip(plan.types, session.types, strict=True)
    }
