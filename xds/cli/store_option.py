"""Commands on a store: those who name it as an argument are told the option."""

from pathlib import Path
from typing import Any

from typer.core import TyperCommand


class StoreCommand(TyperCommand):
    """A command whose store is named by ``--store``, and not as an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments."""
        ctx.allow_extra_args = True
        left: list[str] = super().parse_args(ctx, args)
        if left and not ctx.resilient_parsing:
            ctx.fail(
                f"Got unexpected extra argument(s) ({' '.join(left)}); the store is named by --store {_url(left[0])}"
            )
        return left


def _url(text: str) -> str:
    """Return the URL of what somebody named as a store."""
    return text if ":" in text else f"sqlite:///{Path(text)}"
