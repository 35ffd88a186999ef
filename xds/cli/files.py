"""The options of commands that read files of resources."""

from typing import Annotated

import typer

StrictYaml = Annotated[
    bool,
    typer.Option(
        envvar="XDS_STRICT_YAML",
        help="Refuse a key that is there twice, tags (Envoy takes the last key and ignores tags) and the merge key <<.",
    ),
]
LinksOutside = Annotated[
    bool,
    typer.Option(envvar="XDS_LINKS_OUTSIDE", help="Follow symlinks in the directory that lead out of it."),
]
ResourceBytesMax = Annotated[
    int,
    typer.Option(
        envvar="XDS_PROTOCOL__RESOURCE_BYTES_MAX",
        min=64 * 1024,
        max=1024 * 1024 * 1024,
        help="Refuse larger resources, as a server with this protocol.resource_bytes_max does.",
    ),
]
