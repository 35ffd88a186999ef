"""Evaluation of unified matchers (``xds.type.matcher.v3.Matcher``)."""

import ipaddress
from collections.abc import Callable
from typing import Any, NamedTuple

from xds.routing.fields import optional
from xds.routing.matching import Verdict, match_string, said

DEPTH_MAX = 32
"""Matchers within matchers."""
Input = Callable[[Any], tuple[bool, str | None]]
"""Returns, for the config of an input, whether it is known, and its text, None where the request has none."""
Hides = Callable[[Any], bool]
"""Returns whether something in a message is a secret, so that it is not compared."""


class Found(NamedTuple):
    """The action of a matcher, None without one; ``unknown`` says why that is not known, "" if it is."""

    action: Any
    unknown: str = ""


def evaluate(matcher: Any, read: Input, hides: Hides, depth: int = 0) -> Found:
    """Return the action that a matcher ends with. ``read`` reads its inputs."""
    if depth > DEPTH_MAX:
        return Found(None, f"its matchers nest more than {DEPTH_MAX} deep")
    kind = matcher.WhichOneof("matcher_type")
    found: Found | None = None
    if kind == "matcher_list":
        found = _of_list(matcher.matcher_list, read, hides, depth)
    elif kind == "matcher_tree":
        found = _of_tree(matcher.matcher_tree, read, hides, depth)
    if found is not None:
        return found
    return _on_match(matcher.on_no_match, read, hides, depth) if matcher.HasField("on_no_match") else Found(None)


def _on_match(on_match: Any, read: Input, hides: Hides, depth: int) -> Found:
    if optional(on_match, "keep_matching"):
        return Found(None, "it has keep_matching")
    if on_match.WhichOneof("on_match") == "matcher":
        return evaluate(on_match.matcher, read, hides, depth + 1)
    return Found(on_match.action)


def _of_list(matchers: Any, read: Input, hides: Hides, depth: int) -> Found | None:
    for each in matchers.matchers:
        verdict = _predicate(each.predicate, read, hides, depth)
        if verdict.is_match is None:
            return Found(None, verdict.why)
        if verdict.is_match:
            found = _on_match(each.on_match, read, hides, depth)
            if found.action is not None or found.unknown:
                return found
    return None


def _predicate(predicate: Any, read: Input, hides: Hides, depth: int) -> Verdict:
    if depth > DEPTH_MAX:
        return Verdict(None, f"its predicates nest more than {DEPTH_MAX} deep")
    kind = predicate.WhichOneof("match_type")
    if kind == "single_predicate":
        return _single(predicate.single_predicate, read, hides)
    if kind == "not_matcher":
        inner = _predicate(predicate.not_matcher, read, hides, depth + 1)
        return inner if inner.is_match is None else Verdict(not inner.is_match, "it must not match")
    verdicts = [_predicate(each, read, hides, depth + 1) for each in getattr(predicate, kind).predicate]
    decisive = kind == "or_matcher"
    for each in verdicts:
        if each.is_match is decisive:
            return each
    return next((each for each in verdicts if each.is_match is None), Verdict(not decisive, "none matches"))


def _single(single: Any, read: Input, hides: Hides) -> Verdict:
    is_known, text = read(single.input.typed_config)
    name = single.input.name or single.input.typed_config.type_url.rpartition(".")[2]
    if not is_known:
        return Verdict(None, f"its input {name} is not known, or hidden")
    if single.WhichOneof("matcher") != "value_match":
        return Verdict(None, f"a custom matcher of {name}")
    if text is None:
        return Verdict(False, f"{name} is missing")
    if hides(single):
        return Verdict(None, f"what its input {name} must be is hidden")
    is_match = match_string(single.value_match, text)
    return Verdict(is_match, "" if is_match else f"{name} is {text!r}; wanted: {said(single.value_match)}")


def _of_tree(tree: Any, read: Input, hides: Hides, depth: int) -> Found | None:
    is_known, text = read(tree.input.typed_config)
    if not is_known:
        return Found(None, f"its input {tree.input.name} is not known, or hidden")
    kind = tree.WhichOneof("tree_type")
    if kind == "custom_match":
        return Found(None, f"its tree is a custom one, {tree.custom_match.name}")
    if text is None:
        return None
    if kind == "exact_match_map":
        entries = tree.exact_match_map.map
        found = _on_match(entries[text], read, hides, depth) if text in entries else Found(None)
        return found if found.action is not None or found.unknown else None
    entries = tree.prefix_match_map.map
    for prefix in sorted((each for each in entries if text.startswith(each)), key=len, reverse=True):
        found = _on_match(entries[prefix], read, hides, depth)
        if found.action is not None or found.unknown:
            return found
    return None


def is_within(address: str, cidr: Any) -> bool:
    """Return whether an IP address lies in a CidrRange."""
    network = network_of(cidr)
    ip = ipaddress.ip_address(address)
    return network is not None and ip.version == network.version and ip in network


def network_of(cidr: Any) -> "ipaddress.IPv4Network | ipaddress.IPv6Network | None":
    """Return the network of a CidrRange, None if it is none."""
    try:
        return ipaddress.ip_network(f"{cidr.address_prefix}/{cidr.prefix_len.value}", strict=False)
    except ValueError:
        return None
