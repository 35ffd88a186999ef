"""Settings for replicas that share an etcd: how they find and ask each other."""

import re
import socket
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from xds.address import Address
from xds.setting_types import FilePath, why_unreadable

NAME = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"


def _advertised(value: Any) -> Any:
    if value is False:  # YAML 1.1 reads a bare `off` as false
        return "off"
    if not isinstance(value, str) or value in ("auto", "off"):
        return value
    address = Address.parse(value)
    if address.is_unix or not address.port:
        raise ValueError(f"{value!r} is not HOST:PORT, at which other replicas could reach this one")
    if address.reachable != address:
        raise ValueError(f"{value!r} stands for every interface of a machine; write the one that other replicas reach")
    return str(address)


def _name(value: Any) -> Any:
    if value and not (isinstance(value, str) and re.fullmatch(NAME, value)):
        raise ValueError(f"{value!r} is no name: write up to 128 letters, digits and . _ : @ -, as xds-1")
    return value


Advertised = Annotated[str, BeforeValidator(_advertised)]


class ReplicaSettings(BaseModel):
    """How replicas that share an etcd answer for the whole fleet. With another store there is one replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    advertise: Advertised = "auto"
    """HOST:PORT at which other replicas reach this one's gRPC push API, or off: neither asked nor asking.
    Default (auto): api.listen; where that stands for every interface, the IP address from which etcd is reached."""
    name: Annotated[str, BeforeValidator(_name)] = ""
    """The name of this replica in answers and logs. Default: the host's name."""
    token_file: FilePath | None = None
    """A file with the token shown to other replicas, which must be one that may read all. Default: api.token_file."""
    ca: FilePath | None = None
    """PEM file of the CAs that sign the other replicas' certificates (api.tls_cert). Default: the system's CAs."""
    cert: FilePath | None = None
    """PEM file of the client certificate shown to other replicas, if they ask for one (api.tls_client_ca)."""
    key: FilePath | None = None
    """PEM file of that certificate's private key, unencrypted."""
    timeout_s: Annotated[float, Field(ge=0.05, le=60, allow_inf_nan=False)] = 1.0
    """How long another replica may take to answer; then it is named as missing."""
    forget_after_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 300.0
    """How long a replica that has vanished without saying so is still named as missing."""

    @property
    def own_name(self) -> str:
        """The name of this replica: the one that is set, or the host's."""
        return self.name or socket.gethostname()


def replica_problems(replicas: ReplicaSettings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with the settings together, and with the files that they name."""
    for name in ("token_file", "ca", "cert", "key"):
        path = getattr(replicas, name)
        if path is not None and (wrong := why_unreadable(path)):
            yield ("replicas", name), f"{str(path)!r} {wrong}"
    if (replicas.cert is None) is not (replicas.key is None):
        given, other = ("cert", "key") if replicas.key is None else ("key", "cert")
        yield ("replicas", given), f"is given without replicas.{other}, which it needs"
