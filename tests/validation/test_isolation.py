"""A pushed configuration does not run, load or read anything on the machine of the judge."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.envoy import envoy_binary
from support.static_envoy import hcm, listener, refusal, static_cluster, typed, virtual_host

from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.validation.inline import Inliner
from xds.validation.judge import Judge, Judgement
from xds.validation.lua import compiled_only

pytestmark = pytest.mark.envoy

EXTENSIONS = r.TYPE + "envoy.extensions."
HTTP = EXTENSIONS + "filters.http."
ROUTER = typed("router", r.ROUTER)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge(envoy_binary())
    yield made
    made.close()


def judged(judge: Judge, *items: r.Json) -> Judgement:
    return judge.judge([ingest(each) for each in (static_cluster("c"), *items)], group="g")


def with_filter(type_url: str, **fields: Any) -> r.Json:
    return listener(hcm(typed("filter", HTTP + type_url, **fields), ROUTER))


def with_route(**fields: Any) -> r.Json:
    host = virtual_host(routes=[{"match": {"prefix": "/"}, "route": {"cluster": "c"}} | fields])
    return {"@type": r.ROUTE, "name": "r", "virtual_hosts": [host]}


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
