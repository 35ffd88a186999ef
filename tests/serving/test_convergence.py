"""How many clients have accepted a revision, counted over worker processes, and waiting for them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.transports import settings_on
from support.waiting import stays, wait_until
from support.wire import DeltaClient

from xds.api.convergence import Convergence, Goal, Verdict, watch_convergence
from xds.app import App
from xds.model.changeset import Changeset
from xds.model.groups import Node
from xds.model.types import CLUSTER
from xds.protocol.convergence import Debt, Debts
from xds.protocol.paging import NodeState, Position
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary
from xds.registry.known_nodes import KnownNode
from xds.schema.ingest import ingest


def cluster(name: str, timeout_s: int) -> Changeset:
    found = ingest({"name": name, "type": "STATIC", "connect_timeout": f"{timeout_s}s"}, type_url=CLUSTER)
    return Changeset(upserts={"default": (found,)})


@pytest.fixture(params=[0, 2])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[App]:
    settings = settings_on("native", transport={"workers": request.param})
    app = App(settings, workers=request.param)
    await app.start()
    yield app
    await app.stop()


async def applied(app: App, change: Changeset) -> int:
    """Make a change; return its revision once every process serves it."""
    app.apply(change)
    assert await app.lacking(app.catalog.revision) == ()
    return app.catalog.revision


async def synced(client: DeltaClient) -> None:
    """Subscribe, and accept the first response."""
    await client.subscribe(CLUSTER)
    await client.ack(await client.next())


async def counted(app: App, revision: int) -> tuple[int, int, int]:
    return tuple((await app.debts()).at(revision))


async def test_answers_are_counted_over_all_workers(app: App) -> None:
    first = await applied(app, cluster("a", 1))
    clients = [DeltaClient(str(app.address), node_id=f"n{number}") for number in range(6)]
    for client in clients:
        await client.__aenter__()
        await synced(client)
    await wait_until(lambda: counted(app, first), equals=(6, 0, 0))
    app.apply(cluster("a", 2))
    second = app.catalog.revision
    responses = [await client.next() for client in clients]
    assert await counted(app, second) == (0, 6, 0)
    assert await counted(app, first) == (6, 0, 0)
    for client, response in zip(clients[:4], responses, strict=False):
        await client.ack(response)
    await clients[4].nack(responses[4], "no")
    await wait_until(lambda: counted(app, second), equals=(4, 1, 1))
    for client in clients:
        await client.__aexit__(None, None, None)
    await wait_until(lambda: counted(app, second), equals=(0, 0, 0))
    assert (await app.debts()).revision == second


async def test_a_waiter_is_told_of_progress_and_of_the_end(app: App) -> None:
    await applied(app, cluster("a", 1))
    async with DeltaClient(str(app.address), node_id="n1") as one, DeltaClient(str(app.address), node_id="n2") as two:
        for client in (one, two):
            await synced(client)
        app.apply(cluster("a", 2))
        goal = Goal(revision=app.catalog.revision)
        seen: list[Convergence] = []

        async def wait() -> None:
            seen.extend([each async for each in watch_convergence(app.debts, goal, timeout_s=20)])

        waiting = asyncio.create_task(wait())
        responses = [await client.next() for client in (one, two)]
        await one.ack(responses[0])
        await stays(waiting.done, equals=False, for_s=0.5)
        await two.ack(responses[1])
        await waiting
    assert (seen[-1].accepted, seen[-1].verdict) == (2, Verdict.REACHED)
    assert all(each.verdict is Verdict.PENDING for each in seen[:-1])


async def test_a_waiter_is_told_of_rejections_and_of_the_time_being_over(app: App) -> None:
    await applied(app, cluster("a", 1))
    async with DeltaClient(str(app.address), node_id="n1") as client:
        await client.subscribe(CLUSTER)
        response = await client.next()
        assert response.names == {"a"}
        goal = Goal(revision=app.catalog.revision)
        last = [each async for each in watch_convergence(app.debts, goal, timeout_s=0.3)][-1]
        assert (last.pending, last.verdict) == (1, Verdict.PENDING)
        await client.nack(response, "no")
        last = [each async for each in watch_convergence(app.debts, goal, timeout_s=20)][-1]
        assert (last.rejected, last.verdict) == (1, Verdict.REJECTED)
        patient = Goal(revision=goal.revision, rejected_max=1, quorum=0.5)
        last = [each async for each in watch_convergence(app.debts, patient, timeout_s=0.3)][-1]
        assert last.verdict is Verdict.PENDING
    future = Goal(revision=goal.revision + 1)
    last = [each async for each in watch_convergence(app.debts, future, timeout_s=0.3)][-1]
    assert (last.published, last.verdict) == (goal.revision, Verdict.PENDING)


def of(accepted: int, pending: int, rejected: int, **goal: float) -> Verdict:
    made = Goal(revision=5, **goal)  # type: ignore[arg-type]
    numbers = {"accepted": accepted, "pending": pending, "rejected": rejected}
    return Convergence(goal=made, published=5, **numbers).verdict


@pytest.mark.parametrize(
    ("numbers", "goal", "verdict"),
    [
        ((0, 0, 0), {}, Verdict.REACHED),
        ((10, 0, 0), {}, Verdict.REACHED),
        ((9, 1, 0), {}, Verdict.PENDING),
        ((9, 1, 0), {"quorum": 0.9}, Verdict.REACHED),
        ((8, 2, 0), {"quorum": 0.9}, Verdict.PENDING),
        ((99, 1, 0), {"quorum": 0.99}, Verdict.REACHED),
        ((9, 0, 1), {"quorum": 0.9}, Verdict.REJECTED),
        ((9, 0, 1), {"quorum": 0.9, "rejected_max": 1}, Verdict.REACHED),
        ((8, 0, 2), {"quorum": 0.8, "rejected_max": 1}, Verdict.REJECTED),
    ],
)
def test_a_quorum_is_a_share_of_the_connected_nodes(
    numbers: tuple[int, int, int], goal: dict[str, float], verdict
) -> None:
    assert of(*numbers, **goal) is verdict


@pytest.mark.parametrize("count", [1, 3, 250])
async def test_a_node_with_several_streams_is_named_once_as_its_worst(count: int) -> None:
    """Its streams fill no places of other nodes."""
    owing, rejecting = Debt(owed=5), Debt(rejected=5)
    states = [("n", owing)] * count + [("n", rejecting)] + [(f"o{number}", owing) for number in range(30)]
    summaries = [
        NodeSummary(
            node=Node(id=node_id),
            group="g",
            revision=5,
            state=NodeState.PENDING,
            connected_s=1.0,
            types=(),
            debt=debt,
            position=Position("", node_id, str(number)),
        )
        for number, (node_id, debt) in enumerate(states)
    ]

    async def nodes(query: NodesQuery) -> NodesFound:
        after = -1 if query.after is None else int(query.after.tie)
        return NodesFound(nodes=tuple(summaries[after + 1 :][: query.limit]))

    async def debts() -> Debts:
        return Debts(revision=5, by_group={"g": {owing: 31}})

    gone = [KnownNode(id="n", group="g", first_seen_ms=1, last_seen_ms=1)]
    goal = Goal(revision=5)
    last = [each async for each in watch_convergence(debts, goal, timeout_s=0, nodes=nodes, gone=lambda _: gone)][-1]
    assert [each.id for each in last.lacking] == ["n", *(f"o{each}" for each in range(19))]
    assert last.lacking[0].state == "rejected"
