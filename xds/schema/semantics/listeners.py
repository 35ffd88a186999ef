"""Listeners: their addresses, and filter chains that match the same connections."""

from itertools import product
from typing import Any

from xds.schema.decode import Findings
from xds.schema.formats import ascii_lower
from xds.schema.paths import Trail, path_of
from xds.schema.rules import first_repeated, shown
from xds.schema.semantics.addresses import check_compat, check_ip, check_pipe, network_text
from xds.schema.semantics.codecs import check_codecs
from xds.schema.semantics.rule import Rule, Walks

COMBINATIONS_MAX = 100_000
"""Beyond so many combinations of criteria, chains of a listener are not compared."""
_LISTENER = "envoy.config.listener.v3."
_RANGES = ("prefix_ranges", "direct_source_prefix_ranges", "source_prefix_ranges")
_HINT = "give its chains criteria that exclude each other"


def _check_listener(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    places = [(message.address, (trail, "address"))] if message.HasField("address") else []
    for index, additional in enumerate(message.additional_addresses):
        places.append((additional.address, (((trail, "additional_addresses"), index), "address")))
    for address, here in places:
        check_ip(address, here, found, hint="a listener listens on an IP address; use a cluster to reach a name")
        check_compat(address, here, found)
    _check_shape(message, trail, found)
    _check_protocols(message, trail, found)
    _check_unbound(message, trail, found)
    check_codecs(message, trail, found, walks)
    ignores_criteria = message.HasField("filter_chain_matcher")
    for index, chain in enumerate(message.filter_chains):
        here = (((trail, "filter_chains"), index), "filter_chain_match")
        _check_suffix(chain.filter_chain_match, here, found)
        if not ignores_criteria:
            _check_match(chain.filter_chain_match, here, found)
    if ignores_criteria:
        _check_names(message.filter_chains, trail, found)
        return
    _check_chains(message.filter_chains, trail, found)


def _check_shape(message: Any, trail: Trail, found: Findings) -> None:
    """Check that a listener has what its kind needs: TCP filter chains, UDP none but for QUIC."""
    if message.HasField("api_listener"):
        return
    has_chains = bool(message.filter_chains) or message.HasField("default_filter_chain")
    if message.WhichOneof("listener_specifier") is not None:
        for field in ("address", "additional_addresses"):
            if message.HasField(field) if field == "address" else message.additional_addresses:
                found.add((trail, field), "must not be set for an internal listener")
        if not has_chains:
            found.add((trail, "filter_chains"), _NO_CHAINS)
        return
    if not message.HasField("address"):
        found.add((trail, "address"), "is required", "for example socket_address: {address: 0.0.0.0, port_value: 8080}")
        return
    is_quic = message.udp_listener_config.HasField("quic_options")
    if message.address.socket_address.protocol != message.address.socket_address.UDP:
        if not has_chains:
            found.add((trail, "filter_chains"), _NO_CHAINS)
    elif is_quic and not has_chains:
        found.add((trail, "filter_chains"), _NO_CHAINS)
    elif has_chains and not is_quic:
        hint = "set udp_listener_config.quic_options for HTTP/3, or use listener_filters such as udp_proxy"
        found.add((trail, "filter_chains"), "must be empty in a listener on UDP without QUIC", hint)


_NO_CHAINS = "must have a filter chain, unless default_filter_chain is set"


def _check_protocols(message: Any, trail: Trail, found: Findings) -> None:
    """Check that a listener is of TCP or UDP on all of its addresses."""
    if not message.HasField("address"):
        return
    udp = message.address.socket_address.UDP
    first = message.address.socket_address.protocol == udp
    for index, additional in enumerate(message.additional_addresses):
        if (additional.address.socket_address.protocol == udp) != first:
            here: Trail = (((trail, "additional_addresses"), index), "address")
            found.add(here, f"must be of {'UDP' if first else 'TCP'}, as the first address is", "make a listener of it")


def _check_unbound(message: Any, trail: Trail, found: Findings) -> None:
    """Check the options of a listener that binds no socket: those that a bound one is given end an Envoy that runs."""
    flags = [message] if message.HasField("bind_to_port") else [message.deprecated_v1]
    if all(each.bind_to_port.value or not each.HasField("bind_to_port") for each in flags):
        return
    if message.transparent.value:
        found.add((trail, "transparent"), f"must not be set without bind_to_port: {_ENDS}")
    places: list[tuple[Any, Trail]] = [(message.socket_options, (trail, "socket_options"))]
    for index, additional in enumerate(message.additional_addresses):
        here: Trail = ((((trail, "additional_addresses"), index), "socket_options"), "socket_options")
        places.append((additional.socket_options.socket_options, here))
    for options, here in places:
        for index, option in enumerate(options):
            of_streams = not option.HasField("type") or option.type.HasField("stream")
            if option.state == option.STATE_BOUND and of_streams:
                found.add(((here, index), "state"), f"must not be STATE_BOUND without bind_to_port: {_ENDS}")


_ENDS = "with it, a running Envoy 1.40 crashes"


def _check_names(chains: Any, trail: Trail, found: Findings) -> None:
    """Check the names of chains, by which a matcher finds them."""
    names: set[str] = set()
    for index, chain in enumerate(chains):
        here: Trail = ((((trail, "filter_chains"), index)), "name")
        if not chain.name:
            found.add(here, "is required with filter_chain_matcher, which finds chains by name")
        elif chain.name in names:
            found.add(here, f"is {shown(chain.name)}, which a chain before it has already")
        names.add(chain.name)


def _check_chains(chains: Any, trail: Trail, found: Findings) -> None:
    """Compare each combination of criteria with those of all chains, as Envoy does."""
    owners: dict[tuple[Any, ...], int] = {}
    for index, chain in enumerate(chains):
        here = (((trail, "filter_chains"), index), "filter_chain_match")
        criteria = _criteria(chain.filter_chain_match)
        if criteria is None:
            continue
        size = 1
        for values in criteria:
            size *= len(values)
        if size + len(owners) > COMBINATIONS_MAX:
            return
        other = next((owners[each] for each in product(*criteria) if owners.setdefault(each, index) != index), None)
        if other is not None:
            found.add(here, f"matches connections that filter_chains[{other}] matches alike", _HINT)


def _criteria(match: Any) -> list[list[Any]] | None:
    """Return the values of each criterion, one for any value; None if a value is invalid, which others report."""
    ranges = []
    for field in _RANGES:
        texts = [network_text(each.address_prefix, each.prefix_len.value) for each in getattr(match, field)]
        if None in texts:
            return None
        ranges.append(texts or [""])
    names = [ascii_lower(name).removeprefix("*") for name in match.server_names]
    return [
        [match.destination_port.value if match.HasField("destination_port") else 0],
        *ranges,
        list(names or [""]),
        [match.transport_protocol],
        list(match.application_protocols) or [""],
        [match.source_type],
        list(match.source_ports) or [0],
    ]


def _check_suffix(message: Any, trail: Trail, found: Findings) -> None:
    for field in ("address_suffix", "suffix_len"):
        if message.HasField(field) if field == "suffix_len" else message.address_suffix:
            found.add((trail, field), "is not implemented by Envoy", "use prefix_ranges")


def _check_match(message: Any, trail: Trail, found: Findings) -> None:
    """Check the criteria of a chain, unless Envoy ignores them: in the default one, and beside a matcher."""
    for field in _RANGES:
        for index, each in enumerate(getattr(message, field)):
            _check_prefix(each, ((trail, field), index), found)
    for index, name in enumerate(message.server_names):
        if "*" in name and not name.startswith("*."):
            hint = "write *.example.com, or leave server_names out to match any name"
            found.add(
                ((trail, "server_names"), index), f"is {shown(name)}, a wildcard that Envoy does not support", hint
            )
    for field, values in _lists(_criteria(message)):
        twice = first_repeated(values)
        if twice is not None:
            found.add(((trail, field), twice[0]), f"is the same as another of {field}", "leave it out")


def _lists(criteria: list[list[Any]] | None) -> list[tuple[str, list[Any]]]:
    """Return the criteria that may have several values."""
    if criteria is None:
        return []
    _, destination, direct, source, names, _, protocols, _, ports = criteria
    return [
        ("prefix_ranges", destination),
        ("direct_source_prefix_ranges", direct),
        ("source_prefix_ranges", source),
        ("server_names", names),
        ("application_protocols", protocols),
        ("source_ports", ports),
    ]


def _check_range(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if "filter_chain_match" not in path_of(trail)[-3:]:  # there it counts only sometimes
        _check_prefix(message, trail, found)


def _check_prefix(message: Any, trail: Trail, found: Findings) -> None:
    if message.address_prefix and network_text(message.address_prefix, 0) is None:
        found.add((trail, "address_prefix"), f"must be an IP address, but is {shown(message.address_prefix)}")


LISTENER_RULES: dict[str, Rule] = {
    _LISTENER + "Listener": _check_listener,
    "envoy.config.core.v3.CidrRange": _check_range,
    "envoy.config.core.v3.Pipe": check_pipe,
}
