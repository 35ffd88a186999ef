"""Has calls begin one in each turn of the event loop, so that hundreds that come at once do not hold up all else.

The work of a push is spread over a dozen turns of the event loop. In each, every call that has come would begin, and
take some milliseconds. While changes go out, others have the event loop for ``PAUSE_S`` after each call that began.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

PAUSE_S = 0.002
"""A dozen turns without calls, as a push takes. Of calls that come at once, some 400 a second begin so."""


class CallTurns:
    """The calls that wait to begin in an event loop. Connections have their turns one after the other."""

    def __init__(self) -> None:
        self.gives_way: Callable[[], bool] = lambda: False
        """Whether there is to be a pause after each call."""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Who waits, by connection; the one whose turn is next comes first."""
        self._is_taken = False

    async def take(self, connection: str) -> None:
        """Return once no other call begins in this turn of the event loop."""
        if self._is_taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(connection, deque()).append(turn)
            await turn
        else:
            self._is_taken = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        while self._waiting:
            connection = next(iter(self._waiting))
            turns = self._waiting.pop(connection)
            turn = turns.popleft()
            if turns:
                self._waiting[connection] = turns
            if not turn.done():  # else its call was cancelled
                turn.set_result(None)
                if self.gives_way():
                    asyncio.get_running_loop().call_later(PAUSE_S, self._next)
                else:
                    asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False


_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, CallTurns]" = WeakKeyDictionary()


def _turns_here() -> CallTurns:
    loop = asyncio.get_running_loop()
    if (turns := _turns.get(loop)) is None:
        turns = _turns[loop] = CallTurns()
    return turns


async def turn_to_begin(connection: str) -> None:
    """Return once it is the turn of a call of a connection to begin, in this event loop."""
    await _turns_here().take(connection)


def give_way_while(changes_go_out: Callable[[], bool]) -> None:
    """Have calls of this event loop pause after each that began, while ``changes_go_out``."""
    _turns_here().gives_way = changes_go_out
