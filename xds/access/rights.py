"""Callers of the push API, and the rights that they have in groups. Pure.

A role is a set of rights. A grant gives rights in the groups that match its globs. All checks of the push API end in
``Caller.must``: it needs the right and the group's name only, so its answer is the same whether the group exists or
not.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from xds.access.errors import ForbiddenError


class Right(StrEnum):
    """What a caller may do."""

    READ = "read"
    """Read everything but the content of secrets and the audit log."""
    WRITE = "write"
    """Change resources."""
    ROLLOUT = "rollout"
    """Return to what was served before."""
    SECRETS = "secrets"
    """See the content of secrets, and with ``WRITE`` set it."""
    ADMIN = "admin"
    """Change groups and rules, copy the store, read the audit log."""


ROLES: dict[str, frozenset[Right]] = {
    "read": frozenset({Right.READ}),
    "write": frozenset({Right.READ, Right.WRITE, Right.ROLLOUT}),
    "rollout": frozenset({Right.READ, Right.ROLLOUT}),
    "secrets": frozenset({Right.READ, Right.SECRETS}),
    "admin": frozenset(Right),
}
"""Each role to its rights. A copy of the store has every secret, so ``admin`` may see them too."""
CHANGING = frozenset({Right.WRITE, Right.ROLLOUT, Right.ADMIN})
"""The rights of which a request that changes something needs one."""
GROUPS_MAX = 1_000
GLOB_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Grant:
    """Roles in groups. ``groups`` are globs; without any, the grant is for all groups."""

    roles: tuple[str, ...]
    groups: tuple[str, ...] = ()

    @property
    def rights(self) -> frozenset[Right]:
        """The rights of all roles."""
        return frozenset().union(*(ROLES[role] for role in self.roles))

    def covers(self, group: str) -> bool:
        """Return whether the grant is for a group."""
        return not self.groups or any(fnmatchcase(group, glob) for glob in self.groups)

    def __str__(self) -> str:
        return f"{', '.join(self.roles)} in {', '.join(self.groups) if self.groups else 'all groups'}"


class Caller:
    """Someone who calls: an identity without spaces, such as ``token:ci``, and its grants. Immutable.

    Callers are equal if identity, grants and ``credential`` are; ``credential`` is the id of what was shown, such as a
    token's. On an open API the identity is "".
    """

    __slots__ = ("_everywhere", "_groups", "credential", "grants", "identity")

    def __init__(self, identity: str, grants: tuple[Grant, ...], credential: str = "") -> None:
        assert " " not in identity
        self.identity = identity
        self.grants = grants
        self.credential = credential
        self._everywhere: frozenset[Right] = frozenset().union(*(each.rights for each in grants if not each.groups))
        self._groups = tuple((each.rights, each) for each in grants if each.groups)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Caller) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, tuple[Grant, ...], str]:
        return self.identity, self.grants, self.credential

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles in any group."""
        return tuple(sorted({role for grant in self.grants for role in grant.roles}))

    def may(self, right: Right, group: str) -> bool:
        """Return whether the caller has a right in a group, whether the group exists or not."""
        return right in self._everywhere or any(right in rights and each.covers(group) for rights, each in self._groups)

    def may_everywhere(self, right: Right) -> bool:
        """Return whether the caller has a right in all groups."""
        return right in self._everywhere

    def has_any(self, rights: Collection[Right]) -> bool:
        """Return whether the caller has one of the rights in some group."""
        return any(right in self._everywhere for right in rights) or any(
            right in granted for granted, _ in self._groups for right in rights
        )

    def must(self, right: Right, groups: Iterable[str]) -> None:
        """Raise ForbiddenError if the caller lacks a right in one of the groups."""
        if right in self._everywhere:
            return
        for group in sorted(groups):
            if not self.may(right, group):
                raise ForbiddenError(f"{self._lacks(right)} for the group {group!r}; {self._has()}", group=group)

    def must_everywhere(self, right: Right) -> None:
        """Raise ForbiddenError if the caller lacks a right in some group."""
        if right not in self._everywhere:
            raise ForbiddenError(f"{self._lacks(right)} for all groups, which this needs; {self._has()}")

    def must_have_any(self, rights: Collection[Right]) -> None:
        """Raise ForbiddenError if the caller has none of the rights in any group."""
        if not self.has_any(rights):
            needed = " or ".join(sorted(rights))
            raise ForbiddenError(f"{self.identity} lacks the right {needed}; {self._has()}")

    def _lacks(self, right: Right) -> str:
        return f"{self.identity} lacks the right {right}"

    def _has(self) -> str:
        shown = "; ".join(map(str, self.grants[:5]))
        return f"it has {shown}" if shown else "it has none"


EVERYONE = Caller("", (Grant(("admin",)),))
"""The caller of an API that asks for no credentials."""


def grant_problems(roles: Collection[str], groups: Collection[str]) -> list[str]:
    """Return what is wrong with roles and globs of groups that were read from outside."""
    problems = []
    if not roles:
        problems.append(f"there is no role: give one or more of {', '.join(ROLES)}")
    problems += [f"{role!r} is not a role: give {', '.join(ROLES)}" for role in roles if role not in ROLES]
    if "admin" in roles and groups:
        problems.append("admin is for all groups, as rules move nodes between groups: leave the groups out")
    if len(groups) > GROUPS_MAX:
        problems.append(f"there are more than {GROUPS_MAX} groups: use globs")
    for glob in groups:
        if not glob or len(glob) > GLOB_CHARACTERS_MAX or not glob.isprintable() or glob != glob.strip():
            problems.append(f"{glob[:50]!r} is not the name of a group, or a glob for names")
    return problems
