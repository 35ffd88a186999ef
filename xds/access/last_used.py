"""When named tokens were last used: a file beside theirs (``TOKENS.used``), written by running servers each minute."""

import asyncio
import fcntl
import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import structlog

from xds.process.private_files import open_private, open_replacement

log = structlog.get_logger("xds")
WRITE_EVERY_S = 60.0
FILE_BYTES_MAX = 1024 * 1024
FORMAT = 1


def path_beside(tokens_file: Path) -> Path:
    """Return the path of the file for the tokens of a file."""
    return tokens_file.with_name(f"{tokens_file.name}.used")


def read_last_used(tokens_file: Path) -> dict[str, int]:
    """Return the Unix time of the last use by the token's id; nothing of a file that is not there or is damaged.

    Raises OSError.
    """
    try:
        with path_beside(tokens_file).open("rb") as file:
            content = json.loads(file.read(FILE_BYTES_MAX + 1))
        if content["format"] != FORMAT:
            return {}
        return {str(token_id): int(at) for token_id, at in content["used"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


class LastUsed:
    """What this process saw of the use of tokens since it last wrote: as many ids as there are tokens."""

    def __init__(self, tokens_file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._tokens_file = tokens_file
        self._clock = clock
        self._seen: dict[str, int] = {}
        self._has_failed = False

    def note(self, token_id: str) -> None:
        """Record that a token was used now."""
        self._seen[token_id] = int(self._clock())

    async def follow(self, known: Callable[[], Collection[str]], *, every_s: float = WRITE_EVERY_S) -> None:
        """Write what was seen, again and again; ``known`` returns the ids of all tokens there are."""
        while True:
            await asyncio.sleep(every_s)
            if seen := self._take():
                await asyncio.to_thread(self._write, seen, known())

    def write(self, known: Collection[str]) -> None:
        """Write what was seen and is not written yet, of the tokens with the ids ``known``. For the end of a server."""
        if seen := self._take():
            self._write(seen, known)

    def _take(self) -> dict[str, int]:
        seen, self._seen = self._seen, {}
        return seen

    def _write(self, seen: Mapping[str, int], known: Collection[str]) -> None:
        """Write the later time of what was seen and what the file has. May run on a thread.

        If the file can't be written, as where the tokens are mounted read-only, that is logged once.
        """
        path = path_beside(self._tokens_file)
        try:
            with open_private(path.with_name(f"{path.name}.lock"), "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                before = read_last_used(self._tokens_file)
                used = {each: max(before.get(each, 0), seen.get(each, 0)) for each in {*before, *seen} & {*known}}
                beside = path.with_name(f"{path.name}.new")
                with open_replacement(beside) as file:
                    file.write(json.dumps({"format": FORMAT, "used": used}).encode() + b"\n")
                beside.replace(path)
        except OSError as error:
            if not self._has_failed:
                log.info("the last use of tokens is not kept", file=str(path), problem=error.strerror)
            self._has_failed = True
