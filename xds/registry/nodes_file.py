"""The file of known nodes beside the store: a SQLite database of its own, which no change of resources is in.

It has a row for each node, the time at which the server was last known to run, and the epoch of the store's history.
Everything is called on one thread.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from xds.model.groups import Locality
from xds.process.private_files import make_directory, make_empty, tighten
from xds.registry.known_nodes import KnownNode

APPLICATION_ID = 0x78646E31
"""Marks the file as one of known nodes, in its first form ("xdn1")."""
BUSY_S = 5.0
TABLES = """
CREATE TABLE nodes (id TEXT PRIMARY KEY, node TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE server (alive_ms INTEGER NOT NULL);
INSERT INTO server VALUES (0);
"""
EPOCH = "CREATE TABLE IF NOT EXISTS history (epoch TEXT NOT NULL)"


class NotNodesError(Exception):
    """The file has something else, or is damaged."""


class NodesFile:
    """An open file. Errors of its methods are sqlite3's and OSError."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises NotNodesError besides."""
        make_directory(path.parent)
        make_empty(path)
        tighten(path)
        self._database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except sqlite3.DatabaseError as error:
            self._database.close()
            if _is_about_content(error):
                raise NotNodesError(str(error)) from error
            raise
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, path: Path) -> None:
        database = self._database
        if not path.stat().st_size:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; {TABLES} COMMIT;")
        (found,) = database.execute("PRAGMA application_id").fetchone()
        if found != APPLICATION_ID:
            raise NotNodesError("it is another program's database, or one of another version")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(EPOCH)

    def read(self, epoch: str = "") -> list[KnownNode]:
        """Return all nodes. Those that were connected were seen last when the server was. Raises NotNodesError.

        What they have accepted of a history of another ``epoch`` is left out; from now on the file is of this one.
        """
        try:
            (alive_ms,) = self._database.execute("SELECT alive_ms FROM server").fetchone()
            nodes = [_decoded(*row, alive_ms) for row in self._rows()]
            known = self._database.execute("SELECT epoch FROM history").fetchone()
            if known != (epoch,):
                nodes = [replace(each, accepted_revision=0) for each in nodes]
                self._begin_history(epoch)
            return nodes
        except sqlite3.DatabaseError as error:
            if _is_about_content(error):
                raise NotNodesError(str(error)) from error
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise NotNodesError(f"a row can't be read: {error!r}") from error

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield from self._database.execute("SELECT id, node FROM nodes")

    def _begin_history(self, epoch: str) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM history")
            database.execute("INSERT INTO history VALUES (?)", (epoch,))
            database.execute("UPDATE nodes SET node = json_set(node, '$.accepted_revision', 0)")

    def write(self, nodes: Iterable[KnownNode], forgotten: Iterable[str], alive_ms: int) -> None:
        """Write nodes, remove others, and note when the server ran, all or nothing."""
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?)", map(_encoded, nodes))
            database.executemany("DELETE FROM nodes WHERE id = ?", ((each,) for each in forgotten))
            database.execute("UPDATE server SET alive_ms = ?", (alive_ms,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def set_aside(path: Path, now_ms: int) -> Path:
    """Rename a file that is no file of known nodes, with what SQLite keeps beside it; return where it is."""
    aside = path.with_name(f"{path.name}.damaged-{now_ms}")
    os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(path.with_name(path.name + suffix), aside.with_name(aside.name + suffix))
    return aside


def _is_about_content(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error says that the file is damaged or something else, rather than that it can't be used."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _encoded(node: KnownNode) -> tuple[str, str]:
    place = node.locality
    fields = {
        "group": node.group,
        "cluster": node.cluster,
        "address": node.address,
        "identity": node.identity,
        "user_agent": node.user_agent,
        "locality": (place.region, place.zone, place.sub_zone),
        "first_seen_ms": node.first_seen_ms,
        "last_seen_ms": node.last_seen_ms,
        "accepted_revision": node.accepted_revision,
        "left_because": node.left_because,
        "is_connected": node.is_connected,
    }
    return node.id, json.dumps(fields)


def _decoded(node_id: str, text: str, alive_ms: int) -> KnownNode:
    fields = json.loads(text)
    region, zone, sub_zone = map(str, fields["locality"])
    is_connected, last_seen_ms = bool(fields["is_connected"]), int(fields["last_seen_ms"])
    return KnownNode(
        id=node_id,
        group=str(fields["group"]),
        cluster=str(fields["cluster"]),
        address=str(fields["address"]),
        identity=tuple(map(str, fields["identity"])),
        user_agent=str(fields["user_agent"]),
        locality=Locality(region=region, zone=zone, sub_zone=sub_zone),
        first_seen_ms=int(fields["first_seen_ms"]),
        last_seen_ms=max(alive_ms, last_seen_ms) if is_connected else last_seen_ms,
        accepted_revision=int(fields["accepted_revision"]),
        left_because=str(fields["left_because"]),
        is_connected=is_connected,
    )
