"""No problem and no NACK repeats a secret, wherever it stands in a resource and however wrong that is."""

from base64 import b64encode
from collections.abc import Mapping
from random import Random
from string import ascii_letters
from typing import Any

import pytest
from support import resources as r

from xds.model import types
from xds.model.problem import ChangesetRejectedError
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema
from xds.schema.scrub import _Parts, _without_parts, hider, hider_of, secrets_in_text, secrets_of, secrets_written
from xds.sources.json_reader import read_json
from xds.sources.yaml_reader import YamlLimits, read_yaml

SCHEMA = load_schema()
MARK = "mArKeR-0123456789"
TLS = {"certificate_chain": {"inline_string": r.DEMO_CERT}}


def secret(**fields: Any) -> dict[str, Any]:
    return {"@type": types.SECRET, "name": "s", **fields}


def problems_of(item: Any) -> list[str]:
    with pytest.raises(ChangesetRejectedError) as rejected:
        ingest(item)
    return [str(each) for each in rejected.value.problems]


COOKIE = {"name": "cookie", "safe_regex_match": {"regex": f"({MARK}"}}
HTTP_URI = types.TYPE_PREFIX + "envoy.config.core.v3.HttpUri"
WRONG: dict[str, Mapping[str, Any]] = {
    "text for a message": secret(tls_certificate=MARK),
    "text for a data source": secret(tls_certificate={**TLS, "private_key": MARK}),
    "bytes that are not base64": secret(generic_secret={"secret": {"inline_bytes": f"{MARK}!"}}),
    "a list": secret(generic_secret={"secret": {"inline_string": [MARK]}}),
    "a number": secret(generic_secret={"secret": {"inline_string": 123456789012}}),
    "a misspelt key": secret(generic_secret={"secret": {"inline_strin": MARK}, "secret_": MARK}),
    "an unknown key": secret(generic_secret={"secret": {"inline_string": "x"}, "password": MARK, "private_key": MARK}),
    "camel case, twice": secret(genericSecret={"secret": {"inlineString": MARK}}, generic_secret={"secret": MARK}),
    "of a wrong type": {"@type": types.CLUSTER, "name": "c", "private_key": {"inline_string": MARK}},
    "of an unknown type": {"@type": types.TYPE_PREFIX + "acme.Secret", "password": MARK},
    "in an enum": {"@type": types.CLUSTER, "name": "c", "type": {"token": MARK}, "lb_policy": MARK, "auth_token": MARK},
    "in a header": {
        "@type": types.ROUTE,
        "name": "r",
        "request_headers_to_add": [{"header": {"key": "Authorization", "value": f"%{MARK}"}, "append_action": "NO"}],
    },
    "in a header with a broken rule": {
        "@type": types.ROUTE,
        "name": "r",
        "request_headers_to_add": [{"header": {"key": "authorization", "value": f"{MARK}\n"}}],
    },
    "in a header that is matched": {
        "@type": types.ROUTE,
        "name": "r",
        "virtual_hosts": [
            {
                "name": "v",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {
                            "prefix": "/",
                            "headers": [{"name": "cookie", "safe_regex_match": {"regex": f"({MARK}"}}],
                        }
                    }
                ],
            }
        ],
    },
    "a map with a wrong value": secret(generic_secret={"secrets": {"a": {"inline_string": {"b": MARK}}, "c": MARK}}),
    "a pair that does not match": secret(
        tls_certificate={**TLS, "private_key": {"inline_string": f"-----BEGIN PRIVATE KEY-----\n{MARK}\n"}}
    ),
    "in a URI": {
        "@type": types.EXTENSION_CONFIG,
        "name": "e",
        "typed_config": {
            "@type": types.TYPE_PREFIX + "envoy.config.core.v3.HttpUri",
            "uri": f"x://u:{MARK}@h",
            "timeout": 1,
        },
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_no_problem_of_a_resource_repeats_a_secret(what: str) -> None:
    for said in problems_of(WRONG[what]):
        assert MARK[:9] not in said
        if what == "a number":
            assert "123456789012" not in said
    if what == "in an enum":
        assert any("lb_policy" in said for said in problems_of(WRONG[what])), "the problem itself is still told"


def test_no_problem_of_an_encoded_message_repeats_a_secret() -> None:
    message: Any = SCHEMA.message_class("envoy.config.route.v3.RouteConfiguration")(name="r")
    message.request_headers_to_add.add().header.CopyFrom(
        SCHEMA.message_class("envoy.config.core.v3.HeaderValue")(key="authorization", value=f"%{MARK}")
    )
    (said,) = problems_of((types.ROUTE, message.SerializeToString()))
    assert "[redacted]" in said
    assert MARK[:9] not in said


YAML = {
    "an alias": "resources:\n- name: s\n  password: *{}\n",
    "a tag": "resources:\n- name: s\n  password: !{} x\n",
    "a tag with a value": "password: !!int {}\n",
    "a broken quote": 'inline_string: "{}\n  more\nname: [\n',
    "a block": "generic_secret:\n  secret:\n    inline_string: |\n      {}\n   \tx: [\n",
    "a flow": "secret: {{inline_string: *{}, a: [}}\n",
    "json": '{{"inline_string": "{}", "a": \n',
    "json with an alias": '{{"password": {}}}',
}


@pytest.mark.parametrize("what", YAML)
def test_no_problem_of_a_file_that_cannot_be_read_repeats_a_secret(what: str) -> None:
    text = YAML[what].format(MARK).encode()
    with pytest.raises(ChangesetRejectedError) as rejected:
        (read_json if what.startswith("json") else read_yaml)(text, file="f", limits=YamlLimits())
    assert MARK[:9] not in str(rejected.value)


def test_what_is_no_secret_stays_in_problems() -> None:
    (said,) = problems_of({"@type": types.CLUSTER, "name": "c", "lb_policy": "ROUND_ROBBIN", "type": "STATIC"})
    assert "ROUND_ROBBIN is not a value" in said
    (said,) = problems_of(secret(tls_certificate={**TLS, "private_key": {"inline_string": "x"}}))
    assert "it begins with -----BEGIN PRIVATE KEY-----" in said


FILE_LOG = types.TYPE_PREFIX + "envoy.extensions.access_loggers.file.v3.FileAccessLog"


def log_of(source: Any, log_type: str = FILE_LOG, **log_fields: Any) -> dict[str, Any]:
    config = {"@type": log_type, "path": "/dev/null", "log_format": {"text_format_source": source}, **log_fields}
    return {"@type": types.LISTENER, "name": "l", "access_log": [{"name": "f", "typed_config": config}]}


def test_a_source_that_is_no_secret_is_shown() -> None:
    for key in ("inline_string", "inlineString"):
        said = "\n".join(problems_of(log_of({key: "%BOGUS%"})))
        assert "has the unknown command %BOGUS%" in said
    assert MARK in secrets_written(log_of({"inline_string": "%BOGUS%", "password": MARK}))


def test_a_source_is_hidden_where_it_is_a_secret_or_no_one_knows() -> None:
    unknown = types.TYPE_PREFIX + "acme.Log"
    for written in (
        log_of({"inline_string": MARK}, unknown),
        log_of({"inline_string": "x"}, other={"inline_string": MARK}),
        log_of({"inline_string": "x"}, token={"text_format_source": {"inline_string": MARK}}),
        {"inline_string": MARK},
        secret(tls_certificate={"certificate_chain": {"inline_string": MARK}}),
        secret(generic_secret={"secret": {"inline_string": MARK}}),
        {"@type": types.SECRET, "text_format_source": {"inline_string": MARK}},
    ):
        assert MARK in secrets_written(written)


def test_parts_and_other_forms_of_a_secret_are_hidden_too() -> None:
    hide = hider([MARK, "ab$c", "two\nlines-of-a-secret", "in"])
    assert hide(f"x {MARK} y {MARK[:8]} z {MARK[3:]}!") == "x [redacted] y [redacted] z [redacted]!"
    assert hide(b64encode(MARK.encode()).decode()) == "[redacted]"
    assert hide("said ab$c, not ab$cd in a line") == "said [redacted], not ab$cd in a line"
    assert hide("two\\nlines-of-a-s") == "[redacted]"
    assert len(hide("y" * 100_000)) < 10_000
    assert hider([])("y" * 100_000) == "y" * 100_000


def test_the_secrets_of_a_resource_are_those_that_are_redacted() -> None:
    keyed = ingest(secret(generic_secret={"secret": {"inline_string": MARK}}))
    assert secrets_of(keyed) == (MARK,)
    assert hider_of([keyed])(f"Envoy says: {MARK}, and no more") == "Envoy says: [redacted], and no more"
    assert secrets_of(ingest(r.static_cluster("c", 1))) == ()


def test_every_secret_field_is_found_by_its_name_or_by_what_is_in_it() -> None:
    """Problems are told of what can't be decoded too, so there only names say what is secret."""
    for name in SCHEMA.message_names():
        for field in SCHEMA.descriptor(name).fields:
            if not SCHEMA.is_sensitive(field) or field.name in ("typed_config", "config"):  # what is in it has names
                continue
            inner: Any = {"inline_string": MARK} if field.message_type is not None else MARK
            for key in (field.name, field.json_name):
                assert MARK in secrets_written({"a": [{key: inner}]}), field.full_name
                assert any(MARK in each for each in secrets_in_text(f"  {key}:\n    inline_string: {MARK}\n"))


def plainly(text: str, secrets: str) -> str:
    """Hide parts of secrets in the plainest way."""
    shown, at = "", 0
    while at < len(text):
        end = at + 8
        if end > len(text) or text[at:end] not in secrets or text.startswith("[redacted]", at):
            shown, at = shown + text[at], at + 1
            continue
        while end < len(text) and text[at : end + 1] in secrets:
            end += 1
        shown, at = shown + "[redacted]", end
    return shown


def test_parts_are_hidden_as_in_the_plainest_way() -> None:
    chance = Random(1)
    for _ in range(300):
        secrets = "\0".join("".join(chance.choices("ab", k=chance.randrange(8, 60))) for _ in range(5))
        pieces = []
        for _ in range(6):
            at = chance.randrange(len(secrets))
            pieces += [secrets[at : at + chance.randrange(30)], "".join(chance.choices("abc", k=chance.randrange(20)))]
        text = "".join(pieces).replace("\0", " ")
        assert _without_parts(text, _Parts(secrets)) == plainly(text, secrets)


def test_a_long_text_is_compared_with_long_secrets_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in no secret is seen by its hash, and what is in one is followed, not searched for again."""
    looks: list[str] = []

    class Counted(str):
        __slots__ = ()

        def find(self, part: str, *place: Any) -> int:
            looks.append(part)
            return super().find(part, *place)

    chance = Random(2)
    secrets = "\0".join("".join(chance.choices(ascii_letters, k=2_000)) for _ in range(50))
    parts = _Parts(Counted(secrets))
    other = "".join(chance.choices(ascii_letters, k=4_000))
    assert _without_parts(other, parts) == other
    assert len(looks) < 2_000
    looks.clear()
    assert _without_parts(secrets[:2_000], parts) == "[redacted]"
    assert len(looks) == 1
