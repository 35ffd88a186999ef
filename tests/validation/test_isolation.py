"""A pushed configuration does not run, load or read anything on the machine of the judge."""

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, json_format
from support import resources as r
from support.judged import EXTENSIONS, HTTP, ROUTER, judged, with_filter, with_route
from support.pki import Authority
from support.static_envoy import address, hcm, listener, refusal, static_cluster, tls_cluster, typed

from xds.schema.pool import Schema, load_schema, packaged_schema
from xds.schema.reference_table import TABLE, Unrelated
from xds.validation.envoy import run_validation
from xds.validation.inline import Inliner, UnjudgeableError
from xds.validation.judge import Judge, Judgement
from xds.validation.lua import compiled_only

pytestmark = pytest.mark.envoy


def with_matcher(source: r.Json) -> r.Json:
    matcher = typed("x", EXTENSIONS + "string_matcher.lua.v3.Lua", source_code=source)
    return with_route(match={"prefix": "/", "headers": [{"name": "a", "string_match": {"custom": matcher}}]})


def with_specifier(source: r.Json) -> r.Json:
    config = EXTENSIONS + "router.cluster_specifiers.lua.v3.LuaConfig"
    plugin = typed("x", config, source_code=source, default_cluster="c")
    return with_route(route={"inline_cluster_specifier_plugin": {"extension": plugin}})


LUA: dict[str, Callable[[r.Json], r.Json]] = {
    "filter": lambda source: with_filter("lua.v3.Lua", default_source_code=source),
    "named": lambda source: with_filter("lua.v3.Lua", source_codes={"a": source}),
    "inline": lambda source: with_filter("lua.v3.Lua", inline_code=source["inline_string"]),
    "route": lambda source: with_route(
        typed_per_filter_config={"lua": {"@type": HTTP + "lua.v3.LuaPerRoute", "source_code": source}}
    ),
    "matcher": with_matcher,
    "specifier": with_specifier,
}
"""A resource with a script, for each place where Envoy has one."""


@pytest.mark.parametrize("place", LUA)
def test_a_pushed_script_is_compiled_and_not_run(judge: Judge, tmp_path: Path, place: str) -> None:
    text = f"os.execute('touch {tmp_path}/ran')\nfunction envoy_match() end\nfunction envoy_on_route() end\n"
    assert judged(judge, LUA[place]({"inline_string": text})) == Judgement()
    assert list(tmp_path.iterdir()) == []
    assert refusal(LUA[place]({"inline_string": text}), tmp_path) == ""
    assert (tmp_path / "ran").exists(), "Envoy by itself runs it"


@pytest.mark.parametrize("place", LUA)
@pytest.mark.parametrize("text", ["function (", 'x = "a"\n\ny = = \\"]]%d{0}\'', "#!lua\n\x1bLJ", "x = 'é' é", "\n("])
def test_the_words_on_a_script_that_does_not_compile_are_envoy_s(
    judge: Judge, tmp_path: Path, place: str, text: str
) -> None:
    (problem,) = judged(judge, LUA[place]({"inline_string": text})).problems
    words = re.sub(r"\s+", " ", refusal(LUA[place]({"inline_string": text}), tmp_path))
    assert words.endswith(problem.what.removeprefix("Envoy: "))


@pytest.mark.parametrize("place", LUA)
def test_a_compiled_script_is_not_given_to_envoy(judge: Judge, place: str) -> None:
    found = judged(judge, LUA[place]({"inline_string": "\x1bLJ\x02"}))
    assert (found.problems, ["bytecode" in each.what for each in found.warnings]) == ((), [True])


def test_a_script_is_one_literal_whatever_is_in_it() -> None:
    every = bytes(range(1, 256))
    literal = compiled_only(every).splitlines()[0]
    assert literal.startswith('local text = "')
    inside = literal.removeprefix('local text = "').removesuffix('"')
    assert re.fullmatch(r"([A-Za-z0-9 ]|\\[0-9]{3})*", inside)
    assert re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1])]), inside.encode()) == every
    assert compiled_only(b"a\0b") == compiled_only(b"a"), "Envoy reads up to a NUL"


NOT_SCRIPTS = {
    "envoy.extensions.filters.http.lua.v3.Lua.stat_prefix",
    "envoy.extensions.filters.http.lua.v3.Lua.shared_vm_id",
    "envoy.extensions.filters.http.lua.v3.LuaPerRoute.name",
    "envoy.extensions.filters.http.lua.v3.LuaPerRoute.shared_vm_id",
    "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig.default_cluster",
}
"""Texts in messages of Lua that are names."""


def test_every_text_of_lua_in_the_schema_is_replaced() -> None:
    schema = load_schema()
    kept, replaced = set(), set()
    for name in schema.message_names():
        if not re.search(r"(^|[._])lua|Lua", name):
            continue
        for field in schema.descriptor(name).fields:
            message: Any = schema.message_class(name)()
            holder = getattr(message, field.name)
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            kind = field.message_type.fields_by_name["value"].message_type if is_map else field.message_type
            if kind is None and field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                if field.is_repeated:
                    holder.append("os.exit()")
                else:
                    setattr(message, field.name, "os.exit()")
            elif kind is not None and kind.full_name == "envoy.config.core.v3.DataSource":
                target = holder["k"] if is_map else holder.add() if field.is_repeated else holder
                target.inline_string = "os.exit()"
            else:
                continue
            Inliner(schema, lambda *_: None, lambda _: []).rewrite(message)
            (kept if b"os.exit()" in message.SerializeToString() else replaced).add(field.full_name)
    assert kept == NOT_SCRIPTS
    assert len(replaced) == 10


def in_struct(package: str, config: r.Json) -> r.Json:
    """Return a typed config as a typed struct."""
    value = {key: value for key, value in config.items() if key != "@type"}
    return {"@type": f"{r.TYPE}{package}.TypedStruct", "type_url": config["@type"], "value": value}


def wrapped(package: str, item: r.Json) -> r.Json:
    """Return a listener in which the connection manager's HTTP filters, access logs and itself are typed structs."""
    item = deepcopy(item)
    (chain,) = item["filter_chains"]
    (manager,) = chain["filters"]
    config = manager["typed_config"]
    for each in (*config["http_filters"], *config.get("access_log", [])):
        each["typed_config"] = in_struct(package, each["typed_config"])
    manager["typed_config"] = in_struct(package, config)
    return item


PACKAGES = ("xds.type.v3", "udpa.type.v1")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_typed_struct_is_judged_as_what_it_describes(judge: Judge, tmp_path: Path, package: str) -> None:
    ran = f"os.execute('touch {tmp_path}/ran')"
    item = wrapped(package, with_filter("lua.v3.Lua", default_source_code={"inline_string": ran}))
    assert judged(judge, item) == Judgement()
    log = typed("l", EXTENSIONS + "access_loggers.file.v3.FileAccessLog", path=f"{tmp_path}/log")
    found = judged(judge, wrapped(package, listener(hcm(access_log=[log]))))
    assert (found.problems, [f"{tmp_path}/log" in each.what for each in found.warnings]) == ((), [True])
    assert list(tmp_path.iterdir()) == []
    bad = wrapped(package, with_filter("lua.v3.Lua", default_source_code={"inline_string": "function ("}))
    (problem,) = judged(judge, bad).problems
    assert "script load error" in problem.what


@pytest.mark.parametrize("package", PACKAGES)
def test_a_typed_struct_does_not_read_files_and_variables(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    token = tmp_path / "token"
    token.write_text("%SECRET_OF_THE_SERVER%")
    monkeypatch.setenv("SERVER_SECRET", token.read_text())
    for source in ({"filename": str(token)}, {"environment_variable": "SERVER_SECRET"}):
        log = typed("l", EXTENSIONS + "access_loggers.file.v3.FileAccessLog", path="/dev/null")
        log["typed_config"]["log_format"] = {"text_format_source": source}
        script = with_filter("lua.v3.Lua", default_source_code=source)
        for item in (listener(hcm(access_log=[log])), script):
            found = judged(judge, wrapped(package, item))
            assert "SECRET_OF_THE_SERVER" not in str(found)
            assert (found.problems, len(found.warnings)) == ((), 1)


def packed(config: r.Json) -> Any:
    """Return a typed config in an Any."""
    schema = load_schema()
    return json_format.ParseDict(config, schema.message_class("google.protobuf.Any")(), descriptor_pool=schema.pool)


def test_a_typed_struct_in_another_is_read_to_its_end() -> None:
    config: r.Json = {"@type": HTTP + "lua.v3.Lua", "inline_code": "os.exit()"}
    message = packed(in_struct(PACKAGES[0], in_struct(PACKAGES[1], config)))
    Inliner(load_schema(), lambda *_: None, lambda _: []).rewrite(message)
    assert message.type_url == HTTP + "lua.v3.Lua"
    assert b"os.exit()" not in message.value


def test_what_a_struct_or_an_unknown_type_is_for_envoy_is_not_judged() -> None:
    unknown: Any = load_schema().message_class("google.protobuf.Any")(type_url=r.TYPE + "acme.Custom", value=b"a")
    config = {"@type": HTTP + "lua.v3.Lua"}
    for message in (
        unknown,
        packed({"@type": r.TYPE + "google.protobuf.Struct", "value": {"inline_code": "os.exit()"}}),
        packed(in_struct(PACKAGES[0], {"@type": r.TYPE + "acme.Custom"})),
        packed(in_struct(PACKAGES[0], config | {"no_such_field": 1})),
    ):
        with pytest.raises(UnjudgeableError, match=r"not known|is not a"):
            Inliner(load_schema(), lambda *_: None, lambda _: []).rewrite(message)


def test_an_envoy_has_no_environment_and_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "s")
    spy = tmp_path / "envoy"
    spy.write_text(
        f'#!/bin/sh\ncat "$4" > /dev/null\ncat /proc/$$/environ > {tmp_path}/seen\nls -A >> {tmp_path}/seen\n'
    )
    spy.chmod(0o755)
    assert run_validation(spy, b"x") == ""
    assert (tmp_path / "seen").read_text() == ""


def newer_schema() -> Schema:
    """Return the Envoy API of an Envoy with a new message, and a new field of a message that is known."""
    files = descriptor_pb2.FileDescriptorSet.FromString(packaged_schema())
    for file in files.file:
        for message in file.message_type:
            if f"{file.package}.{message.name}" == "envoy.extensions.filters.http.lua.v3.Lua":
                message.field.add(name="new_code", number=900, type=9, label=1)
    added = files.file.add(name="acme.proto", package="acme", syntax="proto3")
    added.message_type.add(name="Script").field.add(name="code", number=1, type=9, label=1)
    return Schema(files.SerializeToString())


def test_what_the_packaged_schema_lacks_is_not_given_to_envoy() -> None:
    schema = newer_schema()
    inliner = Inliner(schema, lambda *_: None, lambda _: [])
    for message in (
        schema.message_class("acme.Script")(code="os.exit()"),
        schema.message_class("envoy.extensions.filters.http.lua.v3.Lua")(new_code="os.exit()"),
    ):
        with pytest.raises(UnjudgeableError, match=r"not known here what Envoy does with .*(Script|new_code)"):
            inliner.rewrite(message)
        message.ClearField(message.ListFields()[0][0].name)
    assert load_schema().is_packaged
    packaged = Inliner(load_schema(), lambda *_: None, lambda _: [])
    new: Any = schema.message_class("envoy.extensions.filters.http.lua.v3.Lua")(new_code="os.exit()", stat_prefix="s")
    read = packaged.read("envoy.extensions.filters.http.lua.v3.Lua", new.SerializeToString())
    assert b"os.exit()" not in read.SerializeToString()
    assert [text for _, text in packaged.warnings] == ["has fields that the schema lacks, which were left out"]


NOT_OPENED = {
    **dict.fromkeys(
        (
            "envoy.config.bootstrap.v3.Admin.access_log_path",
            "envoy.config.bootstrap.v3.Admin.profile_path",
            "envoy.config.bootstrap.v3.Bootstrap.flags_path",
            "envoy.config.bootstrap.v3.Bootstrap.perf_tracing_file_path",
            "envoy.config.bootstrap.v3.ClusterManager.OutlierDetection.event_log_path",
        ),
        "no resource has a bootstrap in it",
    ),
    "envoy.config.core.v3.PathConfigSource.path": "the config source around it is replaced",
    "envoy.config.core.v3.WatchedDirectory.path": "the field of the message around it is cleared",
    "envoy.extensions.network.socket_interface.sockmap.v3.Sockmap.cgroup_path": "nothing but the program needs it",
    **dict.fromkeys(
        (
            "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.StsService.subject_token_path",
            "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.StsService.actor_token_path",
            "envoy.extensions.grpc_service.call_credentials.sts_service.v3.StsServiceCredentials.subject_token_path",
            "envoy.extensions.grpc_service.call_credentials.sts_service.v3.StsServiceCredentials.actor_token_path",
        ),
        "read as a token is exchanged",
    ),
    "envoy.config.core.v3.Pipe.path": "bound or dialled by a running Envoy alone",
    "envoy.config.core.v3.SocketAddress.network_namespace_filepath": "opened as a socket is bound",
    "envoy.config.tap.v3.FilePerTapSink.path_prefix": "written at a connection",
    **dict.fromkeys(
        (
            "envoy.extensions.filters.http.file_server.v3.FileServerConfig.DirectoryBehavior.default_file",
            "envoy.extensions.filters.http.file_server.v3.FileServerConfig.PathMapping.file_path_prefix",
        ),
        "read at a request",
    ),
}
"""Paths that a validating Envoy gets as they are, each with the reason why it opens nothing there."""


def test_every_path_of_the_schema_is_replaced_or_not_opened_by_a_validating_envoy() -> None:
    schema = load_schema()
    kept, seen = set(), 0
    for name, fields in TABLE.items():
        for field, entry in fields.items():
            if entry is not Unrelated.FILE:
                continue
            message: Any = schema.message_class(name)()
            holder = getattr(message, field)
            if isinstance(holder, str):
                setattr(message, field, "/none/x")
            elif hasattr(holder, "DESCRIPTOR"):
                holder.value = "/none/x"
            else:
                holder.append("/none/x")
            seen += 1
            try:
                Inliner(schema, lambda *_: None, lambda _: []).rewrite(message)
            except UnjudgeableError:
                continue
            if b"/none/x" in message.SerializeToString():
                kept.add(f"{name}.{field}")
    assert seen > 40
    assert kept == NOT_OPENED.keys()


LOADED = {
    "envoy.config.trace.v3.DynamicOtConfig": {"library": "/none/x"},
    "envoy.extensions.dynamic_modules.v3.DynamicModuleConfig": {"name": "x"},
    "envoy.extensions.wasm.v3.VmConfig": {"runtime": "envoy.wasm.runtime.v8", "vm_id": "inline"},
}


@pytest.mark.parametrize("name", LOADED)
def test_what_is_loaded_and_run_is_not_given_to_envoy(name: str) -> None:
    message = load_schema().message_class(name)(**LOADED[name])
    with pytest.raises(UnjudgeableError):
        Inliner(load_schema(), lambda *_: None, lambda _: []).rewrite(message)


def test_a_watched_directory_is_not_watched(judge: Judge, tmp_path: Path) -> None:
    pair = Authority(tmp_path).server()
    certificate = {
        "certificate_chain": {"inline_string": pair.cert_text, "watched_directory": {"path": "/none/x"}},
        "private_key": {"inline_string": pair.key_text},
        "watched_directory": {"path": "/none/x"},
    }
    message: Any = json_format.ParseDict(
        certificate,
        load_schema().message_class("envoy.extensions.transport_sockets.tls.v3.TlsCertificate")(),
        descriptor_pool=load_schema().pool,
    )
    Inliner(load_schema(), lambda *_: None, lambda _: []).rewrite(message)
    assert b"/none/x" not in message.SerializeToString()
    assert judged(judge, tls_cluster({"tls_certificates": [certificate]})) == Judgement()


def by_name(resolver: r.Json, **fields: Any) -> r.Json:
    return static_cluster("n", "name.invalid", typed_dns_resolver_config=resolver) | fields


def forwarding(resolver: r.Json) -> r.Json:
    names = [{"address": "name.invalid", "port_value": 80}]
    cache = {"name": "d", "dns_lookup_family": "V4_ONLY", "typed_dns_resolver_config": resolver}
    filters = HTTP + "dynamic_forward_proxy.v3.FilterConfig"
    return listener(hcm(typed("d", filters, dns_cache_config=cache | {"preresolve_hostnames": names}), ROUTER))


RESOLVING: dict[str, Callable[[r.Json], r.Json]] = {
    "strict": lambda resolver: by_name(resolver, type="STRICT_DNS"),
    "version 6": lambda resolver: by_name(resolver, type="STRICT_DNS", dns_lookup_family="V6_ONLY"),
    "logical": lambda resolver: by_name(resolver, type="LOGICAL_DNS"),
    "extension": lambda resolver: {
        key: value
        for key, value in by_name(
            resolver,
            cluster_type=typed(
                "envoy.cluster.dns", EXTENSIONS + "clusters.dns.v3.DnsCluster", typed_dns_resolver_config=resolver
            ),
        ).items()
        if key not in ("type", "typed_dns_resolver_config")
    },
    "forward proxy": forwarding,
}


@pytest.mark.parametrize("kind", RESOLVING)
def test_no_dns_server_is_asked_for_a_name(judge: Judge, tmp_path: Path, kind: str) -> None:
    with socket(AF_INET, SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        port = server.getsockname()[1]
        cares = EXTENSIONS + "network.dns_resolver.cares.v3.CaresDnsResolverConfig"
        item = RESOLVING[kind](typed("envoy.network.dns_resolver.cares", cares, resolvers=[address(port=port)]))
        assert judged(judge, item) == Judgement()
        with pytest.raises(BlockingIOError):
            server.recv(1)
        assert refusal(item, tmp_path) == ""
        assert server.recv(512), "Envoy by itself asks"
