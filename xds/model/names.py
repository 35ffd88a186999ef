"""Names of groups and resources: which are refused, and why."""

import re

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters, and those that hide or reorder the text around them (Unicode TR 36, 2.10.1)."""


def group_name_problem(group: str) -> str:
    """Return the problem with a group's name, "" if it is valid."""
    if not group or len(group) > 200 or group != group.strip() or any(ord(c) < 32 or c in "/\\\x7f" for c in group):
        return f"{group!r} is not a valid group name: 1 to 200 characters, without slashes and control characters"
    return ""


def hidden_character(name: str) -> str:
    """Return the first character of a name that a reader does not see, as ``U+202E``; "" if there is none."""
    found = _HIDDEN.search(name)
    return f"U+{ord(found[0]):04X}" if found else ""
