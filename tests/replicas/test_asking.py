"""Replicas ask each other over the port of the push API; one that does not answer as it should is named, with why."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc import aio
from support.pki import Authority
from support.ports import free_port
from support.silent_listener import SilentListener
from support.waiting import for_a_while, turns, wait_until

from xds._generated import replicas_pb2 as pb
from xds.access.authenticator import Authenticator
from xds.address import Address
from xds.api.admission import Admission
from xds.api.grpc_api import GrpcApi
from xds.replicas.answering import Answering
from xds.replicas.asking import METHOD, Answers, Asking, Credentials
from xds.replicas.membership import Known, Member
from xds.replicas.questions import ANSWER_BYTES_MAX, question

ECHO = question("echo", str, list[int])
TIMEOUT_S = 0.5


class Others:
    """The other replicas, as ``Membership`` has them."""

    def __init__(self) -> None:
        self.others: dict[str, Known] = {}

    def add(
        self, name: str, api: str, *, instance: str = "", tls: bool = False, lost_at: float | None = None
    ) -> Member:
        member = Member(
            instance=instance or uuid4().hex, name=name, api=api, tls=tls, epoch="", version="1", started_at_ms=1
        )
        self.others[member.instance] = Known(member=member, lost_at=lost_at)
        return member


class Scene:
    def __init__(self, stack: AsyncExitStack, directory: Path) -> None:
        self._stack = stack
        self.directory = directory
        self.others = Others()
        self.credentials = Credentials()

    async def replica(
        self, answer: Callable[[str], Awaitable[list[int]]], *, name: str = "b", token: str = "", pair: Any = None
    ) -> Member:
        """Start the push API of a replica that answers ``ECHO``."""
        token_file = self.directory / f"{name}.token"
        token_file.write_text(token)
        instance = uuid4().hex
        answering = Answering(instance)
        answering.add(ECHO, answer)
        api = GrpcApi(
            Address("127.0.0.1", 0),
            None,  # type: ignore[arg-type]  # no call here needs operations
            Admission(Authenticator(token_file) if token else None),
            body_bytes_max=2_000_000,
            tls=None if pair is None else (pair.cert_path, pair.key_path),
            answer_replica=answering,
        )
        await api.start()
        self._stack.push_async_callback(api.stop)
        return self.others.add(name, str(api.address), instance=instance, tls=pair is not None)

    async def fake(self, answer: Callable[[pb.Question], Any], *, name: str = "b") -> Member:
        """Start a server that answers with whatever bytes ``answer`` returns."""

        async def handle(data: bytes, _context: Any) -> bytes:
            found = answer(pb.Question.FromString(data))
            return found if isinstance(found, bytes) else bytes(found.SerializeToString())

        server = aio.server(options=[("grpc.max_send_message_length", -1)])
        service, method = METHOD.strip("/").split("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(handle)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        return self.others.add(name, f"127.0.0.1:{port}")

    def asking(self) -> Asking:
        made = Asking(self.others, self.credentials, timeout_s=TIMEOUT_S)  # type: ignore[arg-type]
        self._stack.push_async_callback(made.stop)
        return made

    async def ask(self, query: str = "hello") -> Answers[list[int]]:
        return await self.asking().ask(ECHO, lambda _member: query)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        yield Scene(stack, tmp_path)


async def lengths(query: str) -> list[int]:
    return [len(query)]


async def never(_query: str) -> list[int]:
    await asyncio.Event().wait()
    raise AssertionError


async def reason(scene: Scene) -> str:
    """Return why the one replica that there is gave no answer."""
    answers = await scene.ask()
    assert not answers.found
    (missing,) = answers.missing
    return missing.reason


async def test_all_replicas_are_asked_at_once(scene: Scene) -> None:
    members = [await scene.replica(lengths, name=name) for name in ("b", "c")]
    answers = await scene.ask("four")
    assert sorted(answers.found, key=lambda each: each[0].name) == [(member, [4]) for member in members]
    assert answers.missing_replicas == ()


async def test_nobody_is_asked_where_there_is_nobody(scene: Scene) -> None:
    assert await scene.ask() == Answers()


async def test_a_slow_replica_is_named_and_not_waited_for_by_each_question(scene: Scene) -> None:
    await scene.replica(lengths, name="b")
    slow = await scene.replica(never, name="c")
    asking, loop = scene.asking(), asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3):
        answers = await asking.ask(ECHO, lambda _member: "x")
        assert [found for _, found in answers.found] == [[1]]
        assert answers.missing_replicas == (f"c ({slow.api}): it did not answer within 0.5 s (replicas.timeout_s)",)
    assert loop.time() - began < 2 * TIMEOUT_S


async def test_a_stopped_replica_holds_up_one_question_and_is_heard_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xds.replicas.asking.REST_S", 0.0)
    goes_on = asyncio.Event()

    async def stopped(query: str) -> list[int]:
        await goes_on.wait()
        return [len(query)]

    await scene.replica(lengths, name="b")
    await scene.replica(stopped, name="c")
    asking, loop = scene.asking(), asyncio.get_running_loop()

    async def count() -> int:
        return len((await asking.ask(ECHO, lambda _member: "x")).found)

    assert await count() == 1
    until = loop.time() + 3 * TIMEOUT_S
    while loop.time() < until:
        began = loop.time()
        assert await count() == 1
        assert loop.time() - began < TIMEOUT_S / 2
        await for_a_while(0.01, "the questions are asked one after the other")
    goes_on.set()
    await wait_until(count, equals=2)


async def test_a_replica_that_is_not_there_is_named(scene: Scene) -> None:
    scene.others.add("b", "127.0.0.1:1")
    assert (await reason(scene)).startswith("it can't be reached: ")


async def test_a_replica_that_accepts_and_says_nothing_is_named(scene: Scene) -> None:
    async with SilentListener(free_port()) as listener:
        scene.others.add("b", f"127.0.0.1:{listener.port}")
        assert "did not answer within 0.5 s" in await reason(scene)


async def test_a_replica_without_an_address_is_named(scene: Scene) -> None:
    scene.others.add("b", "")
    assert await reason(scene) == "it gives no address at which it could be asked (replicas.advertise)"


async def test_a_replica_without_a_lease_is_asked_too(scene: Scene) -> None:
    scene.others.add("b", "127.0.0.1:1", lost_at=1.0)
    answers = await scene.ask()
    (missing,) = answers.missing
    assert missing.reason.startswith("its lease is lost; it can't be reached: ")
    assert not missing.is_leased


async def test_the_token_is_shown_and_a_wrong_one_is_named(scene: Scene) -> None:
    member = await scene.replica(lengths, token="right-token")
    assert "refuses this replica's token (replicas.token_file)" in await reason(scene)
    mine = scene.directory / "mine"
    mine.write_text("wrong-token\n")
    scene.credentials = Credentials(token_file=mine)
    asking = scene.asking()
    answers = await asking.ask(ECHO, lambda _member: "x")
    assert "refuses this replica's token" in answers.missing_replicas[0]
    assert "wrong-token" not in answers.missing_replicas[0]
    mine.write_text("right-token\n")  # a changed file makes a new connection, which is used at once
    answers = await asking.ask(ECHO, lambda _member: "x")
    assert answers.found == [(member, [1])]


async def test_a_token_that_is_gone_is_named(scene: Scene) -> None:
    await scene.replica(lengths, token="right-token")
    scene.credentials = Credentials(token_file=scene.directory / "none")
    assert await reason(scene) == f"{scene.directory / 'none'} can't be read: No such file or directory"


async def test_a_token_is_not_sent_in_clear_to_another_machine(scene: Scene) -> None:
    scene.others.add("b", "192.0.2.1:18001")
    mine = scene.directory / "mine"
    mine.write_text("secret")
    scene.credentials = Credentials(token_file=mine)
    assert "would be sent to it in clear" in await reason(scene)


async def test_certificates_are_verified(scene: Scene) -> None:
    authority = Authority(scene.directory)
    member = await scene.replica(lengths, pair=authority.server())
    assert (await reason(scene)).startswith("it can't be reached: ")
    scene.credentials = Credentials(ca=authority.cert_path)
    assert (await scene.ask()).found == [(member, [5])]


async def test_another_version_that_does_not_know_the_question_is_named(scene: Scene) -> None:
    await scene.replica(lengths)
    answers = await scene.asking().ask(question("later", str, str), lambda _member: "x")
    assert "does not know the question 'later'" in answers.missing_replicas[0]


async def test_another_version_that_reads_the_question_otherwise_is_named(scene: Scene) -> None:
    await scene.replica(lengths)
    answers = await scene.asking().ask(question("echo", int, str), lambda _member: 1)
    assert "can't read the question" in answers.missing_replicas[0]


async def test_a_server_that_is_no_replica_is_named(scene: Scene) -> None:
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    scene.others.add("b", f"127.0.0.1:{port}")
    assert await reason(scene) == "it does not know the question: it is of another version, or no replica"
    await server.stop(None)


async def test_another_replica_at_the_address_is_named(scene: Scene) -> None:
    member = await scene.replica(lengths)
    del scene.others.others[member.instance]
    scene.others.add("b", member.api)  # as where a load balancer's address is advertised
    assert await reason(scene) == "it answered: another replica was asked"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (b"", "its answer, of version 9 and not "),
        (b"[1, 2", "its answer, of version 9 and not "),
        (b'{"a": 1}', "its answer, of version 9 and not "),
        (b'["one"]', "its answer, of version 9 and not "),
        (b"[" * 100_000, "its answer, of version 9 and not "),
        (b"\xff\xfe", "its answer, of version 9 and not "),
    ],
)
async def test_an_answer_that_can_not_be_read_is_that_replicas_problem(scene: Scene, found: bytes, told: str) -> None:
    await scene.fake(lambda asked: pb.Answer(instance=asked.instance, version="9", found=found))
    good = await scene.replica(lengths, name="c")
    answers = await scene.ask()
    assert answers.found == [(good, [5])]
    assert answers.missing[0].reason.startswith(told)


async def test_bytes_that_are_no_answer_are_that_replicas_problem(scene: Scene) -> None:
    await scene.fake(lambda _asked: b"\xff\xff\xff\xff")
    assert await reason(scene) == "what it sent is no answer: it is of another version, or no replica"


async def test_an_answer_that_is_too_large_is_not_taken(scene: Scene) -> None:
    await scene.fake(lambda asked: pb.Answer(instance=asked.instance, found=b" " * (ANSWER_BYTES_MAX + 100_000)))
    assert (await reason(scene)).startswith("its answer is too large, or it is overloaded: ")


async def test_the_reason_of_a_replica_is_cut_off(scene: Scene) -> None:
    await scene.fake(lambda asked: pb.Answer(instance=asked.instance, problem="x" * 10_000))
    assert len(await reason(scene)) == 300


async def test_connections_are_closed_once_whoever_asks_meanwhile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[aio.Channel] = []
    closed: list[aio.Channel] = []
    make = aio.insecure_channel

    def made(*given: Any, **options: Any) -> aio.Channel:
        channel = make(*given, **options)
        close = channel.close

        async def close_later(grace: float | None = None) -> None:
            closed.append(channel)
            await turns(20)
            await close(grace)

        monkeypatch.setattr(channel, "close", close_later)
        opened.append(channel)
        return channel

    scene.credentials = Credentials(token_file=scene.directory / "token")
    (scene.directory / "token").write_text("")
    members = [await scene.replica(lengths, name=name) for name in "bcde"]
    monkeypatch.setattr(aio, "insecure_channel", made)
    asking = scene.asking()

    async def ask_twice() -> None:
        several = await asyncio.gather(*(asking.ask(ECHO, lambda _member: "hello") for _ in range(2)))
        assert [[told for _, told in each.found] for each in several] == [[[5]] * len(scene.others.others)] * 2

    await asking.ask(ECHO, lambda _member: "hello")
    for member in members[1:]:
        del scene.others.others[member.instance]
    await ask_twice()
    assert (len(opened), len(closed)) == (4, 3)
    (scene.directory / "token").write_text(" ")
    await ask_twice()
    assert (len(opened), len(closed)) == (5, 4)
    await asking.stop()
    assert closed == [*closed[:4], opened[-1]]
    assert len(set(map(id, closed))) == 5
