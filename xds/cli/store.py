"""``xds store``: check, back up and restore a store's file while no server has it open."""

from pathlib import Path
from typing import Annotated

import typer

from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, examples, fail, say

app = typer.Typer(
    name="store", help="Check, back up and restore the store that xds serve keeps changes in.", no_args_is_help=True
)
Url = Annotated[
    str, typer.Option("--store", metavar="URL", help="sqlite:///PATH. Default: SQLite in the XDG state directory.")
]


@app.command(epilog=examples("xds store check", "xds store check --store sqlite:////var/lib/xds/store.db"))
def check(url: Url = "") -> None:
    """Read all of a store, and say what it holds, or what is wrong with it."""
    import asyncio

    from xds.store.errors import StoreError
    from xds.store.opening import open_store

    if (not url or url.startswith("sqlite:")) and not (path := _path(url)).exists():
        fail(f"{path} does not exist", code=EXIT_FAILED)

    async def read() -> str:
        store = await open_store(url)
        try:
            oldest, newest = await store.kept()
            state = await store.state()
            groups = count(len({key.group for key in state.resources}), "group")
            after, entries = oldest, 0
            while page := await store.entries(after, 1_000):
                entries += len(page)
                after = page[-1].revision
            return (
                f"fine: {count(len(state.resources), 'resource')} in {groups}, revision {newest}, "
                f"{count(entries, 'change')} of history since revision {oldest}, epoch {store.epoch}"
            )
        finally:
            await store.close()

    try:
        say(asyncio.run(read()))
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)


@app.command(epilog=examples("xds store backup /backup/xds.db"))
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to make; it must not exist.")], url: Url = ""
) -> None:
    """Copy a store, history included, into a file that can be restored."""
    _copy(_path(url), target, "backed up to", new_epoch=False, force=False)


@app.command(epilog=examples("xds store restore /backup/xds.db", "xds store restore /backup/xds.db --force"))
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A backup.")],
    url: Url = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a store that is there; it is kept as *.before.")
    ] = False,
) -> None:
    """Make a store of a backup. It gets a new epoch, so that nobody takes its revisions for those of before."""
    _copy(source, _path(url), "restored to", new_epoch=True, force=force)


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


def _copy(of: Path, to: Path, said: str, *, new_epoch: bool, force: bool) -> None:
    from xds.store.copying import copy_store
    from xds.store.errors import StoreError

    try:
        revision = copy_store(of, to, new_epoch=new_epoch, force=force)
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    say(f"{of} {said} {to}, at revision {revision}")
