"""Why a node has a resource, or not: the whole way from its description to its answer, each step with what to do. Pure.

The way: a rule puts the node into a group; the group has the resource, itself or through what it extends; the node may
get it and subscribes to it; the order of changes lets it through; the node accepts it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from xds.model.groups import GroupTable, Node, Patterns
from xds.model.rules import Placement
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE, SECRET, short_name
from xds.model.xdstp import XDSTP
from xds.protocol.inspection import How, NackSeen, Standing, Wait, Waiting
from xds.protocol.status import NodeSummary

NO_TABLE = GroupTable()
HIDDEN_GROUP = "(a group that you may not read)"
"""Instead of the name of a group."""


class Verdict(Enum):
    """What came of it."""

    HAS = "it has it"
    HAS_OTHER = "it has another version"
    LACKS = "it does not have it"
    REMOVED = "it does not have it, and should not"
    STILL_HAS = "it still has it, and should not"
    WOULD_GET = "it would get it, if it subscribes to it"
    WOULD_LACK = "it would not get it"
    UNKNOWN = "nothing is known of it"


class Why(Enum):
    """A step, and what to do where it goes no further; {…} are facts."""

    NODE_UNKNOWN = (
        "no node {node!r} is connected, and none left lately",
        "look for its id with `xds nodes --search`, and in its bootstrap (node.id)",
    )
    NOT_ALL_ANSWERED = ("{names} did not answer, and may have the node", "ask again; `xds status` says what is wrong")
    NODE_GONE = (
        "it is not connected: {left}; what follows is what it would get",
        "see whether it runs and reaches this address; it connects by itself",
    )
    METADATA_UNKNOWN = (
        "its metadata is not known while it is not connected, and rules look at it: it may be placed otherwise",
        "ask again once it is connected",
    )
    REFUSED = ("{refusal}", "change the rules (`xds groups rules`), or what the node says or shows of itself")
    BY_RULE = ("rule {rule} puts it into the group {group!r}: {words}", "")
    BY_CLUSTER = ("there are no rules: it belongs to the group of its cluster, {group!r}", "")
    WITHOUT_RULES = (
        "there are no rules, and no group has the name of its cluster: it belongs to the group {group!r}",
        "if it belongs elsewhere, write a rule for it (docs/directory.md), or set its cluster to the group's name",
    )
    BY_DEFAULT = (
        "no rule takes it, so it belongs to the group {group!r}",
        "if it belongs elsewhere, write a rule for it (docs/directory.md), or set its cluster to the group's name",
    )
    MOVING = ("it is being moved from the group {group!r}, as the rules have changed", "wait a moment")
    HIDDEN = (
        "it belongs to a group that you may not read: neither why nor what that has is told",
        "ask someone who may read all groups",
    )
    GROUP_HAS = ("the group {group!r} has it itself, version {wanted}{since}", "")
    GROUP_INHERITS = ("the group {group!r} has it from {base!r}, which it extends, version {wanted}{since}", "")
    GROUP_INHERITS_HIDDEN = (
        "the group {group!r} has it from a group that you may not read: which versions there are is not told",
        "ask someone who may read all groups",
    )
    GROUP_LACKS = (
        "the group {group!r} does not have it, nor does what it extends{elsewhere}",
        "push it to the group (`xds apply --group {group}`), or let the group extend one that has it",
    )
    SECRETS_WITHHELD = (
        "secrets are withheld from this client",
        "let it connect with TLS and what `secrets.require` asks for (docs/how-to/tls.md)",
    )
    NO_TYPE = ("it has not subscribed to {type}", "{cause}")
    NOT_SUBSCRIBED = ("it subscribes to other {type} and not to this one", "{cause}")
    SUBSCRIBED = ("it subscribes to it {how}", "")
    WAITS = ("its change to version {wanted} waits: {cause}{names}{left}", "{do}")
    NACKED = (
        "it rejected {names} with: {message}",
        "correct the resource and push it again; it is not sent until it changes",
    )
    ACCEPTED = ("it has accepted version {accepted}", "")
    ACCEPTED_OLDER = ("the last version that it accepted is {accepted}", "")
    ACCEPTED_NOTHING = ("it has accepted no version of it yet", "")
    ACCEPTED_UNKNOWN = ("which version it accepted last is not known", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the way. ``is_well``: it does not stand in the way."""

    why: Why
    text: str
    do: str = ""
    is_well: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a node has a resource, or not, on one of its connections."""

    node: str
    type_url: str
    name: str
    verdict: Verdict
    steps: tuple[Step, ...]
    replica: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a node and of a resource."""

    node_id: str
    type_url: str
    name: str
    table: GroupTable = NO_TABLE
    node: Node | None = None
    """None if it is unknown."""
    left: str = ""
    """Why and when it left, "" while it is connected."""
    summary: NodeSummary | None = None
    """None unless it is connected."""
    placement: Placement | None = None
    """Where the rules put it."""
    is_hidden: bool = False
    """Whether the asker may not read that group: neither its rule nor its content is told."""
    lineage: tuple[str, ...] = ()
    """Its group and those that it extends, nearest first."""
    versions: Mapping[str, str] | None = None
    """By group of the lineage that has the resource itself, its version."""
    hides_versions: bool = False
    """Whether the resource is of a group that the asker may not read: only whether the node gets it is told."""
    elsewhere: tuple[str, ...] = ()
    """Other groups that have it."""
    wanted_at: int = 0
    gets_secrets: bool = True
    standing: Standing | None = None
    nacks: tuple[NackSeen, ...] = ()
    missing: tuple[str, ...] = ()
    """Workers and replicas that did not answer."""


def explain(facts: Facts) -> Explanation:
    """Return the explanation of the facts."""
    steps = tuple(_steps(facts))
    summary = facts.summary
    return Explanation(
        node=facts.node_id,
        type_url=facts.type_url,
        name=facts.name,
        verdict=_verdict(facts, steps),
        steps=steps,
        replica="" if summary is None else summary.replica,
        worker="" if summary is None else summary.worker,
    )


def _verdict(facts: Facts, steps: tuple[Step, ...]) -> Verdict:
    standing = facts.standing
    if facts.node is None:
        return Verdict.UNKNOWN
    if facts.summary is None or standing is None:
        stops = any(not step.is_well and step.why not in (Why.NODE_GONE, Why.METADATA_UNKNOWN) for step in steps)
        return Verdict.UNKNOWN if facts.is_hidden else Verdict.WOULD_LACK if stops else Verdict.WOULD_GET
    wants = standing.wanted if standing.how not in (How.NOT, How.NO_TYPE) else ""
    if not wants:
        if standing.accepted:
            return Verdict.STILL_HAS
        return Verdict.LACKS if standing.wanted else Verdict.REMOVED
    if standing.accepted == wants:
        return Verdict.HAS
    return Verdict.HAS_OTHER if standing.accepted else Verdict.LACKS


def _step(why: Why, *, is_well: bool = True, **facts: object) -> Step:
    text, do = why.value
    return Step(why=why, text=text.format(**facts), do=do.format(**facts), is_well=is_well)


def _steps(facts: Facts) -> Iterator[Step]:
    if facts.node is None:
        if facts.missing:
            yield _step(Why.NOT_ALL_ANSWERED, is_well=False, names=", ".join(facts.missing))
        yield _step(Why.NODE_UNKNOWN, is_well=False, node=facts.node_id)
        return
    if facts.summary is None:
        yield _step(Why.NODE_GONE, is_well=False, left=facts.left or "it left")
    yield from _place(facts)
    if facts.placement is None or facts.placement.group is None:
        return
    if not facts.is_hidden:
        yield from _content(facts)
    if facts.type_url == SECRET and not facts.gets_secrets:
        yield _step(Why.SECRETS_WITHHELD, is_well=False)
        return
    if facts.standing is not None:
        yield from _delivery(facts, facts.standing)


def _place(facts: Facts) -> Iterator[Step]:
    placement, node = facts.placement, facts.node
    assert node is not None
    if placement is None:
        return
    if facts.summary is None and any(rule.metadata or rule.require.metadata for rule in facts.table.rules):
        yield _step(Why.METADATA_UNKNOWN, is_well=False)
    if placement.group is None:
        yield _step(Why.REFUSED, is_well=False, refusal=placement.refusal)
        return
    if facts.is_hidden:
        yield _step(Why.HIDDEN, is_well=False)
    elif placement.rule is not None:
        words = rule_words(facts.table.rules[placement.rule - 1]) if placement.rule <= len(facts.table.rules) else ""
        yield _step(Why.BY_RULE, rule=placement.rule, group=placement.group, words=words)
    elif not facts.table.rules and node.cluster == placement.group:
        yield _step(Why.BY_CLUSTER, group=placement.group)
    else:
        yield _step(Why.BY_DEFAULT if facts.table.rules else Why.WITHOUT_RULES, group=placement.group)
    if facts.summary is not None and facts.summary.group != placement.group:
        yield _step(Why.MOVING, is_well=False, group=facts.summary.group)


def rule_words(rule: Patterns) -> str:
    """Return what a rule looks at: ``cluster web-*, region eu``."""
    parts = [
        f"{part} {glob}"
        for part in ("id", "cluster", "region", "zone", "sub_zone")
        if (glob := getattr(rule, part)) != "*"
    ]
    parts += [f"metadata {path} {glob}" for path, glob in rule.metadata.items()]
    parts += [f"identity {rule.identity}"] if rule.identity != Patterns().identity else []
    return ", ".join(parts) or "it takes every node"


def _content(facts: Facts) -> Iterator[Step]:
    own, lineage = facts.versions or {}, facts.lineage
    having = next((group for group in lineage if group in own), None)
    if having is None:
        others = ", ".join(map(repr, facts.elsewhere))
        elsewhere = f"; {others} {'has' if len(facts.elsewhere) == 1 else 'have'} one of that name" if others else ""
        yield _step(Why.GROUP_LACKS, is_well=False, group=lineage[0], elsewhere=elsewhere)
        return
    if having == HIDDEN_GROUP:
        yield _step(Why.GROUP_INHERITS_HIDDEN, group=lineage[0])
        return
    since = f", as of revision {facts.wanted_at}" if facts.wanted_at else ""
    why = Why.GROUP_HAS if having == lineage[0] else Why.GROUP_INHERITS
    yield _step(why, group=lineage[0], base=having, wanted=own[having], since=since)


_CAUSES = {
    CLUSTER: "Envoy subscribes to clusters by dynamic_resources.cds_config of its bootstrap",
    ENDPOINTS: "Envoy asks for endpoints of EDS clusters that it has: see that a cluster of its group names them",
    ROUTE: "Envoy asks for routes that its listeners name (rds.route_config_name): see that one does",
    SECRET: "Envoy asks for secrets that its clusters and listeners name (sds_config): see that one does",
}
_XDSTP_CAUSE = (
    "Envoy asks for xdstp:// names that a resource or its bootstrap (cds_resources_locator, lds_resources_locator) "
    "gives; the wildcard of cds_config does not take them"
)
_ANY_CAUSE = "see that a resource of its group, or its bootstrap, refers to it"


def _delivery(facts: Facts, standing: Standing) -> Iterator[Step]:
    is_xdstp = facts.name.startswith(XDSTP)
    cause = _XDSTP_CAUSE if is_xdstp else _CAUSES.get(facts.type_url, _ANY_CAUSE)
    word = short_name(facts.type_url)
    if standing.how is How.NO_TYPE:
        yield _step(Why.NO_TYPE, is_well=False, type=word, cause=cause)
        return
    if standing.how is How.NOT and not standing.accepted:
        yield _step(Why.NOT_SUBSCRIBED, is_well=False, type=word, cause=cause)
        return
    if standing.how is How.NOT:
        yield _step(Why.NOT_SUBSCRIBED, is_well=not standing.wanted, type=word, cause=cause)
    else:
        yield _step(Why.SUBSCRIBED, how=standing.how.value)
    if facts.hides_versions:
        return
    for waiting in standing.waits:
        yield _waiting(standing, waiting)
    yield from _nacks(facts, standing)
    yield from _accepted(standing)


def _nacks(facts: Facts, standing: Standing) -> Iterator[Step]:
    if not any(waiting.why is Wait.REJECTED for waiting in standing.waits) and standing.progress.name != "NACKED":
        return
    found = (each for each in facts.nacks if each.type_url == facts.type_url)
    nack = next((each for each in found if facts.name in each.names or each.count > len(each.names)), None)
    if nack is not None:
        others = (
            ""
            if nack.count == 1
            else f", with {nack.count - 1:,} other{'' if nack.count == 2 else 's'} in one response,"
        )
        yield _step(Why.NACKED, is_well=False, names=f"it{others}", message=nack.message)


def _accepted(standing: Standing) -> Iterator[Step]:
    if standing.accepted is None:
        yield _step(Why.ACCEPTED_UNKNOWN, is_well=False)
    elif not standing.accepted:
        if standing.wanted:
            yield _step(Why.ACCEPTED_NOTHING, is_well=False)
    elif standing.accepted == standing.wanted:
        yield _step(Why.ACCEPTED, accepted=standing.accepted)
    else:
        yield _step(Why.ACCEPTED_OLDER, is_well=False, accepted=standing.accepted)


_DO: Mapping[Wait, str] = {
    Wait.SENDING: "look again soon; if it stays, the client does not read, or its worker is silent (`xds status`)",
    Wait.ANSWER: "see the log of the Envoy; it answers clusters and listeners only once they are warm",
    Wait.EARLIER_ANSWER: "see the log of the Envoy for what it does with that response",
    Wait.EARLIER_PARTS: "wait for its answers to the earlier parts",
    Wait.CLUSTERS_ANSWER: "see that these clusters have endpoints and secrets: an Envoy answers once they are warm",
    Wait.CLUSTERS_REQUEST: "wait: an Envoy asks for its clusters first",
    Wait.CLUSTERS_WARM: "push these endpoints, or see why the client does not answer them",
    Wait.LISTENERS: "see what the listeners wait for",
    Wait.MISSING_CLUSTERS: "correct these clusters: `xds node` shows what the client said of them",
    Wait.REJECTED: "correct the resource and push it again",
    Wait.STILL_USED: "take the cluster out of these, or leave it where it is: an unused cluster costs nothing",
    Wait.DRAINING: "wait: requests on connections that drain may still need the cluster",
    Wait.ROUTES_ANSWER: "see what these types wait for",
    Wait.RETURNING: "wait",
    Wait.CLUSTER_REMOVAL: "see what the removal of the cluster waits for",
    Wait.UNSUBSCRIBE: "take it out of the listeners that name it: Envoy answers 500 without it",
}


def _waiting(standing: Standing, waiting: Waiting) -> Step:
    wanted = standing.wanted or "none (its removal)"
    words = [_word(each) for each in waiting.names]
    names = f" ({', '.join(words)})" if words else ""
    left = f", for {waiting.left_s:.0f} s at most" if waiting.left_s else ""
    is_well = waiting.why is Wait.SENDING
    return _step(
        Why.WAITS,
        is_well=is_well,
        wanted=wanted,
        cause=waiting.why.value,
        names=names,
        left=left,
        do=_DO[waiting.why],
    )


def _word(name: str) -> str:
    """Return ``type name`` as ``routes/name``, and another name as it is."""
    type_url, _, rest = name.partition(" ")
    if not type_url.startswith("type.googleapis.com/"):
        return name
    return f"{short_name(type_url)}/{rest}" if rest else short_name(type_url)
