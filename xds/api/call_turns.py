"""Has calls begin one in each turn of the event loop, so that hundreds that come at once do not hold up all else.

The work of a push is spread over a dozen turns of the event loop. In each, every call that has come would begin, and
take some milliseconds.
"""

import asyncio
from collections import deque
from weakref import WeakKeyDictionary


class CallTurns:
    """The calls that wait to begin in an event loop. Connections have their turns one after the other."""

    def __init__(self) -> None:
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
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False


_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, CallTurns]" = WeakKeyDictionary()


async def turn_to_begin(connection: str) -> None:
    """Return once it is the turn of a call of a connection to begin, in this event loop."""
    loop = asyncio.get_running_loop()
    if (turns := _turns.get(loop)) is None:
        turns = _turns[loop] = CallTurns()
    await turns.take(connection)
