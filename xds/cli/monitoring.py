"""``xds monitoring``: prints the files for Prometheus and Grafana that the package has."""

from importlib import resources
from typing import Annotated

import typer

from xds.cli.output import EXIT_USAGE, fail, print_formatted

app = typer.Typer(
    help="Alert rules for Prometheus and a dashboard for Grafana.", no_args_is_help=True, rich_markup_mode="rich"
)
RUNBOOK = "docs/runbook.md"
"""Where the links of the rules lead, without ``--runbook``."""


@app.command()
def rules(
    runbook: Annotated[
        str, typer.Option(metavar="URL", help="Where your people find the runbook, which the alerts link to.")
    ] = RUNBOOK,
) -> None:
    """Print alert rules for Prometheus: xds monitoring rules > xds.rules.yml.

    The page docs/runbook.md says of each alert what it means and what to do.
    """
    if not (runbook.isascii() and runbook.isprintable()) or any(each in " \"'#" for each in runbook):
        fail(
            f"--runbook: {runbook!r} is no URL to link to: printable ASCII without spaces, quotes and #",
            code=EXIT_USAGE,
        )
    print_formatted(_text("rules.yml").replace(f"runbook_url: {RUNBOOK}#", f"runbook_url: {runbook}#"))


@app.command()
def dashboard() -> None:
    """Print a dashboard for Grafana, to be imported: xds monitoring dashboard > xds-dashboard.json."""
    print_formatted(_text("dashboard.json"))


def _text(name: str) -> str:
    return resources.files("xds.monitoring").joinpath(name).read_text()
