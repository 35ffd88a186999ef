"""The errors of callers without rights, and of files that say who has them."""


class UnauthenticatedError(Exception):
    """It is not known who is calling. ``reason`` is a short word for logs; ``who`` the claimed identity, "" if none.

    ``ends_connection``: the caller can be known only on another connection, with another certificate.
    """

    def __init__(self, text: str, *, reason: str, who: str = "", ends_connection: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.who = who
        self.ends_connection = ends_connection


class ForbiddenError(Exception):
    """The caller lacks a right. ``group`` is the group that it lacks it for, "" if it is needed everywhere."""

    def __init__(self, text: str, *, group: str = "") -> None:
        super().__init__(text)
        self.group = group


class UnknownIdentityError(Exception):
    """A certificate or an OIDC token does not prove an identity; the message says why."""


class InvalidCertificateError(UnknownIdentityError):
    """A certificate is not valid any more. ``reason`` is one of ``xds.access.certificates.INVALID``."""

    def __init__(self, text: str, *, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class AccessFileError(Exception):
    """A file of tokens, identities or audit records can't be used; the message has the path and every problem."""


class NoAuditError(Exception):
    """The server has no audit log to read."""
