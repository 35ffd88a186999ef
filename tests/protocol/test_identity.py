"""Who a client is decides its group, whatever its node says, and whether it gets secrets.

See docs/protocol.md#groups."""

from support.encoded import CDS, EDS, SDS, cluster, endpoints, resource, static
from support.hubs import MakeWorld, World

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Patterns, Rule
from xds.model.identity import Peer
from xds.protocol.policy import Variant
from xds.protocol.status import Refused, SecretsWithheld

WEB = Peer(("spiffe://corp/ns/web/sa/front",))
PAYMENTS = Peer(("spiffe://corp/ns/payments/sa/ledger",))
NO_SECRETS = Peer(gets_secrets=False)

TENANTS = GroupTable(
    rules=(
        Rule(group="payments", identity="spiffe://corp/ns/payments/**", require=Patterns(id="payments-*")),
        Rule(group="web", identity="spiffe://corp/ns/web/**", require=Patterns(id="web-*")),
    ),
    deny_unmatched=True,
)


def secret(name: str, version: int = 1):
    return resource(SDS, name, version)


def test_a_node_gets_the_resources_of_its_identitys_group(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=TENANTS)
    world.publish(secret("key"), group="payments")
    world.publish(secret("key", 2), group="web")
    assert world.client(variant, "payments-1", peer=PAYMENTS).subscribe(SDS, "key") == ["SDS #1 key@1"]
    assert world.client(variant, "web-1", peer=WEB).subscribe(SDS, "key") == ["SDS #1 key@2"]


def test_a_node_that_claims_anothers_place_is_denied_with_both_names(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=TENANTS)
    world.publish(secret("key"), group="payments")
    said = world.client(variant, "payments-1", peer=WEB).subscribe(SDS, "key")
    name = WEB.identity[0]
    text = f"node 'payments-1' with the identity {name} is refused: rule 2 gives its place to nodes with another id"
    assert said == [f"END PERMISSION_DENIED: {text}"]
    denied = Refused(node_id="payments-1", status="PERMISSION_DENIED", message=text, identity=WEB.identity)
    assert world.events() == [denied]
    assert world.hub.counters.nodes_denied == 1
    assert world.client(variant, "payments-1").subscribe(SDS, "key")[0].startswith("END PERMISSION_DENIED")


def test_equal_nodes_of_different_identities_are_different_clients(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="a", identity="cn:a"), Rule(group="b", identity="cn:b"))))
    world.publish(static("x"), group="a")
    world.publish(static("x", 2), group="b")
    first = world.client(variant, "n", per_type=True, peer=Peer(("cn:a",)))
    other = world.client(variant, "n", per_type=True, peer=Peer(("cn:b",)))
    assert (first.subscribe(CDS), other.subscribe(CDS)) == (["CDS #1 x@1"], ["CDS #1 x@2"])


def test_new_rules_move_nodes_by_their_identity(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=TENANTS)
    world.publish(static("p"), group="payments")
    world.publish(static("w"), group="web")
    client = world.client(variant, "web-1", peer=WEB)
    assert client.subscribe(CDS) == ["CDS #1 w@1"]
    client.ack(CDS)
    world.regroup(GroupTable(rules=(Rule(group="payments", identity="spiffe://corp/**"),)))
    assert client.take()[0].startswith("CDS #2 p@1")
    world.regroup(GroupTable(rules=(Rule(group="payments", identity="spiffe://other/**"),), deny_unmatched=True))
    assert client.take() == [
        f"END PERMISSION_DENIED: no group takes node 'web-1' with the identity {WEB.identity[0]} now"
    ]
    (event,) = world.events()
    assert isinstance(event, Refused)
    assert (event.node_id, event.identity) == ("web-1", WEB.identity), "who is ended by new rules is told too"


# --- Secrets ---------------------------------------------------------------------------------------------------------


def test_a_client_that_may_get_no_secrets_is_sent_all_but_them(world: World, variant: Variant, per_type: bool) -> None:
    world.publish(static("c"), secret("key"))
    trusted = world.client(variant, "n1", per_type=per_type, connection="tcp1")
    other = world.client(variant, "n2", per_type=per_type, connection="tcp2", peer=NO_SECRETS)
    for client in (other, trusted):
        assert client.subscribe(CDS) == ["CDS #1 c@1"]
        client.ack(CDS)
    assert trusted.subscribe(SDS, "key") == ["SDS #2 key@1"]
    assert not [line for line in other.subscribe(SDS, "key") if "key@" in line]
    other.ack_all(), trusted.ack_all()
    world.publish(secret("key", 2), secret("more"), static("c", 2))
    assert any("key@2" in line for line in trusted.take())
    assert not [line for line in other.take() if "key@" in line or "more@" in line]
    assert [each for each in world.events() if isinstance(each, SecretsWithheld)] == [
        SecretsWithheld(node_id="n2", group="default")
    ]
    assert world.hub.counters.secrets_withheld == 1


def test_secrets_stay_withheld_when_a_client_moves_to_another_group(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="a"),)))
    world.publish(static("c"), secret("key"), group="a")
    world.publish(static("c", 2), secret("key", 2), group="b")
    client = world.client(variant, "n1", peer=NO_SECRETS)
    client.subscribe(CDS)
    client.subscribe(SDS, "key")
    client.ack_all()
    world.regroup(GroupTable(rules=(Rule(group="b"),)))
    said = client.take()
    assert any("c@2" in line for line in said)
    assert not any("key@" in line for line in said)


def test_a_fleet_with_and_without_rights_to_secrets_shares_no_step(world: World, variant: Variant) -> None:
    world.publish(cluster("a"), endpoints("a"), secret("key"))
    for at in range(6):
        rights = NO_SECRETS if at % 2 else Peer()
        client = world.client(variant, f"n{at}", connection=f"tcp{at}", peer=rights)
        client.subscribe(CDS)
        client.ack_all()
        said = client.subscribe(SDS, "key")
        assert any("key@1" in line for line in said) is rights.gets_secrets
        client.ack_all()
    world.publish(secret("key", 2))
    for at, client in enumerate(world.clients):
        assert any("key@2" in line for line in client.take()) is (at % 2 == 0)


# --- Many sessions are regrouped little by little -------------------------------------------------------------------


def test_sessions_are_regrouped_in_slices_and_served_meanwhile(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="a"),)))
    world.publish(static("c"), group="a")
    clients = [world.client(variant, f"n{at}", connection=f"tcp{at}") for at in range(5)]
    for client in clients:
        assert client.subscribe(CDS) == ["CDS #1 c@1"]
        client.ack(CDS)
    gone_and_new = Changeset(groups=GroupTable(rules=(Rule(group="b"),)), upserts={"b": (static("c", 2),)}, gone=("a",))
    world.hub.publish(world.catalog.apply(gone_and_new), regroup=False)
    world.pump()
    assert world.hub.is_regrouping
    assert [client.take() for client in clients] == [[]] * 5
    assert world.hub.regroup_some(2)
    world.pump()
    assert [client.take() for client in clients] == [["CDS #2 c@2"]] * 2 + [[]] * 3
    late = world.client(variant, "late", connection="tcp9")
    assert late.subscribe(CDS) == ["CDS #1 c@2"]
    clients[4].subscribe(EDS, "e")  # a request of one that still waits for its turn
    assert not world.hub.regroup_some(10)
    world.pump()
    assert all(client.take()[-1].endswith("c@2") for client in clients[2:])
    assert not world.hub.is_regrouping


def test_rules_that_change_again_in_the_middle_decide_for_all(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="a"),)))
    for at, group in enumerate("abc", 1):
        world.publish(static("c", at), group=group)
    clients = [world.client(variant, f"n{at}", connection=f"tcp{at}") for at in range(4)]
    for client in clients:
        client.subscribe(CDS)
        client.ack(CDS)
    world.hub.publish(world.catalog.apply(Changeset(groups=GroupTable(rules=(Rule(group="b"),)))), regroup=False)
    world.hub.regroup_some(2)
    world.hub.publish(world.catalog.apply(Changeset(groups=GroupTable(rules=(Rule(group="c"),)))), regroup=False)
    while world.hub.regroup_some(1):
        pass
    world.pump()
    assert all(client.take()[-1].endswith("c@3") for client in clients)


def test_a_client_that_leaves_before_its_turn_is_passed_over(make_world: MakeWorld, monkeypatch) -> None:
    monkeypatch.setattr("xds.protocol.hub.REGROUPED_AT_ONCE", 1)
    world = make_world(groups=GroupTable(rules=(Rule(group="a"),)))
    for at, group in enumerate("ab", 1):
        world.publish(static("c", at), group=group)
    clients = [world.client(node=f"n{at}", connection=f"tcp{at}") for at in range(3)]
    for client in clients:
        client.subscribe(CDS)
        client.ack(CDS)
    world.hub.publish(world.catalog.apply(Changeset(groups=GroupTable(rules=(Rule(group="b"),)))), regroup=False)
    clients[0].close()
    while world.hub.regroup_some(1):
        pass
    world.pump()
    assert [client.take() for client in clients] == [[], ["CDS #2 c@2"], ["CDS #2 c@2"]]
    clients[1].ack(CDS), clients[2].ack(CDS)
    world.regroup(GroupTable(rules=(Rule(group="a"),)))
    assert [client.take() for client in clients[1:]] == [["CDS #3 c@1"]] * 2
    assert world.hub.evicted_nodes == (0, 0)
