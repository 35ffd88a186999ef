"""The listener that takes a connection, and its filter chain, as Envoy chooses them.

Envoy looks at a filter chain's criteria one after another (``envoy.config.listener.v3.FilterChainMatch``). At each, the
most specific value that fits wins, and chains without it are out, even if no chain is left in the end.
"""

from collections.abc import Callable
from typing import Any

from xds.model.types import LISTENER
from xds.routing.addresses import has_port, is_at, is_bound, is_wildcard_at, said, said_addresses, takes
from xds.routing.answer import EndOfWayError, Notes, Outcome, Passed
from xds.routing.fields import is_set
from xds.routing.request import Request
from xds.routing.resources import Resources
from xds.routing.unified import evaluate, is_within, network_of
from xds.schema.formats import ascii_lower

_LOOPBACK = ("127.0.0.1", "::1")
"""The addresses that Envoy calls local; others of 127.0.0.0/8 are not."""
_INSPECTORS = {"tls": "tls_inspector", "http": "http_inspector"}
_NETWORK = "envoy.extensions.matching.common_inputs.network.v3."


def choose_listener(resources: Resources, request: Request, notes: Notes) -> Any:
    """Return the listener that takes the request. Raises EndOfWayError."""
    listeners = resources.all(LISTENER)
    if request.listener:
        found = resources.get(LISTENER, request.listener)
        if found is None:
            raise EndOfWayError(_closed(f"the group has no listener {request.listener!r}", listeners))
        notes.step("listener", f"listeners/{request.listener}", "it is the one asked for")
        return _handed_over(resources, found, request, notes)
    passed, fitting = [], []
    for name, each in listeners:
        if takes(each, request.address, request.port):
            fitting.append((name, each))
        else:
            passed.append(Passed(f"listeners/{name}", f"it is at {', '.join(said_addresses(each)) or 'no address'}"))
    if not fitting:
        raise EndOfWayError(_closed(_none_takes(listeners, request), listeners))
    bound = [pair for pair in fitting if is_bound(pair[1])] or fitting
    exact = [pair for pair in bound if is_at(pair[1], request.address, request.port)]
    name, chosen = (exact or bound)[0]
    if not is_bound(chosen):
        what = (
            "it does not bind to its port (bind_to_port), so it only takes connections that another listener hands over"
        )
        notes.doubt(f"listeners/{name}", what)
    if len(bound) > 1 and not exact:
        others = ", ".join(other for other, _ in bound[1:4])
        notes.doubt(f"listeners/{name}", f"others are at port {request.port} too ({others}): give the address")
    notes.step("listener", f"listeners/{name}", f"it is at port {request.port}", passed)
    return _handed_over(resources, chosen, request, notes)


def _none_takes(listeners: list[tuple[str, Any]], request: Request) -> str:
    if request.address is not None and any(has_port(each, request.port) for _, each in listeners):
        return f"no listener of the group takes connections to {said(request.address, request.port)}"
    return f"no listener of the group is at port {request.port}: give the port, or the listener"


def _handed_over(resources: Resources, listener: Any, request: Request, notes: Notes) -> Any:
    """Return the listener that a connection is handed over to by its original destination, else the listener itself."""
    hands_over = listener.use_original_dst.value
    restores = hands_over or any(
        "original_dst" in each.typed_config.type_url or "original_dst" in each.name
        for each in listener.listener_filters
    )
    if restores and request.address is None:
        notes.doubt(f"listeners/{listener.name}", "it restores the original destination: give that by its address")
    if not hands_over:
        return listener
    others = [(name, each) for name, each in resources.all(LISTENER) if each.name != listener.name]
    for name, each in others:
        if is_at(each, request.address, request.port):
            to = said(request.address or "", request.port)
            notes.step("listener", f"listeners/{name}", f"the connection went to {to}")
            return each
    for name, each in others:
        if is_wildcard_at(each, request.address, request.port):
            notes.step("listener", f"listeners/{name}", f"the connection went to port {request.port}")
            return each
    return listener


def _closed(what: str, listeners: list[tuple[str, Any]]) -> Outcome:
    shown = [f"{name} ({', '.join(said_addresses(each)) or 'no address'})" for name, each in listeners[:10]]
    more = f", and {len(listeners) - 10} more" if len(listeners) > 10 else ""
    return Outcome(kind="error", what=f"{what}; it has {', '.join(shown) + more or 'no listeners'}")


def choose_chain(resources: Resources, listener: Any, request: Request, notes: Notes) -> Any:
    """Return the filter chain that takes the connection. Raises EndOfWayError."""
    if is_set(listener, "fcds_config"):
        notes.doubt(f"listeners/{listener.name}", "it gets further filter chains by discovery (fcds_config)")
    facts = _facts(listener, request, notes)
    if is_set(listener, "filter_chain_matcher"):
        return _by_matcher(resources, listener, facts, notes)
    left = list(enumerate(listener.filter_chains))
    passed: list[Passed] = []
    decided = []
    for criterion, pick in _CRITERIA:
        if not left:
            break
        kept = pick(left, facts)
        numbers = {number for number, _ in kept}
        gone = [pair for pair in left if pair[0] not in numbers]
        if gone or any(_has(chain, criterion) for _, chain in kept):
            decided.append(criterion)
        fact, giving = _FACTS.get(criterion, ("", ""))
        if fact and facts[fact] is None and any(_has(chain, criterion) for _, chain in left):
            notes.doubt(f"listeners/{listener.name}", f"{criterion} decides among filter chains: give {giving}")
        passed += [Passed(_named(*pair), _why_out(pair, (criterion, pick), facts)) for pair in gone]
        left = kept
    if left:
        number, chain = left[0]
        by = [each for each in decided if _has(chain, each)]
        because = f"by its {' and '.join(by)}" if by else "it has no criterion that excludes the connection"
        notes.step("filter chain", _named(number, chain), because, passed)
        return chain
    return _default(listener, notes, passed)


def _default(listener: Any, notes: Notes, passed: list[Passed]) -> Any:
    if not listener.HasField("default_filter_chain"):
        if not passed:
            what = f"listeners/{listener.name} has no filter chains"
        else:
            what = f"no filter chain of listeners/{listener.name} takes the connection, so Envoy closes it"
        notes.step("filter chain", "none", "no filter chain fits, and there is no default_filter_chain", passed)
        raise EndOfWayError(Outcome(kind="error", what=what))
    notes.step("filter chain", "default_filter_chain", "no other filter chain fits", passed)
    return listener.default_filter_chain


def _by_matcher(resources: Resources, listener: Any, facts: dict[str, Any], notes: Notes) -> Any:
    inputs = {
        "DestinationIPInput": facts["address"],
        "DestinationPortInput": str(facts["port"]),
        "SourceIPInput": facts["source"],
        "DirectSourceIPInput": facts["source"],
        "SourcePortInput": None if facts["source_port"] is None else str(facts["source_port"]),
        "ServerNameInput": facts["server_name"],
        "TransportProtocolInput": facts["transport"],
        "ApplicationProtocolInput": ",".join(f"'{each}'" for each in facts["alpn"]),
    }

    def read(packed: Any) -> tuple[bool, str | None]:
        short = packed.type_url.rpartition(".")[2]
        is_known = _NETWORK in packed.type_url and short in inputs
        value = inputs.get(short)
        return is_known and value is not None, value or None

    found = evaluate(listener.filter_chain_matcher, read, resources.hides)
    if found.unknown:
        what = f"which filter chain takes it is not known: {found.unknown}"
        raise EndOfWayError(Outcome(kind="unknown", what=what))
    if found.action is None:
        return _default(listener, notes, [Passed("filter_chain_matcher", "it names no filter chain")])
    name = getattr(resources.unpack(found.action.typed_config), "value", None)
    if name is None:
        raise EndOfWayError(Outcome(kind="unknown", what="its filter_chain_matcher has an action of another kind"))
    for number, chain in enumerate(listener.filter_chains):
        if chain.name == name:
            notes.step("filter chain", _named(number, chain), "filter_chain_matcher names it")
            return chain
    raise EndOfWayError(Outcome(kind="error", what=f"filter_chain_matcher names {name!r}, which there is not"))


def _named(number: int, chain: Any) -> str:
    return f"filter_chains[{number}]" + (f" {chain.name!r}" if chain.name else "")


def _facts(listener: Any, request: Request, notes: Notes) -> dict[str, Any]:
    """Return what Envoy knows of the connection: the listener filters that are there decide that."""
    filters = [f"{each.name} {each.typed_config.type_url}" for each in listener.listener_filters]
    for each in listener.listener_filters:
        if each.HasField("filter_disabled"):
            notes.doubt(f"listeners/{listener.name}", f"the listener filter {each.name} may be disabled")
        if "proxy_protocol" in each.name or "proxy_protocol" in each.typed_config.type_url:
            notes.doubt(f"listeners/{listener.name}", "the proxy protocol may give the connection other addresses")
    has_tls = any(_INSPECTORS["tls"] in each for each in filters) or _needs_inspector(listener)
    has_http = any(_INSPECTORS["http"] in each for each in filters)
    sees_tls = request.is_tls and has_tls
    alpn = request.alpn if sees_tls else ()
    if not request.is_tls and has_http and request.scheme in ("http", "grpc"):
        alpn = ("h2c",) if request.scheme == "grpc" else ("http/1.1",)
    return {
        "port": request.port,
        "address": request.address,
        "source": request.source,
        "source_port": request.source_port,
        "server_name": request.server_name if sees_tls else "",
        "transport": "tls" if sees_tls else "raw_buffer",
        "alpn": alpn,
    }


def _needs_inspector(listener: Any) -> bool:
    """Return whether Envoy adds the TLS inspector by itself, since filter chains look at what it finds."""
    for chain in listener.filter_chains:
        match = chain.filter_chain_match
        looks = bool(match.server_names) or bool(match.application_protocols)
        if match.transport_protocol == "tls" or (not match.transport_protocol and looks):
            return True
    return False


Chains = list[tuple[int, Any]]
Facts = dict[str, Any]


def _has(chain: Any, criterion: str) -> bool:
    match = chain.filter_chain_match
    if criterion == "destination_port":
        return bool(match.HasField(criterion))
    return bool(getattr(match, criterion))


def _best(chains: Chains, rank: Callable[[Any], Any]) -> Chains:
    """Return the chains with the highest rank; None excludes a chain."""
    ranks = [(rank(chain.filter_chain_match), (number, chain)) for number, chain in chains]
    best = max((each for each, _ in ranks if each is not None), default=None)
    return [pair for each, pair in ranks if each is not None and each == best]


def _by_port(chains: Chains, facts: Facts) -> Chains:
    def rank(match: Any) -> int | None:
        if not match.HasField("destination_port"):
            return 0
        return 1 if match.destination_port.value == facts["port"] else None

    return _best(chains, rank)


def _by_ranges(field: str, fact: str) -> Callable[[Chains, Facts], Chains]:
    def pick(chains: Chains, facts: Facts) -> Chains:
        def rank(match: Any) -> int | None:
            ranges = getattr(match, field)
            if not ranges:
                return 0
            if facts[fact] is None:
                return None
            fits = [network_of(each) for each in ranges if is_within(facts[fact], each)]
            return max((each.prefixlen for each in fits if each is not None), default=None)

        return _best(chains, rank)

    return pick


def _by_server_name(chains: Chains, facts: Facts) -> Chains:
    name = facts["server_name"]

    def rank(match: Any) -> int | None:
        if not match.server_names:
            return 0
        if not name:
            return None
        known = [ascii_lower(each) for each in match.server_names]
        if name in known:
            return len(name) + 1_000
        suffixes = [each[1:] for each in known if each.startswith("*.")]
        return max((len(each) for each in suffixes if name.endswith(each) and len(name) > len(each)), default=None)

    return _best(chains, rank)


def _by_transport(chains: Chains, facts: Facts) -> Chains:
    def rank(match: Any) -> int | None:
        if not match.transport_protocol:
            return 0
        return 1 if match.transport_protocol == facts["transport"] else None

    return _best(chains, rank)


def _by_alpn(chains: Chains, facts: Facts) -> Chains:
    for protocol in facts["alpn"]:
        fits = [pair for pair in chains if protocol in pair[1].filter_chain_match.application_protocols]
        if fits:
            return fits
    return [pair for pair in chains if not pair[1].filter_chain_match.application_protocols]


def _by_source_type(chains: Chains, facts: Facts) -> Chains:
    is_local = facts["source"] is not None and (facts["source"] in _LOOPBACK or facts["source"] == facts["address"])
    wanted = 1 if is_local else 2
    fits = [pair for pair in chains if pair[1].filter_chain_match.source_type == wanted]
    return fits or [pair for pair in chains if not pair[1].filter_chain_match.source_type]


def _by_source_port(chains: Chains, facts: Facts) -> Chains:
    def rank(match: Any) -> int | None:
        if not match.source_ports:
            return 0
        return 1 if facts["source_port"] in match.source_ports else None

    return _best(chains, rank)


_CRITERIA: tuple[tuple[str, Callable[[Chains, Facts], Chains]], ...] = (
    ("destination_port", _by_port),
    ("prefix_ranges", _by_ranges("prefix_ranges", "address")),
    ("server_names", _by_server_name),
    ("transport_protocol", _by_transport),
    ("application_protocols", _by_alpn),
    ("direct_source_prefix_ranges", _by_ranges("direct_source_prefix_ranges", "source")),
    ("source_type", _by_source_type),
    ("source_prefix_ranges", _by_ranges("source_prefix_ranges", "source")),
    ("source_ports", _by_source_port),
)


_FACTS = {
    "prefix_ranges": ("address", "the address"),
    "direct_source_prefix_ranges": ("source", "the source"),
    "source_type": ("source", "the source"),
    "source_prefix_ranges": ("source", "the source"),
    "source_ports": ("source_port", "the source with its port"),
}
"""What a criterion looks at that may not be known, and what gives it."""


def _why_out(pair: tuple[int, Any], by: tuple[str, Callable[[Chains, Facts], Chains]], facts: Facts) -> str:
    """Return why a criterion excludes a chain."""
    criterion, pick = by
    match = pair[1].filter_chain_match
    if not _has(pair[1], criterion):
        return f"another chain's {criterion} fits"
    fact = {
        "destination_port": f"the port is {facts['port']}",
        "prefix_ranges": f"the destination is {facts['address'] or 'not known'}",
        "server_names": f"the server name is {facts['server_name']!r}" if facts["server_name"] else "no server name",
        "transport_protocol": f"the transport is {facts['transport']}",
        "application_protocols": f"the protocols are {', '.join(facts['alpn']) or 'not known'}",
        "source_ports": f"the source's port is {facts['source_port'] or 'not known'}",
    }.get(criterion, f"the source is {facts['source'] or 'not known'}")
    fits = " fits, but another chain's fits better" if pick([pair], facts) else ""
    return f"{criterion} {_wanted(match, criterion)}{fits}: {fact}"


def _wanted(match: Any, criterion: str) -> str:
    value = getattr(match, criterion)
    if criterion == "destination_port":
        return str(value.value)
    if criterion == "source_type":
        return str(match.DESCRIPTOR.fields_by_name[criterion].enum_type.values_by_number[value].name)
    if criterion.endswith("ranges"):
        return ", ".join(str(network_of(each)) for each in list(value)[:5])
    return str(value) if isinstance(value, str) else ", ".join(map(str, list(value)[:5]))
