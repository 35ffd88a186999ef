"""Every change reaches every stream, exactly once and in order, in whichever worker process."""

import json

from support import resources as r
from support.control_planes import app_of
from support.waiting import turns, wait_until
from support.wire import DeltaClient, SotwClient
from support.worker_fleet import Fleet, Follower, metrics, shares, wait_followed

from xds.embed import ControlPlane, GroupTable
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import Rule
from xds.model.types import CLUSTER, ENDPOINTS, WRAPPER_URL
from xds.schema.ingest import ingest
from xds.serving.feed import decode, encode

STREAMS = 32
NO_MERGING = {"protocol": {"coalesce_s": 0, "coalesce_max_s": 0}}


def port_of(control_plane: ControlPlane) -> int:
    assert control_plane.address is not None
    return control_plane.address.port


def admin_of(control_plane: ControlPlane) -> int:
    assert control_plane.admin_address is not None
    return control_plane.admin_address.port


def served(control_plane: ControlPlane, type_url: str = CLUSTER, group: str = "default") -> dict[str, str]:
    """Return name → version of what a group's nodes are to have."""
    view = app_of(control_plane).catalog.snapshots[group].view(type_url)
    return {name: found.version for name in view if (found := view.get(name)) is not None}


def test_an_encoded_state_is_decoded_to_the_same() -> None:
    catalog = Catalog(check_references=False)
    ttl = {"@type": WRAPPER_URL, "ttl": "1.5s", "aliases": ["other"], "resource": r.static_cluster("b", 1)}
    own = (ingest(r.cluster("a")), ingest(r.assignment("a", 1), source="a.yaml"), ingest(ttl))
    table = GroupTable(names=("x",), extends={"x": "default"})
    catalog.apply(Changeset(upserts={"default": own, "x": (ingest(r.static_cluster("c", 1)),)}, groups=table))
    state = catalog.export()
    again = decode(encode(state))
    assert (again.groups, again.replace, again.removals) == (table, True, {})
    assert {group: [each.__getstate__() for each in all_] for group, all_ in again.upserts.items()} == {
        group: [each.__getstate__() for each in all_] for group, all_ in state.upserts.items()
    }


async def test_every_change_reaches_every_stream_of_both_workers_once_and_in_order(serving):
    async with serving(**NO_MERGING) as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        share = shares(app_of(control_plane).worker_pids, port_of(control_plane))
        assert share.total() == STREAMS
        assert min(share.values()) > 0, share
        history = [served(control_plane)["a"]]
        for number in range(40):
            control_plane.apply(upsert=[r.static_cluster("a", number + 2)])
            history.append(served(control_plane)["a"])
            await fleet.wait_versions(served(control_plane))  # otherwise sending only the last one is correct
        for follower in fleet.followers:
            assert follower.sent == [("a", version) for version in history]
            assert follower.streams == 1
        versions = {tuple(response.version for response in follower.responses[0]) for follower in fleet.followers}
        assert len(versions) == 1


async def test_changes_that_follow_each_other_at_once_arrive_in_order_and_the_last_of_them_arrives(serving):
    async with serving(**NO_MERGING) as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        order = {served(control_plane)["a"]: 0}
        for number in range(300):
            control_plane.apply(upsert=[r.static_cluster("a", number + 2)])
            order[served(control_plane)["a"]] = number + 1
            if number % 10 == 0:
                await turns()
        await fleet.wait_versions(served(control_plane))
        for follower in fleet.followers:
            got = [order[version] for _, version in follower.sent]
            assert got == sorted(set(got))


async def test_an_addition_and_a_removal_reach_all_and_what_is_equal_is_sent_to_nobody(serving):
    async with serving() as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        control_plane.apply(upsert=[r.static_cluster("a", 1), r.static_cluster("b", 1)])
        await fleet.wait_versions(served(control_plane))
        control_plane.apply(remove=[("clusters", "a")])
        await fleet.wait_versions(served(control_plane))
        for follower in fleet.followers:
            said = [(sorted(response.names), response.removed) for response in follower.responses[0]]
            assert said == [(["a"], ()), (["b"], ()), ([], ("a",))]


async def test_sotw_streams_of_both_workers_have_the_same_version_and_content(serving):
    resources = [r.static_cluster(f"c{number}", number + 1) for number in range(20)]
    async with serving({"default": resources}) as control_plane:
        clients = [SotwClient(port_of(control_plane), node_id=f"n{number}") for number in range(STREAMS)]
        for client in clients:
            await client.open()
            await client.subscribe(r.CLUSTER)
        firsts = [await client.take() for client in clients]
        control_plane.apply(upsert=[r.static_cluster("c7", 99)])
        seconds = [await client.take() for client in clients]
        assert min(shares(app_of(control_plane).worker_pids, port_of(control_plane)).values()) > 0
        for responses in (firsts, seconds):
            assert len({response.version for response in responses}) == 1
            assert len({response.nonce for response in responses} | {""}) > 1
        assert len({json.dumps(sorted(map(str, client.bodies(r.CLUSTER).items()))) for client in clients}) == 1
        for client in clients:
            await client.close()


async def test_a_change_of_the_groups_reaches_all_nodes_of_both_workers(serving):
    groups = {"default": [r.static_cluster("a", 1)], "blue": [r.static_cluster("b", 1)]}
    rules = GroupTable(rules=(Rule(group="blue", cluster="blue"),))
    async with (
        serving(groups, rules=rules) as control_plane,
        Fleet(port_of(control_plane), STREAMS, r.CLUSTER, clusters=("blue", "red")) as fleet,
    ):
        blue = [follower for follower in fleet.followers if follower.cluster == "blue"]
        red = [follower for follower in fleet.followers if follower.cluster == "red"]

        async def wait(blue_names: str, red_names: str) -> None:
            for followers, names in ((blue, blue_names), (red, red_names)):
                await wait_until(
                    lambda followers=followers: {frozenset(each.versions) for each in followers},
                    equals={frozenset(names)},
                )

        await wait("b", "a")
        control_plane.replace(groups, rules=GroupTable(rules=(Rule(group="blue", cluster="red"),)))
        await wait("a", "b")
        control_plane.replace(groups, rules=GroupTable(rules=rules.rules, extends={"blue": "default"}))
        await wait("ab", "a")
        control_plane.apply(upsert=[r.static_cluster("c", 1)])
        await wait("abc", "ac")
        assert [follower.streams for follower in fleet.followers] == [1] * STREAMS


async def test_what_hides_a_base_with_equal_content_hides_its_next_version_too(serving):
    """No node sees that change, but every process needs it."""
    groups = {"default": [r.static_cluster("a", 1)], "blue": [r.static_cluster("b", 1)]}
    rules = GroupTable(extends={"blue": "default"})
    async with (
        serving(groups, rules=rules) as control_plane,
        Fleet(port_of(control_plane), STREAMS, r.CLUSTER, clusters=("blue", "default")) as fleet,
    ):
        pids = app_of(control_plane).worker_pids
        blue = [follower for follower in fleet.followers if follower.cluster == "blue"]
        others = [follower for follower in fleet.followers if follower.cluster != "blue"]
        before = served(control_plane, group="blue")
        await wait_followed(blue, before)
        assert control_plane.apply(upsert=[r.static_cluster("a", 1)], group="blue").changed == {}
        control_plane.apply(upsert=[r.static_cluster("a", 2)])
        await wait_followed(others, served(control_plane))
        control_plane.apply(upsert=[r.static_cluster("c", 2)])
        await wait_followed(blue, served(control_plane, group="blue"))
        assert served(control_plane, group="blue")["a"] == before["a"]
        assert app_of(control_plane).worker_pids == pids
        assert [follower.streams for follower in fleet.followers] == [1] * STREAMS


async def test_a_stream_that_opens_while_changes_go_on_misses_none(serving):
    async with serving(**NO_MERGING) as control_plane:
        followers = []
        for number in range(40):
            control_plane.apply(upsert=[r.static_cluster(f"c{number}", number + 1), r.static_cluster("a", number + 2)])
            follower = Follower(port_of(control_plane), f"n{number}", r.CLUSTER)
            follower.start()
            followers.append(follower)
            await turns()
        await wait_followed(followers, served(control_plane))
        for follower in followers:
            assert len(follower.sent) == len(set(follower.sent))  # nothing twice
            await follower.stop()


async def test_order_holds_on_every_worker_with_endpoints_right_after_their_cluster(serving):
    async with serving({"default": [r.cluster("a"), r.assignment("a", 1)]}) as control_plane:
        clients = [DeltaClient(port_of(control_plane), node_id=f"n{number}") for number in range(STREAMS)]
        for client in clients:
            await client.open()
            await client.subscribe(r.CLUSTER)
            await client.take()
            await client.subscribe(r.ENDPOINTS, "a")
            await client.take()
        control_plane.apply(upsert=[r.cluster("a", connect_timeout="2s"), r.assignment("a", 2)])
        for client in clients:
            said = [(await client.take()).type_url for _ in range(2)]
            assert said == [CLUSTER, ENDPOINTS]
            await client.close()


async def test_the_figures_are_those_of_all_workers(serving):
    async with serving() as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        control_plane.apply(upsert=[r.static_cluster("b", 1)])
        await fleet.wait_versions(served(control_plane))
        said = await wait_until(
            lambda: metrics(admin_of(control_plane)), lambda found: found["xds_acks_total"] >= 2 * STREAMS
        )
        assert (said["xds_streams"], said["xds_streams_opened_total"]) == (STREAMS, STREAMS)
        assert said["xds_acks_total"] == said["xds_responses_total"] == 2 * STREAMS
        assert said["xds_revision"] == app_of(control_plane).catalog.revision
        assert app_of(control_plane).stream_count == STREAMS
