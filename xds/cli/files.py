"""The options of commands that read files of resources."""

from typing import Annotated

import typer

StrictYaml = Annotated[
    bool,
    typer.Option(
        envvar="XDS_STRICT_YAML",
        help="Refuse a key that is there twice, and tags; Envoy takes the last one and ignores tags.",
    ),
]
LinksOutside = Annotated[
    bool,
    typer.Option(envvar="XDS_LINKS_OUTSIDE", help="Follow symlinks in the directory that lead out of it."),
]
