"""The files of ``--schema``: Envoy binaries and descriptor sets, read, and kept beside the store.

What was read is kept by its content, in the directory ``<store>.schemas``, so that a start needs neither the binary nor
the time to read it. A file that has changed is read again; for one that is gone the kept content is used.
"""

import hashlib
import json
import logging
import mmap
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xds.process.private_files import make_directory, open_replacement
from xds.schema.origin import built_with
from xds.schema.pool import Schema, choose_schema, packaged_schema
from xds.schema.union import SchemaError, SchemaSource, encode_set, read_source, united, version_key

log = logging.getLogger("xds")
INDEX = "index.json"
KEPT_MAX = 32
"""Maximum number of files whose content is kept."""
_VERSION_S = 10.0
_ELF = b"\x7fELF"


def choose(paths: Sequence[Path], *, unknown_types: str = "refuse", kept: Path | None = None) -> None:
    """Make this process use the schemas of these files, and the packaged one if none of them is a whole Envoy API.

    Nothing is read before the schema is first used. ``unknown_types``: ``refuse`` or ``pass``. ``kept`` is the
    directory that keeps what was read. Raises SchemaInUseError if the process uses another schema.
    """
    absolute = tuple(path.absolute() for path in paths)
    load = (lambda: _load(absolute, kept)) if absolute else None
    choose_schema(absolute or None, load, passes_unknown_types=unknown_types == "pass")


def whole_schema(paths: Sequence[Path], kept: Path | None = None) -> SchemaSource:
    """Return the schema that the files make. Raises SchemaError."""
    return united(packaged_source(), [read(path, kept) for path in paths])


def older_schemas(paths: Sequence[Path], kept: Path | None = None) -> dict[str, Schema]:
    """Return the schema of each given Envoy but the newest, by its version. Raises SchemaError."""
    apis = [source for source in (read(path, kept) for path in paths) if source.is_api and source.envoy]
    newest = max((version_key(source.envoy) for source in apis), default=(0, 0, 0))
    older = {source.envoy: source for source in apis if version_key(source.envoy) < newest}
    return {version: Schema(encode_set(source.files)) for version, source in sorted(older.items())}


def packaged_source() -> SchemaSource:
    """Return the packaged schema."""
    packaged = read_source("the packaged schema", packaged_schema(), envoy=built_with())
    return SchemaSource(packaged.name, packaged.files, built_with())


def read(path: Path, kept: Path | None = None) -> SchemaSource:
    """Return the descriptors in a file, from ``kept`` if it is unchanged or gone. Raises SchemaError."""
    store = _Kept(kept) if kept is not None else None
    try:
        status = path.stat()
    except OSError as error:
        known = store.recall(path, None) if store is not None else None
        if known is None:
            raise SchemaError(f"{path} can't be read: {error.strerror}") from None
        log.warning("the schema %s can't be read (%s); what it had at an earlier start is used", path, error.strerror)
        return known
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    known = store.recall(path, stamp) if store is not None else None
    if known is None:
        known = _read_file(path)
        if store is not None:
            store.keep(path, stamp, known)
    return known


def _load(paths: tuple[Path, ...], kept: Path | None) -> bytes:
    whole = whole_schema(paths, kept)
    return encode_set(whole.files, whole.envoy)


def _read_file(path: Path) -> SchemaSource:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_source(str(path), data, envoy=_version_of(path) if data[:4] == _ELF else "")
    except OSError as error:
        raise SchemaError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:  # an empty file can't be mapped
        raise SchemaError(f"{path} is empty: give an Envoy binary or a FileDescriptorSet") from None


def _version_of(binary: Path) -> str:
    """Return what an Envoy binary calls its version; "" if it can't be run here, as one of another architecture."""
    if not os.access(binary, os.X_OK):
        return ""
    command = [str(binary.absolute()), "--version"]
    try:
        # The user named this program as the Envoy that is run. It prints "envoy  version: HASH/1.40.0/Clean/RELEASE/…".
        done = subprocess.run(command, capture_output=True, timeout=_VERSION_S, check=True, env={})  # noqa: S603 - see above
    except (OSError, subprocess.SubprocessError):
        return ""
    parts = done.stdout.decode("ascii", "replace").partition("version:")[2].strip().split("/")
    return parts[1].partition("-")[0] if len(parts) > 1 else ""


class _Kept:
    """The directory of what was read: ``index.json``, and a descriptor set for each content."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def recall(self, path: Path, stamp: str | None) -> SchemaSource | None:
        """Return what a file had, if its stamp is still the same; with ``stamp`` None whatever it had last."""
        entry = self._index().get(str(path))
        if entry is None or (stamp is not None and entry.get("stamp") != stamp):
            return None
        try:
            data = (self._directory / f"{entry['content']}.binpb").read_bytes()
            return read_source(str(path), data) if hashlib.sha256(data).hexdigest() == entry["content"] else None
        except (OSError, KeyError, SchemaError):
            return None

    def keep(self, path: Path, stamp: str, source: SchemaSource) -> None:
        """Keep what a file has. A failure is logged: it costs the next start that it reads the file again."""
        data = encode_set(source.files, source.envoy)
        content = hashlib.sha256(data).hexdigest()
        index = self._index()
        index.pop(str(path), None)
        index[str(path)] = {"stamp": stamp, "content": content, "envoy": source.envoy}
        while len(index) > KEPT_MAX:
            del index[next(iter(index))]
        try:
            make_directory(self._directory)
            self._write(f"{content}.binpb", data)
            self._write(INDEX, json.dumps(index, indent=1).encode())
            wanted = {f"{entry['content']}.binpb" for entry in index.values()}
            for old in self._directory.glob("*.binpb"):
                if old.name not in wanted:
                    old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the schema %s can't be kept in %s: %s", path, self._directory, error.strerror)

    def _index(self) -> dict[str, Any]:
        try:
            found = json.loads((self._directory / INDEX).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, data: bytes) -> None:
        beside = self._directory / f".{name}.{os.getpid()}"
        with open_replacement(beside) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._directory / name)
