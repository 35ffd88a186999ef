"""The file of named tokens: created, listed and revoked by ``xds tokens``, followed by running servers.

The file has a SHA-256 of each token, never the token. A token is 256 random bits, so nobody can guess one from its
hash. A slow hash, which passwords need because people choose them, would only make every request slower.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xds.access.errors import AccessFileError
from xds.access.rights import Caller, Grant, grant_problems
from xds.process.private_files import make_directory, open_private, open_replacement

PREFIX = "xdst_"
"""How every token begins, so that scanners for secrets recognise one: ``xdst_[A-Za-z0-9_-]{43}``."""
TOKEN = re.compile(r"xdst_[A-Za-z0-9_-]{43}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
RANDOM_BYTES = 32
ID_BYTES = 4
TOKENS_MAX = 10_000
FILE_BYTES_MAX = 16 * 1024 * 1024
FORMAT = 1
TIME_S_MAX = 253_402_300_799
"""The last time at which a token may end: later ones can't be shown as a date."""
_FIELDS = {"id", "name", "sha256", "roles", "groups", "created_at", "expires_at", "revoked_at"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What is kept of a token. Times are Unix seconds."""

    id: str
    name: str
    sha256: str
    roles: tuple[str, ...]
    groups: tuple[str, ...] = ()
    created_at: int = 0
    expires_at: int | None = None
    revoked_at: int | None = None

    def state(self, now_s: float) -> str:
        """Return ``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now_s >= self.expires_at else "valid"

    @property
    def caller(self) -> Caller:
        """The caller that shows the token."""
        return Caller(f"token:{self.name}", (Grant(self.roles, self.groups),), self.id)


def hash_of(token: str) -> str:
    """Return the hash of a token, as it is kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> tuple[TokenRecord, ...]:
    """Return all tokens of a file. Raises AccessFileError; FileNotFoundError if there is no file."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise AccessFileError(f"{path} can be written by others, who could add tokens: chmod go-w {path}")
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AccessFileError(f"{path} can't be read: {error.strerror}") from None
    try:
        return _records(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else "it lacks a field, or one has another type"
        raise AccessFileError(
            f"{path} is not a file of tokens: {what}; restore it, or remove it and create anew"
        ) from None


def token_problems(name: str, roles: tuple[str, ...], groups: tuple[str, ...], expires_at: int | None) -> list[str]:
    """Return what is wrong with a token that is to be created."""
    problems = grant_problems(roles, groups)
    if not NAME.fullmatch(name):
        problems.append(f"{name!r} is not a name: 1 to 100 letters, digits and . _ @ + -, the first a letter or digit")
    if expires_at is not None and not 0 < expires_at <= TIME_S_MAX:
        problems.append("it would end after the year 9999, or before 1970")
    return problems


def create_token(
    path: Path, name: str, roles: tuple[str, ...], groups: tuple[str, ...] = (), *, expires_at: int | None = None
) -> tuple[TokenRecord, str]:
    """Add a token to a file, which is created if there is none; return what is kept, and the token.

    The token can't be shown again. Raises AccessFileError.
    """
    if problems := token_problems(name, roles, groups, expires_at):
        raise AccessFileError("; ".join(problems))
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    now_s = int(time.time())
    with _changing(path) as records:
        if any(each.name == name and each.state(now_s) == "valid" for each in records):
            raise AccessFileError(f"there is a valid token {name!r} already: choose another name, or revoke it first")
        if len(records) >= TOKENS_MAX:
            raise AccessFileError(f"{path} has {TOKENS_MAX:,} tokens, as many as it may have")
        made = TokenRecord(
            id=_new_id(records),
            name=name,
            sha256=hash_of(token),
            roles=roles,
            groups=groups,
            created_at=now_s,
            expires_at=expires_at,
        )
        records.append(made)
    return made, token


def revoke_tokens(path: Path, named: str) -> tuple[TokenRecord, ...]:
    """Revoke the tokens with a name or an id that are not revoked yet; return them. Raises AccessFileError."""
    now_s = int(time.time())
    with _changing(path, create=False) as records:
        found = [each for each in records if named in (each.name, each.id)]
        if not found:
            raise AccessFileError(f"{path} has no token with the name or id {named!r}")
        wanted = [each for each in found if each.revoked_at is None]
        revoked = {each.id: replace(each, revoked_at=now_s) for each in wanted}
        records[:] = [revoked.get(each.id, each) for each in records]
    return tuple(revoked.values())


def _new_id(records: list[TokenRecord]) -> str:
    taken = {each.id for each in records}
    while (made := secrets.token_hex(ID_BYTES)) in taken:
        pass
    return made


@contextmanager
def _changing(path: Path, *, create: bool = True) -> Iterator[list[TokenRecord]]:
    """Yield the records of a file, and replace it by what became of them, unless an error is raised.

    Writers wait for each other at a lock file, which stays: who removed it would let two writers in.
    """
    try:
        if create:
            make_directory(path.parent)
        elif not path.exists():
            raise AccessFileError(f"{path} does not exist: there are no tokens")
        with open_private(path.with_name(f"{path.name}.lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = list(read_tokens(path)) if path.exists() else []
            before = tuple(records)
            yield records
            if tuple(records) != before:
                _replace_file(path, records)
    except OSError as error:
        raise AccessFileError(f"{path} can't be written: {error.strerror}") from None


def _replace_file(path: Path, records: list[TokenRecord]) -> None:
    beside = path.with_name(f"{path.name}.new")
    content = {"format": FORMAT, "tokens": [_json_of(each) for each in records]}
    with open_replacement(beside) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _json_of(record: TokenRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in TokenRecord.__slots__}


def _records(content: Any) -> tuple[TokenRecord, ...]:
    """Return the records in a file's content. Raises ValueError, KeyError or TypeError."""
    if not isinstance(content, dict) or not isinstance(content.get("tokens"), list):
        raise ValueError("it has no list of tokens")
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')!r}, and this version reads format {FORMAT}")
    return tuple(map(_record, content["tokens"]))


def _record(item: Any) -> TokenRecord:
    if not isinstance(item, dict) or set(item) != _FIELDS:
        raise ValueError(f"a token has other fields than {', '.join(sorted(_FIELDS))}")
    record = TokenRecord(**{**item, "roles": tuple(item["roles"]), "groups": tuple(item["groups"])})
    times = record.created_at, record.expires_at or 0, record.revoked_at or 0
    texts = (record.id, record.name, record.sha256, *record.roles, *record.groups)
    if not all(isinstance(each, int) for each in times) or not all(isinstance(each, str) for each in texts):
        raise ValueError(f"the token {record.name!r} has a field of another type")
    if not NAME.fullmatch(record.name) or not re.fullmatch(r"[0-9a-f]{64}", record.sha256):
        raise ValueError(f"the token {record.name!r} has a name or a hash that is none")
    if problems := grant_problems(record.roles, record.groups):
        raise ValueError(f"the token {record.name!r}: {problems[0]}")
    return record
