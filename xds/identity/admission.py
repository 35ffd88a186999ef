"""The outcome of showing a token: an admission, or a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from xds.model.identity import Peer

OURS = ("keys away", "busy", "internal")
"""Reasons to refuse a token that are not the client's fault: it may be right, and is to be sent again."""


@dataclass(frozen=True, slots=True)
class TokenAdmission:
    """A client that has shown a valid token, and when its stream must end, on the event loop's clock."""

    peer: Peer
    ends_at: float


class RefusedTokenError(Exception):
    """A client is not admitted. ``reason`` is one of the verifier's or of ``OURS``; the message is for the client.

    ``subject`` is whom its token claims to be of, "" if that was not read.
    """

    def __init__(self, reason: str, text: str, *, subject: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.subject = subject

    @property
    def is_ours(self) -> bool:
        """Whether the client is to try again with the same token."""
        return self.reason in OURS


Done = Callable[[TokenAdmission | RefusedTokenError], None]


class Gate(Protocol):
    """Admits clients by their tokens."""

    def admit(self, authorization: str, done: Done) -> TokenAdmission | None:
        """Return the admission of a client whose token is known; else call ``done`` in a later turn of the event loop.

        Raises RefusedTokenError for metadata without a token.
        """
        ...

    async def admitted(self, authorization: str) -> TokenAdmission:
        """Return the admission of a client, once its token is verified. Raises RefusedTokenError."""
        ...
