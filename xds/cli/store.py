"""``xds store``: check, back up and restore a store. Only a backup can be made while a server has the store open."""

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, examples, fail, say
from xds.cli.talk import DEFAULT_API, ApiCa, Output, TokenFile, print_as, talk

if TYPE_CHECKING:
    from xds.client import Client

app = typer.Typer(
    name="store", help="Check, back up and restore the store that xds serve keeps changes in.", no_args_is_help=True
)
Url = Annotated[
    str, typer.Option("--store", metavar="URL", help="sqlite:///PATH. Default: SQLite in the XDG state directory.")
]


@app.command(epilog=examples("xds store check", "xds store check --store sqlite:////var/lib/xds/store.db"))
def check(
    url: Annotated[
        str,
        typer.Option(
            "--store",
            metavar="URL",
            help="sqlite:///PATH, or etcd://HOST:PORT/PREFIX. Default: SQLite in the XDG state directory.",
        ),
    ] = "",
    output: Output = "table",
) -> None:
    """Read all of a store, and say what it holds, or what is wrong with it. No server may have its file open."""
    import asyncio

    from xds.store.errors import StoreError
    from xds.store.opening import StoreUrlError

    if url == "memory:":
        fail("--store: memory: is the store of a running server: there is nothing to check", code=EXIT_USAGE)
    try:
        found = asyncio.run(_content(url))
    except StoreUrlError as error:
        fail(f"--store: {error}", code=EXIT_USAGE)
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    if output != "table":
        print_as(output, found)
        return
    say(
        f"fine: {count(found['resources'], 'resource')} in {count(found['groups'], 'group')}, "
        f"revision {found['revision']}, {count(found['changes'], 'change')} of history since revision "
        f"{found['oldest_revision']}, epoch {found['epoch']}"
    )


async def _content(url: str) -> dict[str, Any]:
    """Read all of a store that exists. Raises StoreError."""
    from xds.store.errors import UnavailableError
    from xds.store.opening import open_store

    store = await open_store(url, create=False)
    try:
        if store.away:
            raise UnavailableError(store.away)
        oldest, newest = await store.kept()
        state = await store.state()
        after, entries = oldest, 0
        while page := await store.entries(after, 1_000):
            entries += len(page)
            after = page[-1].revision
        return {
            "resources": len(state.resources),
            "groups": len({key.group for key in state.resources}),
            "revision": newest,
            "changes": entries,
            "oldest_revision": oldest,
            "epoch": store.epoch,
        }
    finally:
        await store.close()


@app.command(
    epilog=examples(
        "xds store backup /backup/xds.db",
        "xds store backup /backup/xds.db --force",
        "xds store backup xds.db --api xds.example:18001 --token-file token --ca ca.pem",
    )
)
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to make.")],
    url: Url = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a backup that is there; it is kept as *.before.")
    ] = False,
    output: Output = "table",
    api: Annotated[
        str,
        typer.Option(
            "--api",
            metavar="HOST:PORT",
            help="Copy the store of the server with this push API. Default: the file; if a server has it open, the "
            f"server at XDS_PUSH_ADDRESS or {DEFAULT_API}.",
            rich_help_panel="Server",
        ),
    ] = "",
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Copy a store, history and secrets included, into a file that can be restored; also while a server runs.

    The copy is checked and synced before it gets its name. A running server makes it at one instant, and takes changes
    again once it is made.
    """
    from xds.store.copying import copy_store
    from xds.store.errors import InUseError, StoreError

    if api and url:
        fail("--api copies the store of a server, --store that of a file: give one of them", code=EXIT_USAGE)

    def from_server(address: str, expected: Path | None) -> NoReturn:
        revision, source = _download(address, target, force=force, expected=expected, token_file=token_file, ca=ca)
        _print_copied(source, target, "backed up to", revision, output)
        raise typer.Exit

    if api:
        from_server(api, None)
    path = _path(url)
    if path.resolve() == target.resolve():
        fail(f"{target} is the store itself: give another path", code=EXIT_USAGE)
    try:
        revision = copy_store(path, target, new_epoch=False, force=force)
    except InUseError:
        from_server(os.environ.get("XDS_PUSH_ADDRESS") or DEFAULT_API, path.resolve())
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    _print_copied(str(path), target, "backed up to", revision, output)


def _download(
    address: str, target: Path, *, force: bool, expected: Path | None, token_file: Path | None, ca: Path | None
) -> tuple[int, str]:
    """Have a server copy its store into ``target``; return the revision and the store's path on that machine.

    The store must be ``expected``, if that is given.
    """
    from xds.process.private_files import open_private
    from xds.store.copying import finish_copy, place_copy
    from xds.store.errors import StoreError, UnavailableError

    source = ""

    async def read(client: "Client", file: Path) -> None:
        nonlocal source
        parts = client.back_up_store()
        first = await anext(parts)
        source = first.path
        if expected is not None and Path(source) != expected:
            raise UnavailableError(
                f"{expected} is in use by a process that is not the server at {address}, which has {source}: name its "
                "push API with --api"
            )
        size_bytes = 0
        with open_private(file) as opened:
            async for part in parts:
                size_bytes += opened.write(part.data)
        if size_bytes != first.size_bytes:
            raise UnavailableError(f"the server sent {size_bytes:,} of {first.size_bytes:,} bytes: try again")

    def write(beside: Path) -> int:
        talk(address, token_file, ca, lambda client: read(client, beside))
        return finish_copy(beside)

    try:
        return place_copy(target, write, force=force), source
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    except sqlite3.Error as error:
        fail(f"the copy that {address} sent can't be read: {error}", code=EXIT_FAILED)


@app.command(epilog=examples("xds store restore /backup/xds.db", "xds store restore /backup/xds.db --force"))
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A backup.")],
    url: Url = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a store that is there; it is kept as *.before.")
    ] = False,
    output: Output = "table",
) -> None:
    """Make a store of a backup, while no server has it open.

    It gets a new epoch, so that nobody takes its revisions for those of before.
    """
    from xds.store.copying import copy_store
    from xds.store.errors import StoreError

    path = _path(url)
    try:
        revision = copy_store(source, path, new_epoch=True, force=force)
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    _print_copied(str(source), path, "restored to", revision, output)


def _path(url: str) -> Path:
    from xds.store.errors import StoreError
    from xds.store.opening import check_url, default_path, sqlite_path

    try:
        check_url(url)
    except StoreError as error:
        fail(f"--store: {error}", code=EXIT_USAGE)
    if url and not url.startswith("sqlite:"):
        fail(f"--store: {url} has no file; back it up by its own means", code=EXIT_USAGE)
    return sqlite_path(url) if url else default_path()


def _print_copied(of: str, to: Path, said: str, revision: int, output: str) -> None:
    if output != "table":
        print_as(output, {"source": of, "target": str(to), "revision": revision})
    else:
        say(f"{of} {said} {to}, at revision {revision}")
