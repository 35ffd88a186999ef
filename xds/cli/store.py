"""``xds store``: check, back up, restore and encrypt a store. Only backups work while a server has its file open."""

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, examples, fail, say, warn
from xds.cli.store_option import StoreCommand
from xds.cli.talk import DEFAULT_API, ApiCa, Output, TokenFile, print_as, talk

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.client import Client
    from xds.config import StoreSettings
    from xds.store.rekey import Convert
    from xds.store.sealing import Sealer

app = typer.Typer(
    name="store",
    help="Check, back up, restore and encrypt the store that xds serve keeps changes in.",
    no_args_is_help=True,
)
Url = Annotated[
    str, typer.Option("--store", metavar="URL", help="sqlite:///PATH. Default: SQLite in the XDG state directory.")
]


AnyUrl = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        help="sqlite:///PATH, or etcd://HOST:PORT/PREFIX. Default: the setting store.url, else SQLite in the XDG state "
        "directory.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Settings of the store and its keys, as YAML or TOML; else XDS_CONFIG."),
]
KeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--key-file", metavar="FILE", help="A file with keys of the store; repeatable. Default: the settings'."
    ),
]
CHECK_EXAMPLES = (
    "xds store check",
    "xds store check --store sqlite:////var/lib/xds/store.db --key-file /etc/xds/store.key",
)


@app.command(cls=StoreCommand, epilog=examples(*CHECK_EXAMPLES))
def check(url: AnyUrl = "", key_file: KeyFiles = None, config: Config = None, output: Output = "table") -> None:
    """Read all of a store, and say what it holds, or what is wrong with it. No server may have its file open.

    Values whose key is given are decrypted; of others it is only said which key they need.
    """
    import asyncio

    from xds.store.errors import StoreError

    settings = store_settings(url, key_file, config)
    if settings.url == "memory:":
        fail("--store: memory: is the store of a running server: there is nothing to check", code=EXIT_USAGE)
    try:
        found = asyncio.run(_content(settings))
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
    for key, number in found["values_by_key"].items():
        which = "not encrypted" if key == "none" else f"encrypted with the key {key}"
        say(f"{count(number, 'value')} {which}{'' if key in ('none', *found['keys']) else ', which is not given'}")


def store_settings(url: str, key_files: "list[Path] | None", config: Path | None) -> "StoreSettings":
    """Return the settings of a store and its keys, from options, environment and file. Exits if they are invalid."""
    from xds.cli.settings import Given, SettingsRejectedError, load_settings

    given = [Given(("store", "url"), url, "--store")] if url else []
    if key_files:
        given.append(Given(("store", "key_files"), tuple(key_files), "--key-file"))
        given.append(Given(("store", "key_command"), (), "--key-file"))
    try:
        return load_settings(given, config_file=config).store
    except SettingsRejectedError as error:
        fail(*error.problems, code=EXIT_USAGE)


async def _content(settings: "StoreSettings") -> dict[str, Any]:
    """Read all of a store that exists. Raises StoreError."""
    from xds.server import etcd_options
    from xds.store.errors import UnavailableError
    from xds.store.opening import open_store

    store = await open_store(settings.url, etcd=etcd_options(settings), create=False, keys=settings.keys)
    try:
        if store.away:
            raise UnavailableError(store.away)
        oldest, newest = await store.kept()
        contents = await store.survey()
        return {
            "resources": contents.resources,
            "groups": contents.groups,
            "revision": newest,
            "changes": contents.changes,
            "oldest_revision": oldest,
            "epoch": store.epoch,
            "keys": store.key_ids,
            "values_by_key": {key or "none": number for key, number in sorted(contents.values_by_key.items())},
        }
    finally:
        await store.close()


@app.command(
    cls=StoreCommand,
    epilog=examples(
        "xds store backup /backup/xds.db",
        "xds store backup /backup/xds.db --force",
        "xds store backup xds.db --api xds.example:18001 --token-file token --ca ca.pem",
    ),
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


@app.command(
    cls=StoreCommand, epilog=examples("xds store restore /backup/xds.db", "xds store restore /backup/xds.db --force")
)
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


@app.command(name="new-key", epilog=examples("xds store new-key store.key", "xds store new-key store.key --rotate"))
def new_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The key file.")],
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Add the new key to a file that is there, before its other keys.")
    ] = False,
) -> None:
    """Make a file with a new key that encrypts a store, for store.key_files. Only its owner can read it.

    Keep a copy where the store's backups are not: without the key nothing of the store can be read.
    """
    from xds.store.errors import StoreError
    from xds.store.keys import new_key, read_key_file, write_key_file

    if path.exists() and not rotate:
        fail(f"{path} exists already: give another path, or add a key to it with --rotate", code=EXIT_FAILED)
    key = new_key()
    try:
        write_key_file(path, [key, *(read_key_file(path) if rotate else [])])
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    say(f"the key {key.id} is the first one in {path}")


@app.command(
    cls=StoreCommand,
    epilog=examples(
        "xds store encrypt --key-file /etc/xds/store.key",
        "xds store encrypt --store etcd://127.0.0.1:2379/xds --config /etc/xds.yaml",
    ),
)
def encrypt(url: AnyUrl = "", key_file: KeyFiles = None, config: Config = None, output: Output = "table") -> None:
    """Encrypt all values of a store with its first key: those in plain, and those with older keys.

    It can be interrupted, and run again. No server may have a SQLite store open; control planes on etcd go on running.
    """
    from xds.store.rekey import encrypting

    _convert(store_settings(url, key_file, config), encrypting, "encrypted with the key", output)


@app.command(cls=StoreCommand, epilog=examples("xds store decrypt --key-file /etc/xds/store.key"))
def decrypt(url: AnyUrl = "", key_file: KeyFiles = None, config: Config = None, output: Output = "table") -> None:
    """Decrypt all values of a store, to go on without keys or with a version that does not encrypt.

    Take the keys out of the servers' settings first: they encrypt what they write. Else as xds store encrypt.
    """
    from xds.store.rekey import decrypting

    _convert(store_settings(url, key_file, config), decrypting, "decrypted", output)


def _convert(settings: "StoreSettings", conversion: "Callable[[Sealer], Convert]", said: str, output: str) -> None:
    import asyncio

    from xds.server import etcd_options
    from xds.store.errors import StoreError
    from xds.store.opening import convert_store
    from xds.store.sealing import Sealer

    if settings.url == "memory:":
        fail("--store: memory: is the store of a running server", code=EXIT_USAGE)
    try:
        sealer = Sealer(settings.keys.read())
        if not sealer.is_on:
            fail(
                "no key is given: give --key-file, or the setting store.key_files or store.key_command", code=EXIT_USAGE
            )
        done = asyncio.run(convert_store(settings.url, conversion(sealer), etcd=etcd_options(settings)))
    except StoreError as error:
        fail(str(error), code=EXIT_FAILED)
    key = sealer.ring.ids[0]
    if output != "table":
        print_as(
            output,
            {"key": key, "converted": done.converted, "left": done.left, "leftovers": list(done.leftovers)},
        )
        return
    for name in done.leftovers:
        warn(
            f"etcd has pieces {name!r} that no change refers to: a control plane that died left them, or one is "
            f"writing them now. If this is said again later, delete the keys PREFIX/pieces/{name}/"
        )
    how = f"{said} {key}" if said.endswith("key") else said
    say(f"{count(done.converted, 'value')} {how}; {done.left:,} had that form already")
