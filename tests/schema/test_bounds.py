"""What is told of one resource is bounded, and so is the time to read it."""

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from schema import lenient_cases as lenient
from support import resources as r
from support.static_envoy import address, hcm, listener, static_cluster, typed, virtual_host

from xds.model.problem import ChangesetRejectedError, Problem
from xds.schema.decode import FINDINGS_MAX, TEXT_CHARACTERS_MAX, Findings
from xds.schema.ingest import FIELD_CHARACTERS_MAX, ingest
from xds.schema.semantics import texts

LONG = "a" * 100_000


def problems_of(resource: r.Json) -> tuple[Problem, ...]:
    with pytest.raises(ChangesetRejectedError) as caught:
        ingest(resource)
    return caught.value.problems


def twice(count: int, name: str = "v") -> r.Json:
    """Two virtual hosts with the same domains."""
    names = tuple(f"d{number}" for number in range(count))
    return lenient.routes(virtual_hosts=[virtual_host(name, names), virtual_host("w", names)])


def test_so_many_problems_are_told_and_that_there_are_more() -> None:
    assert len(problems_of(twice(FINDINGS_MAX))) == FINDINGS_MAX
    found = problems_of(twice(FINDINGS_MAX + 1))
    assert len(found) == FINDINGS_MAX + 1
    assert str(found[-1]).endswith(f"has more problems than these {FINDINGS_MAX} (mend these, and try again)")


def test_fields_that_are_not_known_are_bounded_too() -> None:
    found = problems_of(static_cluster("x") | {f"bogus_{number}": 1 for number in range(2 * FINDINGS_MAX)})
    assert len(found) == FINDINGS_MAX + 1
    assert "more problems" in found[-1].what


def test_long_values_take_no_memory() -> None:
    tracemalloc.start()
    found = problems_of(twice(2_000, LONG))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000, "it was 400 MB"
    assert max(len(str(each)) for each in found) < 1_000


WITH_LONG_VALUES: dict[str, Callable[[], r.Json]] = {
    "domain": lambda: lenient.domains(LONG, LONG),
    "address": lambda: static_cluster("x", LONG),
    "zone": lambda: listener(hcm(), address=address(f"fe80::1%{LONG}", ipv4_compat=True)),
    "payload": lambda: checked({"tcp_health_check": {"send": {"text": LONG + "x"}}}),
    "regex": lambda: lenient.regex(f"(?P<{LONG}ü>a)"),
    "format": lambda: lenient.route(request_headers_to_add=[{"header": {"key": "a", "value": f"%{LONG.upper()}%"}}]),
    "parameters": lambda: lenient.route(
        request_headers_to_add=[{"header": {"key": "a", "value": f"%HOSTNAME({LONG})%"}}]
    ),
    "providers": lambda: jwt(f"{LONG}x", LONG),
    "upgrade": lambda: lenient.upgrades(LONG, LONG),
    "discovered": lambda: static_cluster("x", typed_extension_protocol_options={LONG: {"@type": r.TYPE + LONG}}),
    "filter": lambda: listener(typed(LONG, r.TYPE + "envoy.extensions.filters.network.sni_cluster.v3.SniCluster")),
}


def checked(check: r.Json) -> r.Json:
    times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    return static_cluster("x", health_checks=[times | check])


def jwt(wanted: str, provider: str) -> r.Json:
    jwks = {"local_jwks": {"filename": "/jwks"}}
    config: dict[str, Any] = {
        "providers": {provider: {"issuer": "i", **jwks}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": wanted}}],
    }
    made = typed("jwt", r.TYPE + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", **config)
    return listener(hcm(made, typed("router", r.ROUTER)))


@pytest.mark.parametrize("name", WITH_LONG_VALUES)
def test_a_problem_is_short_whatever_the_value(name: str) -> None:
    for problem in problems_of(WITH_LONG_VALUES[name]()):
        assert max(len(problem.what), len(problem.hint)) <= TEXT_CHARACTERS_MAX
        assert len(problem.field) <= FIELD_CHARACTERS_MAX


def test_what_is_dropped_is_what_was_found_inside_the_message() -> None:
    found = Findings()
    found.add(((None, "a"), "config"), "stays")
    for field in ("config", "other"):
        found.add((((None, "b"), field), "c"), "was just found")
    found.drop(((None, "b"), "config"))
    assert [each.path for each in found.problems] == [("a", "config"), ("b", "other", "c")]


def test_problems_that_are_not_kept_are_counted() -> None:
    """A cache of what is good goes by it."""
    found, more = Findings(), Findings()
    for _ in range(FINDINGS_MAX + 10):
        found.add(None, "is wrong")
        more.add(None, "is wrong")
    found.take(more)
    assert (len(found.problems), found.added) == (FINDINGS_MAX + 1, 2 * FINDINGS_MAX + 20)


def test_expressions_whose_programs_are_large_are_left_to_envoy() -> None:
    """What it takes depends on its runtime: ``re2.max_program_size``."""
    assert texts.regex_problem("(x{1000}y?)" * 2_000) == ""
    assert texts.regex_problem("(x{1000}y?)" * 2_000 + "(") != ""


def test_long_expressions_are_not_kept() -> None:
    before = texts._cached_problem.cache_info().currsize
    for number in range(10):
        assert texts.regex_problem(f"{'a' * texts.REGEX_CACHED_BYTES_MAX}{number}") == ""
    assert texts._cached_problem.cache_info().currsize == before


SLOW: dict[str, Callable[[], r.Json]] = {
    "names": lambda: lenient.chains({"server_names": [f"a{number}" for number in range(50_000)]}),
    "regexes": lambda: lenient.routes(
        virtual_hosts=[
            virtual_host(
                routes=[
                    {"match": {"safe_regex": {"regex": rf"(?:\pL{{60}}x{number}){{2}}"}}, **lenient.FINE}
                    for number in range(200)
                ]
            )
        ]
    ),
}


WRONG: dict[str, Callable[[], r.Json]] = {
    "fields": lambda: static_cluster("x") | {f"bogus_{number}": 1 for number in range(20_000)},
    "beside a secret": lambda: (
        twice(1_000) | {"request_headers_to_add": [{"header": {"key": "authorization", "value": SECRET}}]}
    ),
}
SECRET = "".join(chr(97 + number * number % 101 % 26) for number in range(300_000))


@pytest.mark.parametrize("name", WRONG)
def test_words_are_found_only_for_problems_that_are_told(name: str) -> None:
    resource = WRONG[name]()
    began = time.process_time()
    assert len(problems_of(resource)) == FINDINGS_MAX + 1
    assert time.process_time() - began < 6, "each of these took more than ten seconds"


@pytest.mark.parametrize("name", SLOW)
def test_work_is_in_proportion_to_the_size(name: str) -> None:
    resource = SLOW[name]()
    began = time.process_time()
    ingest(resource)
    assert time.process_time() - began < 10, "each of these took half a minute"
