"""The Python client against the gRPC push API on a real port."""

import asyncio
import re
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import pki
from support import resources as r
from support.freezing_proxy import FreezingProxy
from support.ports import free_port
from support.server import XdsServer
from support.silent_listener import SilentListener
from support.slow_link import SlowLink
from support.waiting import for_a_while_blocking, wait_until

from xds._generated.snapshots_pb2 import EndpointsPushed
from xds.api import grpc_api
from xds.client import (
    About,
    Client,
    ClientError,
    ConflictError,
    EndpointsPush,
    Event,
    GroupChanges,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    RejectedError,
    TokenError,
    TooLargeError,
    UnavailableError,
)
from xds.client.client import CONNECT_S, KEEPALIVE_S
from xds.client.results import json_of
from xds.model.changeset import Changeset
from xds.model.types import CLUSTER, ENDPOINTS, WRAPPER_URL
from xds.publishing.whole import change_of_directory
from xds.schema.ingest import ingest
from xds.schema.show import to_json
from xds.schema.wrapping import as_any
from xds.store import errors as store_errors
from xds.store.entries import Stored
from xds.store.memory import MemoryStore

A, B = r.static_cluster("a", 1), r.static_cluster("b", 1)


async def test_changes_are_made_and_read_back(api_server) -> None:
    async with api_server() as server, server.client() as client:
        made = await client.apply(upsert=[A, B], about=About(message="first", author="ann"))
        assert (made.revision, [tuple(name) for name in made.changed]) == (1, [("clusters", "a"), ("clusters", "b")])
        assert (await client.apply(remove=[("clusters", "b")])).revision == 2
        assert (await client.get("clusters", "a"))["name"] == "a"
        assert [each["name"] for each in (await client.snapshot(revision=1)).resources] == ["a", "b"]
        (gone,) = await client.diff(1, 2)
        assert (tuple(gone.name), gone.before is not None, gone.after) == (("clusters", "b"), True, None)
        history = await client.history()
        assert [(each.revision, each.author, each.message) for each in history] == [(2, "", ""), (1, "ann", "first")]
        assert (await client.rollback(1)).revision == 3
        assert (await client.replace([B])).revision == 4
        assert server.catalog.snapshots["default"].view(CLUSTER).get("a") is None
        assert await client.revision() == 4


async def test_a_ttl_is_kept_when_a_resource_that_was_read_is_applied_again(api_server) -> None:
    expiring = {"@type": WRAPPER_URL, "name": "a", "ttl": "5s", "resource": A}
    async with api_server() as server, server.client() as client:
        await client.apply(upsert=[expiring])
        (kept,) = list(server.catalog.own("default"))
        assert kept.ttl_s == 5
        snapshot = await client.snapshot()
        assert (await client.replace(snapshot.resources)).changed == ()
        assert (await client.apply(upsert=[await client.get("clusters", "a")])).changed == ()
        await client.apply(upsert=[A])
        (difference,) = await client.diff(1, 2)
        assert (difference.before["ttl"], difference.after["name"]) == ("5s", "a")
        watch = client.watch(0)
        first = await anext(watch)
        await watch.aclose()
        assert first.operations[0].set["ttl"] == "5s"


async def test_groups(api_server) -> None:
    async with api_server() as server, server.client() as client:
        await client.put_group("base")
        await client.put_group("canary", extends="base")
        assert [(each.name, each.extends) for each in await client.groups()] == [
            ("base", None),
            ("canary", "base"),
            ("default", None),
        ]
        await client.delete_group("canary")
        with pytest.raises(NotFoundError):
            await client.delete_group("canary")


async def test_rules_are_read_and_replaced(api_server) -> None:
    async with api_server() as server, server.client() as client:
        await client.put_group("web")
        assert await client.rules() == {"groups": {}, "rules": [], "unmatched": "default", "external": []}
        rules = {
            "groups": {"canary": {"extends": "web"}},
            "rules": [{"group": "canary", "match": {"metadata": {"stage": "canary"}, "locality": {"zone": "a"}}}],
            "unmatched": "deny",
            "external": ["clusters/passthrough"],
        }
        await client.put_rules(rules)
        assert await client.rules() == rules
        assert server.catalog.table.rules[0].metadata == {"stage": "canary"}
        with pytest.raises(RejectedError) as rejected:
            await client.put_rules({"rules": [{"group": "none", "match": {}}], "extra": 1})
        assert {problem.field for problem in rejected.value.problems} == {"rules[0].group", "extra"}
        assert await client.rules() == rules


async def test_secrets_are_hidden_unless_they_are_asked_for(api_server) -> None:
    secret = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "s",
        "generic_secret": {"secret": {"inline_string": "hush"}},
    }
    async with api_server() as server, server.client(redact=False) as shown, server.client() as hidden:
        await shown.apply(upsert=[secret])
        assert "hush" in str(await shown.snapshot())
        assert "hush" not in str([await hidden.snapshot(), await hidden.get("secrets", "s"), await hidden.diff(0)])
        with pytest.raises(RejectedError, match="redacted"):
            await shown.replace((await hidden.snapshot()).resources)


async def test_errors_say_what_is_wrong(api_server) -> None:
    async with api_server() as server, server.client() as client:
        with pytest.raises(RejectedError) as rejected:
            await client.apply(upsert=[r.route("r", "none")])
        assert "none" in rejected.value.problems[0].what
        assert rejected.value.problems[0].resource == "routes/r"
        with pytest.raises(RejectedError):
            await client.apply(upsert=[{"@type": A["@type"], "nam": "x"}])
        with pytest.raises(NotFoundError):
            await client.get("clusters", "none")
        with pytest.raises(RejectedError):
            await client.get("klusters", "none")
        await client.apply(upsert=[A])
        with pytest.raises(ConflictError) as conflict:
            await client.apply(upsert=[B], about=About(expected_revision=0))
        assert conflict.value.revision == 1
        with pytest.raises(NotFoundError):
            await client.snapshot(revision=77)
    with pytest.raises(ClientError, match="within"):
        await client.groups()


async def test_many_problems_fit_into_the_answer(api_server) -> None:
    async with api_server() as server, server.client() as client:
        with pytest.raises(RejectedError) as rejected:
            await client.apply(upsert=[r.route(f"route-{number}", "none" * 20) for number in range(1_000)])
        assert 3 < len(rejected.value.problems) < 1_000


async def test_a_server_whose_connections_take_long_to_open_is_reached(api_server) -> None:
    """With a high latency TLS and HTTP/2 take several round trips."""
    async with api_server() as server, SlowLink(server.api.address.port, 0.7) as link:
        await link.wait_ready()
        async with Client(f"127.0.0.1:{link.port}") as client:
            assert (await client.apply(upsert=[A])).revision == 1


async def test_a_connection_that_is_accepted_and_never_answered_leaves_time_for_retries(api_server) -> None:
    async with SilentListener(free_port()) as listener, Client(f"127.0.0.1:{listener.port}", patience_s=60) as client:
        applying = asyncio.create_task(client.apply(upsert=[A]))
        await listener.wait_accepted(2, timeout_s=3 * CONNECT_S)
        await listener.close()
        async with api_server(port=listener.port):
            assert (await asyncio.wait_for(applying, 15)).revision == 1


async def test_a_call_to_a_server_that_freezes_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.client.client.KEEPALIVE_S", 1.0)
    monkeypatch.setattr("xds.client.client.KEEPALIVE_TIMEOUT_S", 1.0)
    async with XdsServer(None, "--store", "memory:") as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=0) as client:
            await client.apply(upsert=[A])
            watch = client.watch(0)
            await anext(watch)
            server.signal(signal.SIGSTOP)
            try:
                async with asyncio.timeout(20):
                    with pytest.raises(OutcomeUnknownError):
                        await client.apply(upsert=[B])
                    with pytest.raises(UnavailableError):
                        await anext(watch)
            finally:
                server.signal(signal.SIGCONT)


async def test_an_idle_watch_may_send_keepalive_pings(api_server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that treats these pings as abuse closes the connection at the fourth."""
    assert grpc_api.PING_INTERVAL_MIN_S <= KEEPALIVE_S / 2
    monkeypatch.setattr("xds.api.grpc_api.PING_INTERVAL_MIN_S", 0.1)
    monkeypatch.setattr("xds.client.client.KEEPALIVE_S", 0.2)
    async with api_server() as server, server.client() as client:
        watch = client.watch(0)
        following = asyncio.ensure_future(anext(watch))
        await asyncio.wait([following], timeout=6)  # gRPC pings once a second at most
        assert (await client.apply(upsert=[A])).revision == 1
        assert (await asyncio.wait_for(following, 10)).revision.revision == 1
        await watch.aclose()


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with Client("127.0.0.1:1", patience_s=0.2) as client:
        with pytest.raises(UnavailableError):
            await client.apply(upsert=[A])


async def test_a_large_body_is_refused(api_server) -> None:
    async with api_server() as server, server.client() as client:
        with pytest.raises(TooLargeError):
            await client.apply(upsert=[r.static_cluster("a", *range(1, 60_000))])


class Forgetful(MemoryStore):
    """Commits entries, but reports an unknown outcome ``times`` times."""

    times = 1

    async def append_all(self, entries, expected_revision):
        revision = await super().append_all(entries, expected_revision)
        if self.times > 0:
            self.times -= 1
            raise store_errors.OutcomeUnknownError(entries[0].id, "the reply was lost")
        return revision


async def test_a_lost_reply_is_settled_by_a_retry_with_the_same_id(api_server) -> None:
    async with api_server(store=Forgetful()) as server, server.client(patience_s=5) as client:
        made = await client.apply(upsert=[A])
        assert (made.revision, made.again) == (1, True)


async def test_an_outcome_that_stays_unknown_is_reported_with_its_id(api_server, monkeypatch) -> None:
    async def lose(*_: object) -> int:
        raise store_errors.OutcomeUnknownError("x", "gone")

    async with api_server() as server, server.client() as client:
        monkeypatch.setattr(server.publisher.store, "append_all", lose)
        with pytest.raises(OutcomeUnknownError) as unknown:
            await client.apply(upsert=[A], about=About(id="x"))
        assert unknown.value.id == "x"
        assert await client.find("x") is None


@pytest.mark.parametrize("patience_s", [0, 1])
async def test_a_connection_that_is_lost_while_a_change_waits_leaves_its_outcome_open(api_server, patience_s) -> None:
    """The store commits the change, and the server is gone before it can reply: all retries fail to connect."""
    kept = asyncio.Event()

    class Slow(MemoryStore):
        async def append_all(self, entries, expected_revision):
            revision = await super().append_all(entries, expected_revision)
            kept.set()
            await asyncio.Event().wait()
            return revision

    async with (
        api_server(store=Slow()) as server,
        FreezingProxy(server.api.address.port) as proxy,
        Client(f"127.0.0.1:{proxy.port}", patience_s=patience_s) as client,
    ):
        applying = asyncio.create_task(client.apply(upsert=[A], about=About(id="x")))
        await kept.wait()
        await proxy.close()
        with pytest.raises(OutcomeUnknownError) as unknown:
            await asyncio.wait_for(applying, 20)
    assert unknown.value.id == "x"


async def test_a_change_that_the_store_refuses_is_known_not_to_be_made(api_server, monkeypatch) -> None:
    async def refuse(*_: object) -> int:
        raise store_errors.UnavailableError("the disk is full")

    async with api_server() as server, server.client() as client:
        monkeypatch.setattr(server.publisher.store, "append_all", refuse)
        with pytest.raises(UnavailableError, match="the disk is full"):
            await client.apply(upsert=[A])


async def test_a_dry_run_never_has_an_unknown_outcome(api_server, monkeypatch) -> None:
    asked = asyncio.Event()

    async def hang(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with api_server() as server, FreezingProxy(server.api.address.port) as proxy:
        monkeypatch.setattr(server.publisher, "publish", hang)
        async with Client(f"127.0.0.1:{proxy.port}", patience_s=0) as client:
            applying = asyncio.create_task(client.apply(upsert=[A], about=About(dry_run=True)))
            await asked.wait()
            await proxy.close()
            with pytest.raises(UnavailableError):
                await asyncio.wait_for(applying, 20)


async def test_a_watch_yields_changes_in_order(api_server) -> None:
    async with api_server() as server, server.client() as client:
        await client.apply(upsert=[A])
        watch = client.watch(0)
        first = await anext(watch)
        assert (first.revision.revision, first.operations[0].set["name"]) == (1, "a")
        waiting = asyncio.create_task(anext(watch))
        await client.apply(remove=[("clusters", "a")])
        second = await asyncio.wait_for(waiting, 5)
        assert [(each.group, tuple(each.name), each.set) for each in second.operations] == [
            ("default", ("clusters", "a"), None)
        ]
        await watch.aclose()
        with pytest.raises(NotFoundError):
            await anext(client.watch(99))


async def test_endpoints_are_pushed_on_one_stream(api_server) -> None:
    async with api_server() as server, server.client() as client:
        names = [f"c{number}" for number in range(10)]
        await client.apply(upsert=[*map(r.cluster, names), *(r.assignment(name, 1) for name in names)])
        async with client.pushing_endpoints() as push:
            pushed = [await push(r.assignment(name, port)) for port in range(2, 52) for name in names]
            wrong = await push(r.static_cluster("a", 1))
        revisions = [future.result() for future in pushed]
        assert revisions == sorted(revisions)
        assert len(set(revisions)) < len(pushed), "they are merged"
        with pytest.raises(RejectedError):
            wrong.result()
        view = server.catalog.snapshots["default"].view(ENDPOINTS)
        last = {each["cluster_name"]: each for each in (await client.snapshot(type="endpoints")).resources}
        assert all(b'"' not in view.get(name).encoded for name in names)
        assert all(
            last[name]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] == 51
            for name in names
        )


class Passing(grpc.aio.StreamStreamClientInterceptor):
    """Passes calls on as they are, or with their responses in an iterator of its own, as tracers do."""

    def __init__(self, *, wraps: bool) -> None:
        self._wraps = wraps

    async def intercept_stream_stream(self, continuation, client_call_details, request_iterator):
        call = await continuation(client_call_details, request_iterator)
        return self._each(call) if self._wraps else call

    async def _each(self, call):
        async for response in call:
            yield response


async def push_for_good(push: EndpointsPush) -> None:
    while True:
        await (await push(r.assignment("a", 8)))


@pytest.mark.parametrize("wraps", [False, True])
async def test_endpoints_are_pushed_through_the_interceptors_of_others(
    api_server, monkeypatch: pytest.MonkeyPatch, wraps: bool
) -> None:
    """Such as OpenTelemetry's, which puts them into each channel that is made."""

    def intercepted(*arguments: Any, **options: Any) -> grpc.aio.Channel:
        return real(*arguments, **options, interceptors=[Passing(wraps=wraps)])

    real = grpc.aio.insecure_channel
    monkeypatch.setattr(grpc.aio, "insecure_channel", intercepted)
    async with asyncio.timeout(30), api_server() as server, server.client() as client:
        await client.apply(upsert=PUSHED_TO)
        async with client.pushing_endpoints() as push:
            pushed = [await push(r.assignment("a", port)) for port in range(1, 500)]
            wrong = await push(r.static_cluster("a", 1))
        revisions = [await future for future in pushed]
        assert revisions == sorted(revisions)
        assert revisions[-1] == server.catalog.revision
        with pytest.raises(RejectedError):
            wrong.result()
        async with pushing(client) as (push, errors):
            assert await (await push(r.assignment("a", 7))) == server.catalog.revision
            await server.api.stop()
            with pytest.raises(ClientError):
                await push_for_good(push)
        assert [type(each) for each in errors] in ([UnavailableError], [OutcomeUnknownError])


class Stuck(MemoryStore):
    """Does not answer appends while ``stuck`` is set."""

    stuck = False

    async def append_all(self, entries, expected_revision: int) -> int:
        if self.stuck:
            await asyncio.Event().wait()
        return await super().append_all(entries, expected_revision)


async def test_pushes_that_are_not_answered_fail_when_the_stream_breaks_and_later_ones_at_once(api_server) -> None:
    store = Stuck()

    async def push_all(server, push) -> None:
        assert await (await push(r.assignment("a", 2))) == 2
        store.stuck = True
        pushed = [await push(r.assignment("a", port)) for port in range(3, 600)]
        await server.api.stop()
        async with asyncio.timeout(5):
            for future in pushed:
                with pytest.raises(ClientError):
                    await future
            await push(r.assignment("a", 1))

    async with api_server(store=store) as server, server.client() as client:
        await client.apply(upsert=[r.cluster("a"), r.assignment("a", 1)])
        pushing = client.pushing_endpoints()
        push = await pushing.__aenter__()
        with pytest.raises(ClientError):
            await push_all(server, push)
        with pytest.raises(ClientError):
            await pushing.__aexit__(None, None, None)


PUSHED_TO = [r.cluster("a"), r.assignment("a", 9)]


class Halting(MemoryStore):
    """Waits before, or after, it keeps what it is given from now on, and then may refuse it."""

    def __init__(self) -> None:
        super().__init__()
        self.halts_before = self.halts_after = False
        self.halted, self.goes_on = asyncio.Event(), asyncio.Event()
        self.refusals: list[Exception] = []

    async def _halt(self) -> None:
        self.halted.set()
        await self.goes_on.wait()

    async def append_all(self, entries, expected_revision: int) -> int:
        if self.halts_before:
            await self._halt()
        if self.refusals:
            raise self.refusals.pop(0)
        revision = await super().append_all(entries, expected_revision)
        if self.halts_after:
            await self._halt()
        return revision

    async def watch(self, after: int) -> AsyncIterator[Stored]:
        async for stored in super().watch(after):
            if self.halts_after:
                await self.goes_on.wait()
            yield stored


@asynccontextmanager
async def pushing(client: Client) -> AsyncIterator[tuple[EndpointsPush, list[Exception]]]:
    """Push endpoints of a cluster, and note what the end of the stream raises."""
    errors: list[Exception] = []
    try:
        async with client.pushing_endpoints() as push:
            yield push, errors
    except ClientError as error:
        errors.append(error)


async def errors_of(pushed: list["asyncio.Future[int]"]) -> list[type[Exception]]:
    async with asyncio.timeout(10):
        return [type(each) for each in await asyncio.gather(*pushed, return_exceptions=True)]


async def test_endpoints_whose_answer_is_lost_with_the_connection_are_not_said_to_be_refused(api_server) -> None:
    """The store has kept the first, and may keep the second; the third was never sent."""
    store = Halting()
    async with (
        api_server(store=store) as server,
        FreezingProxy(server.api.address.port) as proxy,
        Client(f"127.0.0.1:{proxy.port}") as client,
    ):
        await client.apply(upsert=PUSHED_TO)
        store.halts_after = True
        async with pushing(client) as (push, end):
            pushed = [await push(r.assignment("a", 1))]
            await store.halted.wait()
            pushed.append(await push(r.assignment("a", 2)))
            await wait_until(lambda: len(push._stream._sent), equals=2)
            pushed.append(await push(r.assignment("a", 3)))
            await proxy.close()
            assert await errors_of(pushed) == [OutcomeUnknownError, OutcomeUnknownError, UnavailableError]
            with pytest.raises(OutcomeUnknownError):
                await push(r.assignment("a", 4))
        assert [type(each) for each in end] == [OutcomeUnknownError]
        assert await store.newest() == 2, "the first was kept"


async def test_endpoints_that_find_no_server_are_known_not_to_be_set() -> None:
    async with Client("127.0.0.1:1") as client:
        async with pushing(client) as (push, end):
            pushed = [await push(r.assignment("a", port)) for port in (1, 2, 3)]
            assert await errors_of(pushed) == [UnavailableError] * 3
        assert [type(each) for each in end] == [UnavailableError]


async def test_endpoints_that_the_server_refuses_are_known_not_to_be_set(api_server) -> None:
    store = Halting()
    async with api_server(store=store) as server, server.client() as client:
        await client.apply(upsert=PUSHED_TO)
        store.halts_before, store.refusals = True, [store_errors.UnavailableError("the disk is full")] * 2
        async with pushing(client) as (push, end):
            pushed = [await push(r.assignment("a", 1))]
            await store.halted.wait()
            pushed.append(await push(r.assignment("a", 2)))
            await wait_until(server.publisher._waiting.qsize)
            store.goes_on.set()
            assert await errors_of(pushed) == [UnavailableError, UnavailableError]
        assert [(type(each), str(each)) for each in end] == [(UnavailableError, "the disk is full")]
        assert await store.newest() == 1


async def test_endpoints_after_those_that_the_server_refuses_may_be_set(api_server) -> None:
    store = Halting()
    async with api_server(store=store) as server, server.client() as client:
        await client.apply(upsert=PUSHED_TO)
        store.halts_before, store.refusals = True, [store_errors.UnavailableError("the disk is full")]
        async with pushing(client) as (push, end):
            pushed = [await push(r.assignment("a", 1))]
            await store.halted.wait()
            pushed.append(await push(r.assignment("a", 2)))
            await wait_until(server.publisher._waiting.qsize)
            store.goes_on.set()
            assert await errors_of(pushed) == [OutcomeUnknownError, OutcomeUnknownError]
        assert [type(each) for each in end] == [OutcomeUnknownError]
        assert "the disk is full" in str(end[0])
        assert await store.newest() == 2, "the second was kept"


async def test_endpoints_of_which_the_store_does_not_know_whether_it_kept_them_may_be_set(api_server) -> None:
    async with api_server(store=Forgetful()) as server, server.client() as client:
        server.publisher.store.times = 0
        await client.apply(upsert=PUSHED_TO)
        server.publisher.store.times = 1
        async with pushing(client) as (push, end):
            assert await errors_of([await push(r.assignment("a", 1))]) == [OutcomeUnknownError]
        assert [type(each) for each in end] == [OutcomeUnknownError]


async def test_a_long_token_is_taken_each_time(api_server, tmp_path) -> None:
    """gRPC would refuse more than 8 KiB of headers at random."""
    long = "s" * 15_000
    (tmp_path / "token").write_text(long)
    async with api_server(token=tmp_path / "token") as server, server.client(token=long) as client:
        assert [len(await client.groups()) for _ in range(10)] == [1] * 10


class Closing(grpc.GenericRpcHandler):
    """A push API in threads of its own, which refuses a stream after its first message, when it is told to."""

    def __init__(self) -> None:
        self.may_end, self.has_ended = threading.Event(), threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=(self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self.serve)

    def serve(self, requests: Any, context: Any) -> Any:
        next(requests)
        yield EndpointsPushed(revision=1).SerializeToString()
        self.may_end.wait(10)
        context.set_trailing_metadata((("xds-answered", "1"),))
        context.add_callback(self.has_ended.set)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token was revoked")


async def test_endpoints_that_are_sent_as_the_server_ends_the_stream_have_its_reason() -> None:
    """The event loop comes to know of the end only after it has sent them."""
    closing = Closing()
    closing.server.start()
    async with Client(f"127.0.0.1:{closing.port}") as client, pushing(client) as (push, end):
        assert await (await push(r.assignment("a", 1))) == 1

        class Sent(deque[Any]):
            def append(self, sent: Any) -> None:
                """Note what is sent next, once the stream has ended."""
                super().append(sent)
                closing.may_end.set()
                assert closing.has_ended.wait(10)
                for_a_while_blocking(0.1, "the status comes to the client while its loop stands still")

        push._stream._sent = Sent()
        pushed = await push(r.assignment("a", 2))
        with pytest.raises(RefusedError, match="the token was revoked"):
            await pushed
    closing.server.stop(None).wait()
    assert [(type(each), str(each)) for each in end] == [(RefusedError, "the token was revoked")]


async def test_endpoints_of_a_directory_or_without_a_token_or_too_large_are_refused(api_server, tmp_path) -> None:
    async with api_server() as server, server.client() as client:
        directory = Changeset(upserts={"default": tuple(map(ingest, PUSHED_TO))}, replace=True)
        await server.publisher.publish(change_of_directory(directory))
        async with pushing(client) as (push, end):
            assert await errors_of([await push(r.assignment("a", 1))]) == [RefusedError]
        assert [type(each) for each in end] == [RefusedError]
    (tmp_path / "token").write_text("s3cret")
    async with api_server(token=tmp_path / "token") as server, server.client(token="wrong") as client:
        async with pushing(client) as (push, end):
            assert await errors_of([await push(r.assignment("a", port)) for port in (1, 2)]) == [RefusedError] * 2
        assert [type(each) for each in end] == [RefusedError]
    async with api_server() as server, server.client() as client:
        async with pushing(client) as (push, end):
            assert await errors_of([await push(r.assignment("a", *range(1, 60_000)))]) == [TooLargeError]
        assert [type(each) for each in end] == [TooLargeError]


@pytest.mark.parametrize("address", ["xds.example:18001", "10.0.0.1:18001", "dns:///localhost:1", "[2001:db8::1]:1"])
def test_a_token_is_not_sent_to_another_machine_in_clear(address: str, tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=re.escape(f"in clear to {address}; give the CAs")):
        Client(address, token="s3cret")
    Client(address)
    Client(address, token="s3cret", tls_ca=tmp_path / "ca.pem")


@pytest.mark.parametrize("token", ["s3cret\n", "s\u00e9cret", "\u043a", "a\x00"])
def test_a_token_that_is_not_valid_in_a_header_is_refused(token: str) -> None:
    with pytest.raises(TokenError, match="characters that a header can't have"):
        Client("127.0.0.1:18001", token=token)


async def test_no_proxy_of_the_environment_is_given_a_token_in_clear(
    api_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("s3cret")
    seen = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as proxy:
        for name in ("http_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with api_server(token=tmp_path / "token") as server, server.client(token="s3cret") as client:
            assert [group.name for group in await client.groups()] == ["default"]
    assert seen == []


async def test_a_token_and_tls(api_server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    authority = pki.Authority(tmp_path)
    pair = authority.issue("server", ips=["127.0.0.1"])
    async with api_server(token=token, tls=(pair.cert_path, pair.key_path)) as server:
        async with server.client(token="s3cret", tls_ca=authority.cert_path) as client:
            assert (await client.apply(upsert=[A])).revision == 1
        async with server.client(token="wrong", tls_ca=authority.cert_path) as client:
            with pytest.raises(RefusedError):
                await client.groups()
            with pytest.raises(RefusedError):
                await anext(client.watch(0))


async def test_groups_and_rules_are_changed_at_the_revision_that_was_read(api_server) -> None:
    async with api_server() as server, server.client() as client:
        await client.put_group("web", about=About(message="a group"))
        at, rules = await client.rules_at()
        assert (at, (await client.history())[0].message) == (1, "a group")
        parts = {"groups": {"web": {"extends": "default"}}, "external": ["clusters/x"]}
        await client.apply_groups({}, rules=parts, about=About(expected_revision=at))
        for change in (
            client.put_rules(rules | {"external": []}, about=About(expected_revision=at)),
            client.update_rules({"external": []}, about=About(expected_revision=at)),
            client.put_group("web", about=About(expected_revision=at)),
            client.delete_group("web", about=About(expected_revision=at)),
            client.replace([], group="web", about=About(expected_revision=at)),
        ):
            with pytest.raises(ConflictError) as refused:
                await change
            assert refused.value.revision == 2
        await client.rollback(0, about=About(expected_revision=at))
        await client.update_rules({"groups": {"web": {"extends": "default"}}, "add_external": ["clusters/y"]})
        assert await client.rules() == {
            "groups": {"web": {"extends": "default"}},
            "rules": [],
            "unmatched": "default",
            "external": ["clusters/x", "clusters/y"],
        }


async def test_several_groups_and_rules_are_one_change_with_what_it_did(api_server) -> None:
    """Resources may refer to others that come with it; what can't be made leaves nothing."""
    async with api_server() as server, server.client() as client:
        await client.apply(upsert=[r.static_cluster("old", 1)], group="base")
        groups = {
            "base": GroupChanges(upsert=[r.static_cluster("a", 1)], remove=[("cds", "old")]),
            "web": GroupChanges(upsert=[r.route("r", "a")]),
        }
        rules = {"groups": {"web": {"extends": "base"}}, "rules": [{"group": "web", "match": {"cluster": "w"}}]}
        dry = await client.apply_groups(groups, rules=rules, about=About(dry_run=True, existing_groups_only=True))
        made = await client.apply_groups(groups, rules=rules, about=About(existing_groups_only=True))
        assert (made.revision, made.rules_changed) == (2, True)
        assert set(made.resources) == {
            ("base", ("clusters", "a"), "added"),
            ("base", ("clusters", "old"), "removed"),
            ("web", ("routes", "r"), "added"),
        }
        assert (dry.resources, dry.rules_changed) == (made.resources, True)
        with pytest.raises(RejectedError, match="r"):
            await client.apply_groups({"base": GroupChanges(replace=True)})
        with pytest.raises(NotFoundError, match="there is no group 'wob': did you mean 'web'"):
            await client.apply(upsert=[r.static_cluster("b", 1)], group="wob", about=About(existing_groups_only=True))
        details = await client.show(2)
        assert [(each.group, each.name.name, each.change) for each in details.differences] == [
            ("base", "a", "added"),
            ("base", "old", "removed"),
            ("web", "r", "added"),
        ]
        assert (details.rules_before, details.rules_after) == (
            {"groups": {}, "rules": [], "unmatched": "default", "external": []},
            await client.rules(),
        )
        assert [each.revision for each in await client.history(group="web")] == [2]
        assert (await client.history(limit=1))[0].groups == (("base", 1, 0, 1), ("web", 1, 0, 0))
        listed = await client.list_resources("base", type="cluster", prefix="a")
        assert [each.name for each in listed.resources] == [("clusters", "a")]
        (event,) = [event async for event in _first(client.watch(1), 1)]
        assert {(each.name.name, each.change) for each in event.operations} == {
            ("a", "added"),
            ("old", "removed"),
            ("r", "added"),
        }


async def _first(events: AsyncIterator[Event], number: int) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        number -= 1
        if not number:
            return


@pytest.mark.parametrize(
    "resource",
    [
        r.static_cluster("a", 1),
        r.assignment("a", 1, 2),
        r.listener("l", 1, "main"),
        {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "s"}
        | {"generic_secret": {"secret": {"inline_string": "[redacted]"}}},
        r.runtime("r", {"a": 1.5, "b": {"c": [True, None]}}),
        {"@type": "type.googleapis.com/envoy.service.discovery.v3.Resource", "name": "a", "ttl": "30s"}
        | {"resource": r.static_cluster("a", 1)},
    ],
    ids=lambda resource: resource["@type"].rpartition(".")[2],
)
def test_a_resource_is_read_as_the_server_has_it_without_being_checked_again(resource: dict[str, Any]) -> None:
    checked = ingest(resource, allow_redacted=True)
    assert json_of(as_any(checked)) == to_json(checked)
