"""``xds serve`` of a revision with the workload of the comparison, and a port whose GET pushes one change to it."""

import asyncio
import contextlib
import http.client
import json
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict

from bench.compare.servers import (
    Kind,
    Resources,
    Running,
    ServerFailedError,
    free_ports,
    shown,
    started,
)
from bench.in_turns.revisions import Revision
from bench.serve import TYPE, Workload
from xds.client import Client, ClientError
from xds.fleet.calm import wait_calm
from xds.fleet.processes import ProcessTree

PUT_TIMEOUT_S = 60
ASSIGNMENT = TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
START = "from xds.cli.main import main; main()"


@contextlib.contextmanager
def serving(revision: Revision, resources: Resources, *, workers: int) -> Iterator[Running]:
    """Run ``xds serve`` of a revision, all settings the defaults but for ports, store and workers.

    Changes come by its REST API, so the server's own process does with them all that it does for anybody. What makes
    them runs in this process, which counts for nothing. Raises ServerFailedError.
    """
    with pushed_to(revision, resources, workers=workers) as (server, pusher), Trigger(pusher) as trigger:
        yield replace(server, admin_port=trigger.port)


@contextlib.contextmanager
def pushed_to(
    revision: Revision, resources: Resources, *, workers: int, grpc: bool = False
) -> Iterator[tuple[Running, "Pusher"]]:
    """Run ``xds serve`` likewise, with what pushes a change of the workload to it. Raises ServerFailedError.

    ``grpc``: changes come by the push API, and are kept in a SQLite file; else by REST, and in memory.
    """
    port, admin_port, api_port = free_ports(3)
    with contextlib.ExitStack() as stack:
        api, store = "off", "memory:"
        if grpc:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            api, store = f"127.0.0.1:{api_port}", f"sqlite://{directory}/store"
        where = [f"--listen=127.0.0.1:{port}", f"--admin=127.0.0.1:{admin_port}", f"--api={api}", f"--store={store}"]
        argv = [sys.executable, "-P", "-c", START, "serve", *where, f"--workers={workers}"]
        run = started(revision.name, argv, revision.environment, is_ready=lambda _: _is_ready(admin_port))
        process = stack.enter_context(run)
        workload = Workload(clusters=resources.clusters, routes=resources.routes, endpoints=resources.endpoints)
        _put(admin_port, "snapshot", {"resources": [as_json(resource) for resource in workload.initial()]})
        asyncio.run(wait_calm(ProcessTree([process.pid])))  # until the workers have it too
        kind = Kind(revision.name, "ours", "native", workers)
        server = Running(kind, process.pid, port, admin_port, shown(argv, revision.environment))
        if grpc:
            yield server, stack.enter_context(GrpcPusher(api_port, workload))
        else:
            yield server, RestPusher(admin_port, workload)


def as_json(resource: Any) -> dict[str, Any]:
    """Return a resource of the workload, a dict or an assignment, as the REST API takes it."""
    if isinstance(resource, dict):
        return resource
    return {"@type": ASSIGNMENT, **MessageToDict(resource, preserving_proto_field_name=True)}


class Pusher(Protocol):
    """Makes one change of the workload after the other."""

    def push(self) -> None:
        """Make the next change; return once it is served. Raises ServerFailedError."""


class RestPusher:
    """Puts changes by the REST API, each on a connection of its own."""

    def __init__(self, admin_port: int, workload: Workload) -> None:
        self._admin_port, self._workload = admin_port, workload

    def push(self) -> None:
        """Put the next change. Raises ServerFailedError."""
        change = self._workload.next_change()
        _put(self._admin_port, f"resources/endpoints/{change.cluster_name}", as_json(change))


class GrpcPusher:
    """Applies changes by the push API, on one connection, by the client of this source tree."""

    def __init__(self, api_port: int, workload: Workload) -> None:
        self._address, self._workload = f"127.0.0.1:{api_port}", workload
        self._runner = asyncio.Runner()

    def push(self) -> None:
        """Apply the next change. Raises ServerFailedError."""
        change = as_json(self._workload.next_change())
        try:
            self._runner.run(self._client.apply(upsert=[change]))
        except ClientError as error:
            raise ServerFailedError(f"the change of {change['cluster_name']}: {error}") from None

    def __enter__(self) -> "GrpcPusher":
        self._client = self._runner.run(self._connected())
        return self

    async def _connected(self) -> Client:
        return await Client(self._address).__aenter__()

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()


class Trigger:
    """Answers GET /push once the next change was pushed, on a port of its own, from a thread."""

    def __init__(self, pusher: Pusher) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/push":
                    self.send_error(404)
                    return
                try:
                    pusher.push()
                except ServerFailedError as error:
                    self.send_error(502, explain=str(error))
                    return
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: a push is no news."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> "Trigger":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _put(admin_port: int, path: str, document: dict[str, Any]) -> None:
    """Put JSON into the group ``default``. Raises ServerFailedError with what was answered instead of 200."""
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=PUT_TIMEOUT_S)
    try:
        headers = {"content-type": "application/json"}
        connection.request("PUT", f"/v1/groups/default/{path}", json.dumps(document), headers)
        answer = connection.getresponse()
        said = answer.read()
    except OSError as error:
        raise ServerFailedError(f"PUT {path}: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise ServerFailedError(f"PUT {path} was answered with {answer.status}: {said[:500]!r}")


def _is_ready(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False
