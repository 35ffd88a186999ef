"""The keys that encrypt a store: read from files, or from the output of a command.

A source has one key per line, each the base64 text of 32 bytes. The first key encrypts; all of them decrypt. No error
message contains any part of a key.
"""

import base64
import binascii
import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic

from xds.process.private_files import open_replacement
from xds.store.errors import StoreError

KEY_BYTES = 32
KEYS_MAX = 100
TEXT_BYTES_MAX = 64 * 1024
"""Maximum bytes of a key file, and of the output of a key command."""
STDERR_SHOWN_MAX = 300
COMMAND_TIMEOUT_S = 30.0
_ID_BYTES = 8
_HINT = "make one with `xds store new-key FILE`, or with `openssl rand -base64 32`"


class KeysError(StoreError):
    """The keys of a store can't be read."""


@dataclass(frozen=True, slots=True)
class StoreKey:
    """A key and its id, which is derived from it: the id names the key without disclosing it."""

    id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a store: the first encrypts, all decrypt. Without keys, values are stored in plain."""

    keys: tuple[StoreKey, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, in order."""
        return tuple(key.id for key in self.keys)

    def extended_by(self, other: "KeyRing") -> "KeyRing":
        """Return a ring with this ring's keys first, and those of ``other`` that it lacks."""
        return KeyRing(tuple(dict.fromkeys((*self.keys, *other.keys))))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where keys come from: files, or a command, which is run without a shell. Neither: no keys."""

    files: tuple[Path, ...] = ()
    command: tuple[str, ...] = ()
    timeout_s: float = COMMAND_TIMEOUT_S

    def read(self) -> KeyRing:
        """Read the keys. Blocks for up to ``timeout_s``. Raises KeysError."""
        keys = [key for path in self.files for key in read_key_file(path)]
        if self.command:
            name = Path(self.command[0]).name
            keys += _parsed(_output_of(self.command, self.timeout_s), f"the output of the key command {name!r}")
        if len(keys) > KEYS_MAX:
            raise KeysError(
                f"{len(keys)} keys: at most {KEYS_MAX} are allowed; remove those that nothing is stored with"
            )
        return KeyRing(tuple(dict.fromkeys(keys)))


def new_key() -> StoreKey:
    """Return a new random key."""
    return _key(os.urandom(KEY_BYTES))


def read_key_file(path: Path) -> list[StoreKey]:
    """Return the keys in a file, at least one. Raises KeysError."""
    try:
        with path.open("rb") as file:
            text = file.read(TEXT_BYTES_MAX + 1)
    except OSError as error:
        raise KeysError(f"the key file {path} can't be read: {error.strerror}") from None
    return _parsed(text, f"the key file {path}")


def write_key_file(path: Path, keys: Sequence[StoreKey]) -> None:
    """Write a key file with mode 0600, replacing the present one as a whole. Raises KeysError."""
    beside = path.with_name(f"{path.name}.new")
    try:
        with open_replacement(beside) as file:
            for key in keys:
                file.write(base64.b64encode(key.secret) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise KeysError(f"the key file {path} can't be written: {error.strerror}") from None


def _key(secret: bytes) -> StoreKey:
    return StoreKey(sha256(b"xds store key id" + secret).digest()[:_ID_BYTES].hex(), secret)


def _parsed(text: bytes, what: str) -> list[StoreKey]:
    if len(text) > TEXT_BYTES_MAX:
        raise KeysError(f"{what} has more than {TEXT_BYTES_MAX:,} bytes; it must have one key per line")
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        try:
            secret = base64.b64decode(stripped, validate=True)
        except binascii.Error:
            raise KeysError(f"line {number} of {what} is not base64; {_HINT}") from None
        if len(secret) != KEY_BYTES:
            raise KeysError(f"line {number} of {what} is a key of {len(secret)} bytes, not {KEY_BYTES}; {_HINT}")
        keys.append(_key(secret))
    if not keys:
        raise KeysError(f"{what} has no key; {_HINT}")
    return keys


def _output_of(command: Sequence[str], timeout_s: float) -> bytes:
    """Run a command; return what it writes to stdout. It and its children are killed at the time-out or a bound."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise KeysError(f"the key command {name!r} can't be run: {error.strerror}") from None
    with process:
        try:
            deadline = monotonic() + timeout_s
            out, err = _drained(process, deadline)
            is_whole = len(out) <= TEXT_BYTES_MAX
            code = process.wait(timeout=max(0.1, deadline - monotonic())) if is_whole else 0
        except (TimeoutError, subprocess.TimeoutExpired):
            raise KeysError(f"the key command {name!r} did not end within {timeout_s:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if code:
        last = err.decode(errors="replace").strip().rpartition("\n")[2][:STDERR_SHOWN_MAX]
        raise KeysError(f"the key command {name!r} failed (exit code {code}){': ' + last if last else ''}")
    return out


def _drained(process: "subprocess.Popen[bytes]", deadline: float) -> tuple[bytes, bytes]:
    """Read stdout and stderr until both end, or stdout exceeds its bound. Raises TimeoutError at the deadline."""
    assert process.stdout is not None
    assert process.stderr is not None
    parts: dict[str, bytes] = {"out": b"", "err": b""}
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "out")
        selector.register(process.stderr, selectors.EVENT_READ, "err")
        while selector.get_map() and len(parts["out"]) <= TEXT_BYTES_MAX:
            ready = selector.select(max(0.0, deadline - monotonic()))
            if not ready:
                raise TimeoutError
            for entry, _ in ready:
                read = os.read(entry.fd, 65_536)
                parts[entry.data] = (parts[entry.data] + read)[-2 * TEXT_BYTES_MAX :]
                if not read:
                    selector.unregister(entry.fileobj)
    return parts["out"], parts["err"]
