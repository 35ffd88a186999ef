"""``xds serve`` of a revision with the workload of the comparison, and a port whose GET pushes one change to it."""

import asyncio
import contextlib
import http.client
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

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
    with pushed_to(revision, resources, workers=workers) as (server, pusher):
        yield replace(server, admin_port=pusher.port)


@contextlib.contextmanager
def pushed_to(revision: Revision, resources: Resources, *, workers: int) -> Iterator[tuple[Running, "Pusher"]]:
    """Run ``xds serve`` likewise, with what pushes a change of the workload to it. Raises ServerFailedError."""
    port, admin_port = free_ports(2)
    where = [f"--listen=127.0.0.1:{port}", f"--admin=127.0.0.1:{admin_port}", "--api=off", "--store=memory:"]
    argv = [sys.executable, "-P", "-c", START, "serve", *where, f"--workers={workers}"]
    with started(revision.name, argv, revision.environment, is_ready=lambda _: _is_ready(admin_port)) as process:
        workload = Workload(clusters=resources.clusters, routes=resources.routes, endpoints=resources.endpoints)
        _put(admin_port, "snapshot", {"resources": [as_json(resource) for resource in workload.initial()]})
        asyncio.run(wait_calm(ProcessTree([process.pid])))  # until the workers have it too
        kind = Kind(revision.name, "ours", "native", workers)
        server = Running(kind, process.pid, port, admin_port, shown(argv, revision.environment))
        with Pusher(admin_port, workload) as pusher:
            yield server, pusher


def as_json(resource: Any) -> dict[str, Any]:
    """Return a resource of the workload, a dict or an assignment, as the REST API takes it."""
    if isinstance(resource, dict):
        return resource
    return {"@type": ASSIGNMENT, **MessageToDict(resource, preserving_proto_field_name=True)}


class Pusher:
    """Answers GET /push once the next change of the workload was put, on a port of its own, from a thread."""

    def __init__(self, admin_port: int, workload: Workload) -> None:
        pusher = self

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

        self._admin_port, self._workload = admin_port, workload
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def push(self) -> None:
        """Put the next change. Raises ServerFailedError."""
        change = self._workload.next_change()
        _put(self._admin_port, f"resources/endpoints/{change.cluster_name}", as_json(change))

    def __enter__(self) -> "Pusher":
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
