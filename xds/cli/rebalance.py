"""``xds rebalance``: have clients of a server connect anew, so that they spread over all replicas."""

from typing import Annotated, Literal

import typer

from xds.cli.client_options import seconds_of
from xds.cli.output import count, say
from xds.cli.talk import DEFAULT_API, Api, ApiCa, TokenFile, examples_of, print_as, talk

EPILOG = examples_of("xds rebalance --share 1/2", "xds rebalance --share 25% --over 5m --api xds-0.example:18001")


def rebalance(
    share: Annotated[
        str, typer.Option(metavar="SHARE", help="The share of the connections that is to end: 1/3, 25% or 0.25.")
    ],
    over: Annotated[
        str, typer.Option(metavar="TIME", help="The time over which they end, one after the other at random.")
    ] = "60s",
    output: Annotated[
        Literal["table", "yaml", "json"], typer.Option("--output", "-o", help="How to print it.")
    ] = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """End a share of a server's xDS connections, so that their clients connect anew and spread over all replicas.

    Run it at each replica that was there before, once another has joined: with one replica of N new, --share 1/N. A
    client keeps all that it has, and the replica that it reaches sends it only what it lacks.
    """
    part, over_s = share_of(share), seconds_of(over, "--over")
    ending = talk(api, token_file, ca, lambda client: client.rebalance(part, over_s=over_s))
    if output != "table":
        print_as(output, {"connections": ending})
    else:
        say(f"{count(ending, 'connection')} will end within {over_s:g} s")


def share_of(text: str) -> float:
    """Return a share written as ``1/3``, ``25%`` or ``0.25``. Raises typer.BadParameter."""
    try:
        if "/" in text:
            part, _, whole = text.partition("/")
            return int(part) / int(whole)
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is not a share; write 1/3, 25% or 0.25", param_hint="--share") from None
