"""The errors of a store."""


class StoreError(Exception):
    """A store did not carry out a request. Nothing was changed, except perhaps with OutcomeUnknownError."""


class ConflictError(StoreError):
    """The store is not at the expected revision, or ``what`` changed after it; ``revision`` is the store's present one.

    ``changed_at`` is None if the history does not go back far enough to tell when ``what`` changed.
    """

    def __init__(self, expected: int, revision: int, *, what: str = "", changed_at: int | None = None) -> None:
        if not what:
            why = f"the store is at {revision}"
        elif changed_at is None:
            why = f"whether {what} changed since can't be told: the history does not go back to it"
        else:
            why = f"{what} changed at revision {changed_at}"
        super().__init__(f"expected revision {expected}, but {why}: read it again and retry")
        self.revision = revision


class IdReusedError(StoreError):
    """The id belongs to another change: use a new id for each change, and the same id for retries of it.

    ``revision`` is that of the other change, None where it is not told.
    """

    def __init__(self, entry_id: str, revision: int | None) -> None:
        made = "" if revision is None else f", which made revision {revision}"
        super().__init__(f"the id {entry_id!r} is that of another change{made}")
        self.entry_id = entry_id
        self.revision = revision


class CompactedError(StoreError):
    """The requested revision was compacted; ``oldest`` is the oldest revision whose state can be read."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"revision {asked} is no longer kept: the oldest is {oldest}")
        self.oldest = oldest


class NotYetError(StoreError):
    """The requested revision does not exist yet; ``revision`` is the newest."""

    def __init__(self, asked: int, revision: int) -> None:
        super().__init__(f"revision {asked} does not exist yet: the newest is {revision}")
        self.revision = revision


class EpochChangedError(StoreError):
    """The log was replaced, for example by a restore: earlier revisions are meaningless; read the whole state."""

    def __init__(self) -> None:
        super().__init__("the store was replaced by another one: read the whole state again")


class TooLargeError(StoreError):
    """The change exceeds the store's limits."""


class UnavailableError(StoreError):
    """The store can't be used at present: it is full, read-only, unreachable, closed, or locked by another process."""


class InUseError(UnavailableError):
    """Another process has the store's file open."""


class OutcomeUnknownError(StoreError):
    """The change may or may not have been made. Find it by ``entry_id``, or retry it with the same id."""

    def __init__(self, entry_id: str, cause: str) -> None:
        super().__init__(f"the outcome of the change {entry_id!r} is not known ({cause}): retry it with this id")
        self.entry_id = entry_id


class UnreadableError(StoreError):
    """Stored data can't be read: it is damaged, or of a later version. The message names it."""


class NoBackupError(StoreError):
    """The store has no file to copy."""

    def __init__(self) -> None:
        super().__init__("this store has no file: back it up by its own means")


class NotAStoreError(StoreError):
    """The file is not a store of this product, is of a later version, or is damaged. It was not modified."""
