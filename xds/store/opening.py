"""Open the store that a URL names."""

import asyncio
import os
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from xds.process.background import Background
from xds.process.private_files import DIRECTORY_MODE, tighten
from xds.store.entries import Store
from xds.store.errors import NotAStoreError, StoreError
from xds.store.keys import KeySource
from xds.store.rekey import Convert, Progress, convert_sqlite
from xds.store.sealed import SealedStore

if TYPE_CHECKING:
    from xds.store.etcd_client import EtcdOptions

SCHEMES = "sqlite:///PATH, memory:, or etcd://HOST:PORT[,HOST:PORT…]/PREFIX"


class StoreUrlError(StoreError):
    """The URL does not name a store."""


def default_path() -> Path:
    """Return the default path of the store (XDG Base Directory Specification, ``XDG_STATE_HOME``)."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(home) / "xds" / "store.db"


def check_url(url: str) -> None:
    """Raise StoreUrlError if the URL is not that of a store."""
    scheme, colon, rest = url.partition(":")
    if not url or url == "memory:":
        return
    if scheme == "sqlite" and colon:
        if not rest.startswith("///") or len(rest) == len("///"):
            raise StoreUrlError(f"{url!r}: write sqlite:///PATH, with four slashes for a path from the root")
        return
    if scheme == "etcd" and colon:
        etcd_parts(url)
        return
    raise StoreUrlError(f"{url!r} is not a store: write {SCHEMES}")


async def open_store(
    url: str,
    *,
    etcd: "EtcdOptions | None" = None,
    etcd_wait_s: float = 0.0,
    background: Background | None = None,
    create: bool = True,
    keys: KeySource | None = None,
) -> SealedStore:
    """Open or create the store that a URL names; "" names the default one. Raises StoreError.

    Values are encrypted with the first of ``keys``, if there are any.

    ``etcd`` has the connection options except the endpoints, which the URL names. ``etcd_wait_s`` applies only if there
    is no local copy of etcd's state. With ``create`` off, nothing is created: a store that does not exist raises
    NotAStoreError.
    """
    check_url(url)
    keys = keys or KeySource()
    ring = await asyncio.to_thread(keys.read)
    inner = await _open_inner(url, etcd=etcd, etcd_wait_s=etcd_wait_s, background=background, create=create)
    return SealedStore(inner, keys, ring)


async def _open_inner(
    url: str, *, etcd: "EtcdOptions | None", etcd_wait_s: float, background: Background | None, create: bool
) -> Store:
    if not url or url.startswith("etcd:"):
        tighten(default_path().parent, DIRECTORY_MODE)
    if url.startswith("etcd:"):
        from xds.store.cache import StateCache
        from xds.store.etcd import EtcdStore

        options, prefix = _etcd_options(url, etcd)
        name = blake2b(prefix.encode(), digest_size=8).hexdigest()
        cache = StateCache(default_path().with_name(f"etcd-{name}.cache")) if create else None
        return await EtcdStore.open(
            options, prefix, cache=cache, background=background, wait_s=etcd_wait_s, create=create
        )
    if url == "memory:":
        from xds.store.memory import MemoryStore

        return MemoryStore()
    from xds.store.sqlite import SqliteStore

    path = sqlite_path(url) if url else default_path()
    if not create:
        await asyncio.to_thread(_must_exist, path)
    return await SqliteStore.open(path, background=background)


async def convert_store(url: str, convert: Convert, *, etcd: "EtcdOptions | None" = None) -> Progress:
    """Convert all values of the store that a URL names, which must exist (``xds.store.rekey``). Raises StoreError."""
    check_url(url)
    if url.startswith("etcd:"):
        from xds.store.etcd_rekey import convert_etcd

        return await convert_etcd(*_etcd_options(url, etcd), convert)
    path = sqlite_path(url) if url else default_path()
    await asyncio.to_thread(_must_exist, path)
    return await asyncio.to_thread(convert_sqlite, path, convert)


def _etcd_options(url: str, etcd: "EtcdOptions | None") -> "tuple[EtcdOptions, str]":
    from xds.store.etcd_client import EtcdOptions

    endpoints, prefix = etcd_parts(url)
    return replace(etcd or EtcdOptions(endpoints=endpoints), endpoints=endpoints), prefix


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise NotAStoreError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if not path.stat().st_size:
        raise NotAStoreError(f"{path} is empty: it holds no store")


def etcd_parts(url: str) -> tuple[tuple[str, ...], str]:
    """Return the endpoints (HOST:PORT) and the prefix in an etcd URL. Raises StoreUrlError."""
    hosts, slash, prefix = url.removeprefix("etcd://").partition("/")
    endpoints = tuple(hosts.split(","))
    if not url.startswith("etcd://") or not slash or not prefix.strip("/"):
        raise StoreUrlError(f"{url!r}: write etcd://HOST:PORT[,HOST:PORT…]/PREFIX")
    for endpoint in endpoints:
        host, colon, port = endpoint.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise StoreUrlError(f"{url!r}: {endpoint!r} is not HOST:PORT")
    return endpoints, prefix.strip("/")


def schemas_path(url: str) -> Path | None:
    """Return the directory beside a store that keeps the schemas of ``--schema``, None for a store in memory."""
    return beside_store(url, "schemas")


def nodes_path(url: str, replica: str) -> Path | None:
    """Return the path of the file of known nodes of a server with this store, None for a store in memory.

    With etcd it is on this machine, and each store and each replica with a name has its own.
    """
    if not url.startswith("etcd:"):
        return beside_store(url, "nodes")
    name = blake2b(f"{url} {replica}".encode(), digest_size=8).hexdigest()
    return default_path().with_name(f"etcd-{name}.nodes")


def beside_store(url: str, suffix: str) -> Path | None:
    """Return the path of a file that belongs to a store, None for a store in memory.

    With etcd the file is on this machine, at the default path.
    """
    if url == "memory:":
        return None
    path = default_path() if not url or url.startswith("etcd:") else sqlite_path(url)
    return path.with_name(f"{path.name}.{suffix}")


def sqlite_path(url: str) -> Path:
    """Return the path in a SQLite URL: ``sqlite:///a`` is relative, ``sqlite:////a`` absolute."""
    return Path(unquote(url.removeprefix("sqlite:///")))
