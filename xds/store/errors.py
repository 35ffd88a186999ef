"""What a store answers when it does not do what was asked. Each says whether the change can be there all the same."""


class StoreError(Exception):
    """A store did not do what was asked. Unless it is OutcomeUnknownError, nothing was changed."""


class ConflictError(StoreError):
    """The store is not at the revision that was expected; ``revision`` is where it is."""

    def __init__(self, expected: int, revision: int) -> None:
        super().__init__(
            f"expected revision {expected}, but the store is at {revision}: read it again, and decide anew"
        )
        self.revision = revision


class IdReusedError(StoreError):
    """The id belongs to another change: ids are made once a change, and kept when it is tried again."""

    def __init__(self, entry_id: str, revision: int) -> None:
        super().__init__(f"the id {entry_id!r} is that of another change, which made revision {revision}")
        self.revision = revision


class CompactedError(StoreError):
    """What was asked for is no longer kept; ``oldest`` is the oldest revision whose state can be read."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"revision {asked} is no longer kept: the oldest is {oldest}")
        self.oldest = oldest


class NotYetError(StoreError):
    """The revision that was asked for was not made yet; ``revision`` is the newest."""

    def __init__(self, asked: int, revision: int) -> None:
        super().__init__(f"revision {asked} was not made yet: the newest is {revision}")
        self.revision = revision


class EpochChangedError(StoreError):
    """The log was replaced by another one, as by a restore: revisions of before mean nothing, read the whole state."""

    def __init__(self) -> None:
        super().__init__("the store was replaced by another one: read the whole state anew")


class TooLargeError(StoreError):
    """The change is larger than the store takes in one piece."""


class UnavailableError(StoreError):
    """The store can't do it now: it is full, read-only, not reachable, closed, or held by another process."""


class OutcomeUnknownError(StoreError):
    """Whether the change was made can't be told now; ``entry_id`` is what to ask about, or to try again with."""

    def __init__(self, entry_id: str, cause: str) -> None:
        super().__init__(f"whether the change {entry_id!r} was made is not known ({cause}): try it again with this id")
        self.entry_id = entry_id


class UnreadableError(StoreError):
    """Something that is kept can't be read: it is damaged, or of a later version. The message names it."""


class NotAStoreError(StoreError):
    """What is there is no store of this product, of a later version, or damaged. It was left as it is."""
