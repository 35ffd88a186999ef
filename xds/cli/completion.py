"""Completes types, groups, nodes and names of resources in the shell, from the running server.

A shell waits for every answer while its user types. So each gives up after a short time, and never prints an error.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from xds.client import Client

WITHIN_S = 1.0
"""How long to wait for the server."""
NAMES_MAX = 200
"""Names of resources that are offered at once."""


def complete_group(context: typer.Context, incomplete: str) -> list[str]:
    """Return the groups whose names begin with the word."""

    async def read(client: "Client") -> list[str]:
        return [each.name for each in await client.groups()]

    return [name for name in _ask(context, read) if name.startswith(incomplete)]


def complete_node(context: typer.Context, incomplete: str) -> list[str]:
    """Return the connected nodes whose ids begin with the word."""

    async def read(client: "Client") -> list[str]:
        return list(dict.fromkeys(each.id for each in (await client.nodes()).nodes))

    return [name for name in _ask(context, read) if name.startswith(incomplete)]


def complete_resource(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Return the types that begin with the word; after a type, and in ``TYPE/…``, names of resources in the group."""
    from xds.cli.targets import type_words

    given = context.params.get("resources") or []
    word, slash, prefix = incomplete.partition("/")
    if slash:
        return [f"{word}/{name}" for name in _names(context, word, prefix)]
    if given and "/" not in given[0]:
        return [name for name in _names(context, given[0], incomplete) if name not in given[1:]]
    return [word for word in type_words() if word.startswith(incomplete)] if incomplete else type_words()[:10]


def _names(context: typer.Context, word: str, prefix: str) -> list[str]:
    async def read(client: "Client") -> list[str]:
        found = await client.list_resources(
            str(context.params.get("group") or "default"), type=word, prefix=prefix, limit=NAMES_MAX
        )
        return [each.name.name for each in found.resources]

    return _ask(context, read)


def _ask(context: typer.Context, read: "Callable[[Client], Awaitable[list[str]]]") -> list[str]:
    """Return what ``read`` returns, nothing if it fails or takes too long."""
    import asyncio

    from xds.client import Client

    options = context.params
    api = options.get("api") or os.environ.get("XDS_PUSH_ADDRESS") or "127.0.0.1:18001"
    token_file = options.get("token_file") or os.environ.get("XDS_PUSH_TOKEN_FILE")
    ca = options.get("ca") or os.environ.get("XDS_PUSH_CA")

    async def run() -> list[str]:
        async with (
            asyncio.timeout(WITHIN_S),
            Client(str(api), token=token, tls_ca=Path(ca) if ca else None, patience_s=0) as client,
        ):
            return await read(client)

    with suppress(Exception):
        token = Path(token_file).read_text(encoding="utf-8").strip() if token_file else ""
        return asyncio.run(run())
    return []
