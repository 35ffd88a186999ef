"""The audit log: a file of JSON lines that is only appended to, each line chained to the one before it by a hash.

A line is written to the file before its request is answered, and synced to disk within ``SYNC_S``: a crash of the
process loses none, a crash of the machine at most that much. Processes that write one file (a server, and ``xds
tokens``) take turns at a lock file. A server never waits for its turn in the event loop: while another process writes,
records wait, in order, and so do the answers of the changes that they are about.

``chain`` is the SHA-256 of the former line's ``chain`` and of this line without it, so an edited, inserted or removed
line breaks the chain. Who can write the file can make a new chain, so the same lines also go to the process's log,
which belongs on another machine.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import structlog

from xds.access.errors import AccessFileError
from xds.process.private_files import make_directory, open_private

log = structlog.get_logger("xds")
SYNC_S = 1.0
RECORDS_MAX = 1_000
"""Records in one answer."""
BYTES_MAX, FILES_MAX = 64 * 1024 * 1024, 10
TEXT_CHARACTERS_MAX = 2_000
GROUPS_MAX = 100
"""Groups in one line; of a larger change the others are counted in ``more_groups``."""
NO_CHAIN = "0" * 64
BLOCK_BYTES = 1024 * 1024
RETRY_S = 0.02
"""How often a server that has records to write asks whether another process still writes."""
TURN_S_MAX = 5.0
"""How long an answer waits for its record to be written."""
WAITING_MAX = 10_000
"""Records that wait for another process; the oldest of more are only logged."""
CLOSE_TRIES_MAX = 20
_CHAINED = re.compile(rb'(\{.*), "chain": "([0-9a-f]{64})"\}', re.DOTALL)

DONE, REJECTED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN = "done", "rejected", "forbidden", "unauthenticated", "unknown"
OUTCOMES = (DONE, REJECTED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """A filter of records; "" and None match all. ``who`` and ``group`` are globs."""

    who: str = ""
    group: str = ""
    since_s: float | None = None
    outcome: str = ""
    limit: int = 1_000

    def matches(self, record: dict[str, Any]) -> bool:
        """Return whether a record is asked for, ``since_s`` aside."""
        if self.outcome and record.get("outcome") != self.outcome:
            return False
        if self.who and not fnmatchcase(str(record.get("who", "")), self.who):
            return False
        return not self.group or any(fnmatchcase(each, self.group) for each in record.get("groups", ()))


class AuditLog:
    """Writes records to a file and, with ``logs``, to the log; without a path only to the log.

    ``bytes_max`` is the size of a file, after which the next one is begun; ``files_max`` the number of files that are
    kept, the present one included. If a record can't be written, that is logged, and ``problem`` has the last reason.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        bytes_max: int = BYTES_MAX,
        files_max: int = FILES_MAX,
        logs: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.problem = ""
        """Why the last record is not in the file, "" if it is."""
        self._bytes_max, self._files_max = bytes_max, files_max
        self._logs = logs
        self._clock = clock
        self._descriptor = -1
        self._known: tuple[int, int] = (0, 0)
        """Inode and size of the file after the last record."""
        self._chain = NO_CHAIN
        self._lock = -1
        self._sync: asyncio.TimerHandle | None = None
        self._waiting: deque[dict[str, Any]] = deque()
        """Records that are not written yet, the oldest first."""
        self._retry: asyncio.TimerHandle | None = None
        self._written: asyncio.Future[None] | None = None
        """Is done once no record waits."""
        self._is_closed = False

    def open(self) -> None:
        """Open the file, if there is to be one; the first record does so otherwise. Raises AccessFileError."""
        if self.path is not None:
            try:
                self._open(self.path)
            except OSError as error:
                raise AccessFileError(f"the audit log {self.path} can't be written: {error.strerror}") from None

    def record(self, what: str, *, who: str, outcome: str, **fields: Any) -> None:
        """Write a record. Fields that are None, "" or empty are left out; long ones are cut."""
        content = {"at": _stamp(self._clock()), "what": what, "who": who or "anyone", "outcome": outcome}
        content |= {key: _bounded(value) for key, value in _told(fields).items()}
        if self.path is None or self._is_closed:
            self._tell(content)
            return
        self._waiting.append(content)
        if self._retry is None:
            self._write(self.path)
        if len(self._waiting) > WAITING_MAX:
            self._fail(self.path, "another process does not stop writing it", count=1)

    async def written(self) -> None:
        """Return once all records until now are written, or can't be; after ``TURN_S_MAX`` in any case."""
        if not self._waiting:
            return
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait({self._written}, timeout=TURN_S_MAX)
        if not done:
            self.problem = f"{self.path} can't be written: another process does not stop writing it"

    def close(self) -> None:
        """Write what waits, for which another process has ``CLOSE_TRIES_MAX`` * ``RETRY_S`` to end; sync and close."""
        tries = CLOSE_TRIES_MAX
        while self._waiting and self.path is not None and not self._write(self.path) and (tries := tries - 1):
            time.sleep(RETRY_S)
        if self._waiting and self.path is not None:
            self._fail(self.path, "another process does not stop writing it", count=len(self._waiting))
            self._let_go()
        for timer in (self._sync, self._retry):
            if timer is not None:
                timer.cancel()
        self._sync = self._retry = None
        self._is_closed = True
        descriptors = self._descriptor, self._lock
        self._descriptor = self._lock = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                with suppress(OSError):
                    os.fsync(descriptor)
                os.close(descriptor)

    # --- Records that wait -------------------------------------------------------------------------------------------

    def _write(self, path: Path) -> bool:
        """Write the records that wait; False if another process is writing: a server then writes them later.

        If they can't be written, that is logged, and they do not wait any longer.
        """
        loop = _running_loop()
        try:
            self._open_lock(path)
            if not self._take_turn(waits=loop is None):
                if loop is not None and self._retry is None:
                    self._retry = loop.call_later(RETRY_S, self._write_later, path)
                return False
            try:
                while self._waiting:
                    self._waiting[0]["chain"] = self._append(path, self._waiting[0])
                    self._tell(self._waiting.popleft())
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            self.problem = ""
            self._sync_soon()
        except OSError as error:
            self._fail(path, error.strerror, count=len(self._waiting))
        self._let_go()
        return True

    def _write_later(self, path: Path) -> None:
        self._retry = None
        self._write(path)

    def _fail(self, path: Path, why: str | None, *, count: int) -> None:
        """Only log the oldest records that wait."""
        self.problem = f"{path} can't be written: {why}"
        log.error("the audit log can't be written", problem=self.problem)
        for _ in range(count):
            self._tell(self._waiting.popleft())

    def _tell(self, content: dict[str, Any]) -> None:
        if self._logs:
            log.info("audit", **content)

    def _let_go(self) -> None:
        """Let the answers go that waited for records."""
        if self._written is not None:
            self._written.set_result(None)
            self._written = None

    def _take_turn(self, *, waits: bool) -> bool:
        """Return whether it is this process's turn to write; its end is to unlock."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    # --- The file ----------------------------------------------------------------------------------------------------

    def _append(self, path: Path, content: dict[str, Any]) -> str:
        data = json.dumps(content, ensure_ascii=True).encode()
        self._catch_up(path)
        chain = hashlib.sha256(self._chain.encode() + data).hexdigest()
        line = b'%s, "chain": "%s"}\n' % (data[:-1], chain.encode())
        if self._known[1] and self._known[1] + len(line) > self._bytes_max:
            self._rotate(path)
        if os.write(self._descriptor, line) != len(line):
            self._known = (0, 0)  # the disk is full: the part of a line is ended by the next record
            raise OSError(28, "no space left on the device")
        self._chain = chain
        self._known = self._known[0], self._known[1] + len(line)
        return chain

    def _open_lock(self, path: Path) -> None:
        if self._lock < 0:
            make_directory(path.parent)
            self._lock = _descriptor_of(path.with_name(f"{path.name}.lock"))

    def _open(self, path: Path) -> None:
        """Open the file; if another process is writing at this moment, it is opened by the first record."""
        self._open_lock(path)
        if self._take_turn(waits=_running_loop() is None):
            try:
                self._catch_up(path)
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        else:
            os.close(_descriptor_of(path))

    def _catch_up(self, path: Path) -> None:
        """Open the file, and learn its last chain, if another process has written it or made a new one."""
        with suppress(FileNotFoundError):
            status = path.stat()
            if (status.st_ino, status.st_size) == self._known and self._descriptor >= 0:
                return
        opened = _descriptor_of(path)
        try:
            status = os.fstat(opened)
            if status.st_size and not _ends_a_line(path):
                os.write(opened, b"\n")  # a record that a crash has cut; ``verify`` reports it
                status = os.fstat(opened)
            chain = next(map(_chain_of, filter(_CHAINED.fullmatch, _lines_back(_files(path)))), NO_CHAIN)
        except BaseException:
            os.close(opened)
            raise
        self._use(opened)
        self._known, self._chain = (status.st_ino, status.st_size), chain

    def _use(self, opened: int) -> None:
        """Write to another open file from now on. The former one is closed last: its number may be given anew."""
        former, self._descriptor = self._descriptor, opened
        if former >= 0:
            os.close(former)

    def _rotate(self, path: Path) -> None:
        os.fsync(self._descriptor)
        next_path = path.with_name(f"{path.name}.next")
        opened = _descriptor_of(next_path)  # first: if that fails, everything stays as it is
        try:
            self._move_up(path)
            next_path.replace(path)
        except BaseException:
            os.close(opened)
            raise
        self._use(opened)
        self._known = os.fstat(opened).st_ino, 0

    def _move_up(self, path: Path) -> None:
        for number in range(self._files_max - 1, 0, -1):
            newer = path if number == 1 else _numbered(path, number - 1)
            with suppress(FileNotFoundError):
                newer.replace(_numbered(path, number))

    def _sync_soon(self) -> None:
        if self._sync is not None:
            return
        loop = _running_loop()
        if loop is None:  # a command
            os.fsync(self._descriptor)
            return
        self._sync = loop.call_later(SYNC_S, self._sync_now, loop)

    def _sync_now(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sync = None
        try:
            descriptor = os.dup(self._descriptor)
        except OSError as error:
            log.error("the audit log can't be synced to disk", problem=str(error))
            self._sync_soon()
            return
        loop.run_in_executor(None, _sync_and_close, descriptor)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of a server, None in a command."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def read_audit(path: Path, wanted: AuditFilter) -> list[dict[str, Any]]:
    """Return the records that a filter asks for, newest first. Raises OSError."""
    found: list[dict[str, Any]] = []
    since = "" if wanted.since_s is None else _stamp(wanted.since_s)
    for line in _lines_back(_files(path)):
        record = _parsed(line)
        if record is None:
            continue
        if record["at"] < since:
            break
        if wanted.matches(record):
            found.append(record)
            if len(found) >= wanted.limit:
                break
    return found


def verify_audit(path: Path) -> tuple[int, list[str]]:
    """Return the number of records in all files, and where the chain is broken. Raises OSError.

    The oldest line can't be checked if older files were removed. That lines are missing at the end can't be told.
    """
    problems: list[str] = []
    chain: str | None = None
    total = 0
    for file in reversed(_files(path)):
        with file.open("rb") as opened:
            for number, line in enumerate(opened, 1):
                match = _CHAINED.fullmatch(line.rstrip(b"\n"))
                if match is None:
                    problems.append(f"{file}:{number}: is not a whole record")
                    continue
                total += 1
                told = match.group(2).decode()
                if chain is not None and hashlib.sha256(chain.encode() + match.group(1) + b"}").hexdigest() != told:
                    problems.append(f"{file}:{number}: was edited, or a line before it was removed or inserted")
                chain = told
    return total, problems


def _files(path: Path) -> list[Path]:
    """Return the files of a log that exist, newest first."""
    found = [path] if path.exists() else []
    number = 1
    while (older := _numbered(path, number)).exists():
        found.append(older)
        number += 1
    return found


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _descriptor_of(path: Path) -> int:
    with open_private(path, "ab") as file:
        return os.dup(file.fileno())


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        log.error("the audit log can't be synced to disk", problem=str(error))
    finally:
        os.close(descriptor)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines_back(files: Iterable[Path]) -> Iterator[bytes]:
    """Yield the lines of files, newest first, from the last line of the first file on."""
    for path in files:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            rest = b""
            while at > 0:
                size = min(BLOCK_BYTES, at)
                at -= size
                file.seek(at)
                lines = (file.read(size) + rest).split(b"\n")
                rest = lines[0] if at else b""
                yield from (line for line in reversed(lines[1:] if at else lines) if line)


def _chain_of(line: bytes) -> str:
    match = _CHAINED.fullmatch(line)
    return NO_CHAIN if match is None else match.group(2).decode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("at"), str) else None


def _stamp(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in fields.items() if value is not None and value not in ("", (), frozenset())}
    groups = told.get("groups", ())
    if len(groups) > GROUPS_MAX:
        told["more_groups"] = len(groups) - GROUPS_MAX
    if groups:
        told["groups"] = sorted(groups)[:GROUPS_MAX]
    return told


def _bounded(value: Any) -> Any:
    return value[:TEXT_CHARACTERS_MAX] if isinstance(value, str) else value
