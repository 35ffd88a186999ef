"""Large bodies: the limits on their number, content and duration, and the memory that remains after them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio
from support import resources as r
from support.fetch import fetch
from support.server import XdsServer
from support.waiting import turns, wait_until

from xds._generated import snapshots_pb2 as pb
from xds.api.guard import TOLD, Told
from xds.api.intake import BusyError, Intake
from xds.api.rest_intake import TakingIn
from xds.schema.ingest import ingest

MIB = 1024 * 1024
SERVICE = "/xds_control_plane.api.v1.Snapshots/"
BODY_MAX = 16 * MIB
AT_ONCE = 6


def memory_bytes(server: XdsServer, what: str) -> int:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def large_server(*settings: str) -> XdsServer:
    options = ["--workers", "0", "--set", f"api.body_bytes_max={BODY_MAX}", "--set", f"api.intake_bytes_max={BODY_MAX}"]
    for each in settings:
        options += ["--set", each]
    return XdsServer(None, *options)


# --- The intake by itself --------------------------------------------------------------------------------------------


async def test_bodies_have_their_turn_in_order_and_what_is_given_back_goes_to_those_who_wait() -> None:
    emptied = []
    intake, done = Intake(10 * MIB, on_empty=lambda: emptied.append(True)), []

    async def take(name: str, size: int) -> None:
        async with intake.room(size * MIB):
            done.append(name)
            await turns()

    async with intake.room(8 * MIB) as first:
        waiting = [asyncio.create_task(take(name, size)) for name, size in (("a", 9), ("b", 1), ("c", 2))]
        await turns(2)
        assert done == [], "b would have room, but a was first"
        first.shrink(1 * MIB)
        await asyncio.wait(waiting)
    assert done == ["a", "b", "c"]
    await turns()
    assert emptied == [True]


async def test_who_waits_too_long_is_sent_away_and_takes_no_room() -> None:
    intake = Intake(10, wait_s=0.0)
    async with intake.room(10):
        with pytest.raises(BusyError, match="intake_bytes_max"):
            await intake.take(1)
        leaving = asyncio.create_task(intake.take(5))
        await turns()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    async with intake.room(10):
        pass


async def test_who_is_called_and_leaves_in_the_same_moment_takes_no_room() -> None:
    intake = Intake(10)
    first = await intake.take(10)
    second = asyncio.create_task(intake.take(10))
    await turns()
    first.give_back()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    (await intake.take(10)).give_back()


async def test_a_caller_that_sends_nothing_leaves_room_for_others() -> None:
    intake, done = Intake(10, wait_s=5.0), []

    async def take(caller: str, size: int) -> None:
        room = await intake.take(size, caller)
        done.append(caller)
        room.shrink(0)

    silent = [await intake.take(5, "silent")]
    more = [asyncio.create_task(intake.take(5, "silent")) for _ in range(20)]
    await turns()
    waiting = [asyncio.create_task(take(caller, 5)) for caller in ("a", "b", "a")]
    await asyncio.wait(waiting)
    assert (done, [each.done() for each in more]) == (["a", "b", "a"], [False] * 20)
    silent[0].arrived()
    await turns(2)
    assert sum(each.done() for each in more) == 1
    silent[0].give_back()
    for each in more[1:]:
        each.cancel()
    await asyncio.gather(*more[1:], return_exceptions=True)
    (await more[0]).give_back()
    assert (intake._held_bytes, intake._arriving, intake._waiting) == (0, {}, {})


async def test_callers_have_their_turns_one_after_the_other() -> None:
    intake, done = Intake(10), []

    async def take(caller: str) -> None:
        room = await intake.take(10, caller)
        done.append(caller)
        room.give_back()

    first = await intake.take(10, "a")
    waiting = [asyncio.create_task(take(caller)) for caller in "aaabc"]
    await turns()
    first.give_back()
    await asyncio.wait(waiting)
    assert done == ["a", "b", "c", "a", "a"]


async def test_a_busy_server_says_so_and_when_to_come_back() -> None:
    async def never(*_: Any) -> None:
        raise AssertionError("the application is not to see it")

    intake = Intake(MIB, wait_s=0.0)
    app = TakingIn(never, intake, body_bytes_max=MIB, body_timeout_s=1)

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        scope[TOLD] = told
        await app(scope, receive, send)

    told = Told()
    transport = httpx.ASGITransport(app=guarded)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api, intake.room(MIB):
        answer = await api.post("/", content=b"x" * MIB)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "try again" in answer.json()["error"]
    assert told.why == answer.json()["error"]


# --- On a running server ---------------------------------------------------------------------------------------------


def large_change() -> pb.Changeset:
    """Return a change of 15 MiB that is validated but not stored, so that no memory remains in use."""
    change = pb.Changeset(group="default", about=pb.About(dry_run=True))
    for name in range(4):
        padding = {"metadata": {"filter_metadata": {"padding": {"text": "x" * (15 * MIB // 4)}}}}
        change.upsert.append(AnyMessage.FromString(ingest(r.static_cluster(f"c{name}", 1) | padding).body))
    return change


async def over_grpc(server: XdsServer, data: bytes) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"127.0.0.1:{server.api_port}", options=options) as channel:
        await channel.unary_unary(SERVICE + "Apply")(data)


async def over_rest(server: XdsServer, data: bytes, kind: str = "application/x-protobuf") -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", timeout=120) as api:
        answer = await api.post("/v1/groups/default/changesets", content=data, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text


async def over_rest_in_chunks(server: XdsServer, data: bytes) -> None:
    async def parts() -> Any:
        for at in range(0, len(data), MIB):
            yield data[at : at + MIB]

    await over_rest(server, parts())  # type: ignore[arg-type]


@pytest.mark.parametrize("send", [over_grpc, over_rest, over_rest_in_chunks])
async def test_large_bodies_at_once_cost_what_one_does_and_leave_nothing(
    send: Callable[[XdsServer, bytes], Awaitable[None]],
) -> None:
    data = large_change().SerializeToString()
    async with large_server() as server:
        await server.wait_ready()
        await send(server, data)
        before, one = memory_bytes(server, "VmRSS"), memory_bytes(server, "VmHWM")
        await asyncio.gather(*(send(server, data) for _ in range(AT_ONCE)))
        # All at once would take 12 bodies more than one alone; in turns it is one or two, freed when the next begins.
        assert memory_bytes(server, "VmHWM") - one < 4 * len(data)
        await server.wait_for(
            lambda: memory_bytes(server, "VmRSS"),
            lambda now: now < before * 1.1,
            otherwise=f"keeps memory, of {before} bytes before",
            timeout_s=10,
        )


async def test_a_body_that_waits_for_the_rest_of_another_holds_up_nothing_that_is_small() -> None:
    async with large_server() as server:
        await server.wait_ready()
        _, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
        head = "PUT /v1/groups/default/snapshot HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {BODY_MAX}\r\n\r\n".encode() + b"x")
        await writer.drain()
        data = large_change().SerializeToString()
        assert (await fetch(server.admin_port, "/v1/groups")).status == 200
        waiting = [asyncio.create_task(send(server, data)) for send in (over_grpc, over_rest)]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}") as api:
            answer = await api.post("/v1/groups/default/changesets", json={"upsert": [r.static_cluster("a", 1)]})
            assert answer.status_code == 200
        async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
            await channel.unary_unary(SERVICE + "ListGroups")(b"")
        assert not any(task.done() for task in waiting)
        writer.transport.abort()
        await asyncio.gather(*waiting)


async def test_a_body_that_does_not_come_in_time_is_given_up() -> None:
    async with large_server("api.body_timeout_s=1") as server:
        await server.wait_ready()
        for framing in ("content-length: 10", f"content-length: {MIB}", "transfer-encoding: chunked"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
            head = "PUT /v1/groups/default/snapshot HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}{framing}\r\n\r\n".encode())
            said = await reader.read(-1)
            assert said.startswith(b"HTTP/1.1 408 "), said
            assert b"more than 1 s to arrive" in said
            writer.close()
        async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
            for method in ("Apply", "ListGroups"):
                call = channel.stream_unary(SERVICE + method)()
                with pytest.raises(aio.AioRpcError, match="more than 1 s to arrive") as late:
                    await call
                assert late.value.code() is grpc.StatusCode.UNAVAILABLE
            call = channel.stream_unary(SERVICE + "Apply")()
            await call.done_writing()
            with pytest.raises(aio.AioRpcError, match="no message"):
                await call
        others = [event for event in server.events() if event["event"] != "applied"]
        assert others[-1]["event"] == "serving", "nothing is logged"


async def test_what_protobuf_and_json_would_blow_up_is_refused_before_they_do() -> None:
    empties = b"\x12\x00" * (BODY_MAX // 2 - 8)
    pushes = b"\x12\x00" * (BODY_MAX // 2 - 8)
    async with large_server() as server:
        await server.wait_ready()
        before = memory_bytes(server, "VmHWM")
        async with aio.insecure_channel(f"127.0.0.1:{server.api_port}") as channel:
            for method in ("Apply", "Replace"):
                with pytest.raises(aio.AioRpcError, match="more than 250,000 parts"):
                    await channel.unary_unary(SERVICE + method)(empties)
            pushing = channel.stream_stream(SERVICE + "PushEndpoints")()
            await pushing.write(pushes)
            answer = pb.EndpointsPushed.FromString(await pushing.read())
            assert "more than 250,000 parts" in answer.rejected.problems[0].what
            pushing.cancel()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", timeout=60) as api:
            for kind, body in (
                ("application/x-protobuf", empties),
                ("application/json", b'{"upsert": [' + b"{}," * (BODY_MAX // 3 - 8) + b"{}]}"),
                ("application/json", b'{"upsert": [{"a": [' + b"[]," * (BODY_MAX // 3 - 16) + b"[]]}]}"),
            ):
                answer = await api.post("/v1/groups/default/changesets", content=body, headers={"content-type": kind})
                assert (answer.status_code, "more than" in answer.text) == (422, True), answer.text
        assert memory_bytes(server, "VmHWM") - before < 5 * BODY_MAX


async def test_a_compressed_message_is_not_opened() -> None:
    data = large_change().SerializeToString()
    async with large_server() as server:
        await server.wait_ready()
        before = memory_bytes(server, "VmHWM")
        async with aio.insecure_channel(f"127.0.0.1:{server.api_port}", compression=grpc.Compression.Gzip) as channel:
            with pytest.raises(aio.AioRpcError) as refused:
                await channel.unary_unary(SERVICE + "Apply")(data)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert memory_bytes(server, "VmHWM") - before < 4 * MIB


async def test_streams_that_push_endpoints_are_limited_in_number() -> None:
    push = pb.EndpointsPush(group="default").SerializeToString()
    async with large_server() as server, AsyncExitStack() as stack:
        await server.wait_ready()
        channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{server.api_port}"))
        streams = [channel.stream_stream(SERVICE + "PushEndpoints")() for _ in range(64)]
        for stream in streams:
            await stream.write(push)
            assert await stream.read() is not aio.EOF
        with pytest.raises(aio.AioRpcError, match="64 streams push endpoints already"):
            await channel.stream_stream(SERVICE + "PushEndpoints")().read()
        streams.pop().cancel()

        async def one_more() -> bool:
            stream = channel.stream_stream(SERVICE + "PushEndpoints")()
            try:
                await stream.write(push)
                return await stream.read() is not aio.EOF
            except aio.AioRpcError:
                return False

        await wait_until(one_more)
