"""What the process that takes changes measures of itself: calls, refused credentials, changes, the store."""

from collections import Counter
from collections.abc import Callable

from xds.telemetry.histogram import Histogram


class ServerMeasures:
    """Totals since the start. All keys are of bounded sets: calls, roles, outcomes, reasons."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, str]] = Counter()
        """Calls of the push API by call, role of the caller and outcome."""
        self.credentials_refused: Counter[str] = Counter()
        """Calls refused for want of credentials, by reason."""
        self.rights_refused = 0
        """Calls refused for want of a right."""
        self.push = Histogram()
        """From the arrival of a change at the publisher until it was answered."""
        self.store = Histogram()
        """How long the store took to commit a batch of changes."""
        self.queue: Callable[[], int] = lambda: 0
        """Returns how many changes wait to be committed."""
        self.access_problem: Callable[[], str] = lambda: ""
        """Returns why files of tokens, keys of issuers or the audit log are not as they should be, "" if all are."""
        self.asks_for_credentials: Callable[[], bool] = lambda: False
        """Returns whether callers of the push API must show credentials; then ``/readyz`` tells no reasons."""
