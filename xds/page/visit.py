"""One request of the page by a caller who is known: the operations that it may use, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from xds.access.rights import Right
from xds.api.admission import Admission, Call
from xds.api.permitted import Permitted

QUERY_CHARACTERS_MAX = 8_192
"""The longest value of a query or of a form's field that is read."""
NUMBER_MAX = 2**63 - 1


class WrongRequestError(Exception):
    """A link or a form has a value that can't be used; the message says which."""


class PageNotFoundError(Exception):
    """There is no page at that address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A template with what it shows, or the address that the browser is sent to."""

    template: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    location: str = ""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request. ``form`` has the fields of a posted form."""

    request: Request
    operations: Permitted
    admission: Admission
    call: Call
    form: Mapping[str, str] = field(default_factory=dict)

    def text(self, key: str, default: str = "") -> str:
        """Return a value of the form or of the query. Raises WrongRequestError if it is too long."""
        found = self.form.get(key, self.request.query_params.get(key, default))
        if len(found) > QUERY_CHARACTERS_MAX:
            raise WrongRequestError(f"{key}: has more than {QUERY_CHARACTERS_MAX:,} characters")
        return found

    def needed(self, key: str) -> str:
        """Return a value that the address must have. Raises WrongRequestError."""
        if not (found := self.text(key)):
            raise WrongRequestError(f"the address lacks {key}=…: follow a link of the page instead")
        return found

    def revision(self, key: str) -> int | None:
        """Return a revision of the form or of the query, None if it has none. Raises WrongRequestError."""
        return self.number(key, "a revision")

    def number(self, key: str, of: str) -> int | None:
        """Return a number of the form or of the query, None if it has none. Raises WrongRequestError.

        ``of`` says what is numbered.
        """
        found = self.text(key).strip()
        if not found:
            return None
        if not (found.isascii() and found.isdigit() and len(found) < 20) or int(found) > NUMBER_MAX:
            raise WrongRequestError(f"{key}: {found[:50]!r} is not the number of {of}")
        return int(found)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """Return a value that is one of those allowed, the first if there is none. Raises WrongRequestError."""
        found = self.text(key) or allowed[0]
        if found not in allowed:
            raise WrongRequestError(f"{key}: {found[:50]!r} is none of {', '.join(filter(None, allowed))}")
        return found

    def may(self, right: Right, group: str) -> bool:
        """Return whether the caller has a right in a group, for what a page offers."""
        return self.call.caller.may(right, group)
