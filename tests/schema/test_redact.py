"""Redaction hides every field that the API marks sensitive, at any place, and nothing else."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from support import resources as r

from xds.model import types
from xds.model.problem import Problem
from xds.model.resource import Resource
from xds.schema.ingest import ingest
from xds.schema.pool import Schema, UnknownFieldError, load_schema, packaged_schema
from xds.schema.quick import ingest_encoded
from xds.schema.redact import redact
from xds.schema.restore import restore
from xds.schema.scrub import secrets_of
from xds.schema.secret_fields import SECRET_FIELDS
from xds.schema.show import redacted, to_json
from xds.schema.typed_structs import TYPED_STRUCTS
from xds.schema.wire import encode_any, encode_resource
from xds.schema.wrapping import as_any

Json = dict[str, Any]
Rejected = Callable[..., list[Problem]]

SCHEMA = load_schema()
MARK = "hush-hush"
DATA_SOURCE = "envoy.config.core.v3.DataSource"
PREFIX = types.TYPE_PREFIX


def sensitive_fields() -> list[FieldDescriptor]:
    fields = [field for name in SCHEMA.message_names() for field in SCHEMA.descriptor(name).fields]
    return [field for field in fields if SCHEMA.is_sensitive(field)]


SENSITIVE = sensitive_fields()


def fill(message: Any, field: FieldDescriptor, source: str, depth: int = 0) -> None:
    """Set a field, and the first levels below it, to values that contain the mark."""
    kind, text = field.message_type, MARK.encode() if field.type == FieldDescriptor.TYPE_BYTES else MARK
    value = getattr(message, field.name)
    if kind is not None and kind.GetOptions().map_entry:
        content = kind.fields_by_name["value"]
        if content.message_type is not None:
            fill_all(value["k"], source, depth + 1)
        elif content.type == FieldDescriptor.TYPE_STRING:
            value["k"] = MARK
    elif kind is not None:
        fill_all(value.add() if field.is_repeated else value, source, depth + 1)
    elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        if field.is_repeated:
            value.append(text)
        else:
            setattr(message, field.name, text)


def fill_all(message: Any, source: str, depth: int) -> None:
    message.SetInParent()
    if message.DESCRIPTOR.full_name == DATA_SOURCE:
        fill(message, message.DESCRIPTOR.fields_by_name[source], source, depth)
    elif message.DESCRIPTOR.full_name == "google.protobuf.Any":
        struct: Any = SCHEMA.message_class("google.protobuf.Struct")()
        struct.update({"a": [MARK, 1, {"b": MARK}]})
        message.type_url, message.value = PREFIX + "google.protobuf.Struct", struct.SerializeToString()
    elif message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        message.update({"a": [MARK, {"b": MARK}]})
    elif depth < 4:
        for field in message.DESCRIPTOR.fields:
            fill(message, field, source, depth)


def resource_with(message: Any) -> Resource:
    """Return an extension config with a message, unchecked."""
    config: Any = SCHEMA.message_class("envoy.config.core.v3.TypedExtensionConfig")(name="e")
    config.typed_config.type_url = PREFIX + message.DESCRIPTOR.full_name
    config.typed_config.value = message.SerializeToString(deterministic=True)
    body = encode_any(types.EXTENSION_CONFIG, config.SerializeToString(deterministic=True))
    return restore(types.EXTENSION_CONFIG, encode_resource(body, "e").encoded)


def forms(resource: Resource) -> Iterator[bytes]:
    """Yield a resource in every form in which it is shown, with base64 that contains the mark decoded."""
    yield resource.encoded
    yield resource.body
    yield as_any(resource).SerializeToString()
    shown = str(to_json(resource))
    yield shown.replace(b64encode(MARK.encode()).decode(), MARK).encode()


@pytest.mark.parametrize("source", ["inline_string", "inline_bytes"])
@pytest.mark.parametrize("field", SENSITIVE, ids=lambda field: field.full_name)
def test_every_field_that_the_api_marks_sensitive_is_hidden_in_every_form(field: Any, source: str) -> None:
    message: Any = SCHEMA.message_class(field.containing_type.full_name)()
    fill(message, field, source)
    resource = resource_with(message)
    assert all(MARK.encode() in form for form in forms(resource)), "the test's own filling"
    hidden = redacted(resource)
    assert not any(MARK.encode() in form for form in forms(hidden))
    assert "[redacted]" in str(to_json(hidden))
    assert (hidden.name, hidden.version) == (resource.name, resource.version)


def in_typed_struct(kind: str, full_name: str, content: Json) -> Any:
    made: Any = SCHEMA.message_class(kind)(type_url=PREFIX + full_name)
    made.value.update(content)
    return made


@pytest.mark.parametrize("kind", TYPED_STRUCTS)
@pytest.mark.parametrize("source", ["inline_string", "inline_bytes"])
@pytest.mark.parametrize("field", SENSITIVE, ids=lambda field: field.full_name)
def test_every_such_field_is_hidden_in_a_typed_struct_and_in_one_inside_another(
    field: Any, source: str, kind: str
) -> None:
    message: Any = SCHEMA.message_class(field.containing_type.full_name)()
    fill(message, field, source)
    content = json_format.MessageToDict(message, descriptor_pool=SCHEMA.pool)
    once = in_typed_struct(kind, field.containing_type.full_name, content)
    inner = {"type_url": once.type_url, "value": json_format.MessageToDict(once.value)}
    for made in (once, in_typed_struct(TYPED_STRUCTS[0], kind, inner)):
        resource = resource_with(made)
        marks = (MARK.encode(), b64encode(MARK.encode()))
        assert any(mark in resource.body for mark in marks), "the test's own filling"
        hidden = redacted(resource)
        assert not any(mark in form for mark in marks for form in forms(hidden))
        assert secrets_of(resource)


@pytest.mark.parametrize("kind", TYPED_STRUCTS)
def test_all_texts_of_a_typed_struct_that_is_not_understood_are_hidden(kind: str) -> None:
    odd = {"a": MARK, "b": [MARK, {"c": MARK}], "d": 1, "e": True, "f": None}
    for full_name in ("example.Unknown", "envoy.config.core.v3.DataSource", ""):
        shown = to_json(redacted(resource_with(in_typed_struct(kind, full_name, odd))))["typed_config"]["value"]
        assert shown == {"a": "[redacted]", "b": ["[redacted]", {"c": "[redacted]"}], "d": 1, "e": True, "f": None}
    packed = {"@type": PREFIX + "example.Unknown", "value": b64encode(MARK.encode()).decode()}
    config = {"name": "e", "typed_config": packed}
    made = in_typed_struct(kind, "envoy.config.core.v3.TypedExtensionConfig", config)
    assert b64encode(MARK.encode()) not in redacted(resource_with(made)).body


def test_a_typed_struct_without_secrets_is_shown_as_it_is() -> None:
    made = in_typed_struct(TYPED_STRUCTS[0], "envoy.config.core.v3.HeaderValue", {"key": "x-a", "value": "b"})
    resource = resource_with(made)
    assert redacted(resource) is resource


@pytest.mark.parametrize("field", SENSITIVE, ids=lambda field: field.full_name)
def test_no_redacted_field_is_taken_back_as_bytes(field: Any, rejected: Rejected) -> None:
    message: Any = SCHEMA.message_class(field.containing_type.full_name)()
    fill(message, field, "inline_bytes")
    hidden = as_any(redacted(resource_with(message)))
    problems = rejected((hidden.type_url, hidden.value))
    assert any("stands for a secret that was not shown" in problem.what for problem in problems)
    with_others = {problem.what for problem in problems if "stands for a secret" not in problem.what}
    if not with_others:
        shown_again = ingest((hidden.type_url, hidden.value), allow_redacted=True)
        assert as_any(shown_again).value == hidden.value


def test_every_field_with_the_name_of_a_secret_is_decided() -> None:
    """The next Envoy's schema may have more: add them to ``secret_fields.py``, or here with the reason."""
    words = re.compile(r"passw|secret|token|cred|private_key|hmac|json_key|api_?key|jwks|auth_|_auth|license")
    texts = (DATA_SOURCE, "google.protobuf.StringValue", "google.protobuf.BytesValue", "google.protobuf.Struct")
    found = {
        field.full_name
        for name in SCHEMA.message_names()
        if name.startswith(("envoy.config.", "envoy.extensions.", "envoy.type."))
        for field in SCHEMA.descriptor(name).fields
        if words.search(field.name) and not SCHEMA.is_sensitive(field)
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
        or (field.message_type is not None and field.message_type.full_name in texts)
    }
    undecided = {name for name in found if not NO_SECRET.search(name)}
    assert undecided == set()
    assert all(SCHEMA.has(name.rpartition(".")[0]) for name in SECRET_FIELDS), "a field that is gone, or misspelt"
    assert all(SCHEMA.is_sensitive(_field(name)) for name in SECRET_FIELDS)


NO_SECRET = re.compile(
    r"_path$|_type$|_uri$|_file$|_factory_name$"  # where it is, or what it is
    r"|CookieNames\.|token_header$|token_metadata_key$|auth_scopes$|credentials_profile$|secret_names$"  # names
    r"|OAuthResponse\."  # what a server answers: not part of any resource
)


def _field(name: str) -> FieldDescriptor:
    message, _, field = name.rpartition(".")
    found: FieldDescriptor = SCHEMA.descriptor(message).fields_by_name[field]
    return found


ROUTE_WITH_HEADERS = {
    "@type": types.ROUTE,
    "name": "r",
    "request_headers_to_add": [
        {"header": {"key": "Authorization", "value": f"Bearer {MARK}"}},
        {"header": {"key": "x-api-key", "raw_value": b64encode(MARK.encode()).decode()}},
        {"header": {"key": "x-shown", "value": "shown"}},
    ],
    "virtual_hosts": [
        {
            "name": "v",
            "domains": ["*"],
            "routes": [
                {
                    "match": {
                        "prefix": "/",
                        "headers": [
                            {"name": "cookie", "string_match": {"exact": MARK}},
                            {"name": "authorization", "safe_regex_match": {"regex": f"{MARK}.*"}},
                            {"name": "x-shown", "string_match": {"exact": "shown"}},
                        ],
                    },
                    "direct_response": {"status": 200},
                }
            ],
        }
    ],
}


def test_the_values_of_headers_with_credentials_are_hidden_where_they_are_added_and_matched() -> None:
    hidden = redacted(ingest(ROUTE_WITH_HEADERS))
    assert not any(MARK.encode() in form for form in forms(hidden))
    shown = str(to_json(hidden))
    assert shown.count("[redacted]") == 4
    assert shown.count("'shown'") == 2
    assert "'Authorization'" in shown


_MATCHER = PREFIX + "xds.type.matcher.v3.Matcher"
_INPUTS = PREFIX + "envoy.type.matcher.v3."
_PROXY = PREFIX + "envoy.extensions.filters.network.generic_proxy.matcher.v3."
INPUTS = [
    ({"@type": _INPUTS + f"Http{part}MatchInput", "header_name": "Authorization"}, True)
    for part in ("RequestHeader", "RequestTrailer", "ResponseHeader", "ResponseTrailer")
] + [
    ({"@type": _INPUTS + "HttpRequestQueryParamMatchInput", "query_param": "access_token"}, True),
    ({"@type": _PROXY + "PropertyMatchInput", "property_name": "x-api-key"}, True),
    ({"@type": _INPUTS + "HttpRequestHeaderMatchInput", "header_name": "x-shown"}, False),
    ({"@type": _INPUTS + "HttpRequestQueryParamMatchInput", "query_param": "page"}, False),
]


def matcher(compared: Json, **how: Any) -> Resource:
    """Return a matcher with this input: as a predicate, or as a tree."""
    typed = {"name": "i", "typed_config": compared}
    action = {"action": {"name": "a", "typed_config": {"@type": PREFIX + "google.protobuf.StringValue", "value": "b"}}}
    if "value_match" in how:
        content = {
            "matcher_list": {
                "matchers": [{"predicate": {"single_predicate": {"input": typed, **how}}, "on_match": action}]
            }
        }
    else:
        content = {
            "matcher_tree": {
                "input": typed,
                **{key: {"map": dict.fromkeys(value, action)} for key, value in how.items()},
            }
        }
    return ingest({"@type": types.EXTENSION_CONFIG, "name": "e", "typed_config": {"@type": _MATCHER, **content}})


@pytest.mark.parametrize(("compared", "is_secret"), INPUTS)
@pytest.mark.parametrize(
    "how",
    [
        {"value_match": {"exact": MARK}},
        {"value_match": {"safe_regex": {"google_re2": {}, "regex": f"{MARK}.*"}}},
        {"exact_match_map": [MARK, f"other {MARK}"]},
        {"prefix_match_map": [MARK]},
    ],
)
def test_what_a_matcher_compares_with_a_credential_is_hidden(
    rejected: Rejected, compared: Json, is_secret: bool, how: Json
) -> None:
    resource = matcher(compared, **how)
    hidden = redacted(resource)
    if not is_secret:
        assert hidden is resource
        return
    assert not any(MARK.encode() in form for form in forms(hidden))
    assert f"other {MARK}" not in how.get("exact_match_map", ()) or "[redacted] 2" in str(to_json(hidden))
    assert any("stands for a secret" in problem.what for problem in rejected(to_json(hidden)))
    assert any(MARK in secret for secret in secrets_of(resource))


def test_cookies_and_parameters_of_queries_and_of_token_requests_are_hidden() -> None:
    values = {
        "envoy.config.route.v3.CookieMatcher": {"name": "any", "string_match": {"exact": MARK}},
        "envoy.config.route.v3.QueryParameterMatcher": {"name": "api_key", "string_match": {"prefix": MARK}},
        "envoy.config.core.v3.QueryParameter": {"key": "token", "value": MARK},
        "envoy.config.core.v3.KeyValue": {"key": "x-api-key", "value": b64encode(MARK.encode()).decode()},
        "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2.EndpointParameter": {
            "name": "client_secret",
            "value": MARK,
        },
        "envoy.extensions.filters.network.generic_proxy.matcher.v3.KeyValueMatchEntry": {
            "name": "authorization",
            "string_match": {"exact": MARK},
        },
    }
    for full_name, value in values.items():
        message = json_format.ParseDict(value, SCHEMA.message_class(full_name)())
        assert MARK.encode() not in redacted(resource_with(message)).encoded, full_name
        for field in ("name", "key"):
            if field in value and "Cookie" not in full_name:
                shown = json_format.ParseDict(value | {field: "page"}, SCHEMA.message_class(full_name)())
                assert MARK.encode() in redacted(resource_with(shown)).encoded, full_name


def test_a_password_in_a_uri_is_hidden() -> None:
    for uri, is_hidden in (("https://user:pw@idp/jwks", True), ("https://idp/jwks?a=b@c", False)):
        message: Any = SCHEMA.message_class("envoy.config.core.v3.HttpUri")(uri=uri, cluster="c")
        assert (uri.encode() not in redacted(resource_with(message)).encoded) is is_hidden


def test_more_fields_and_headers_can_be_hidden() -> None:
    schema = Schema(packaged_schema())
    wasm = "envoy.extensions.wasm.v3.PluginConfig.configuration"
    schema.hide([wasm], ["X-Tenant-Key"])
    message: Any = schema.message_class("envoy.config.core.v3.HeaderValue")(key="x-tenant-key", value=MARK)
    assert redact(schema, message)
    assert message.value == "[redacted]"
    assert schema.is_sensitive(
        schema.descriptor("envoy.extensions.wasm.v3.PluginConfig").fields_by_name["configuration"]
    )
    with pytest.raises(
        UnknownFieldError, match=r"has no field 'configuratio'; did you mean .*PluginConfig.configuration"
    ):
        schema.hide([wasm[:-1]], [])
    with pytest.raises(UnknownFieldError, match=r"there is no message 'envoy\.extensions\.wasm\.v3\.Plugin'"):
        schema.hide(["envoy.extensions.wasm.v3.Plugin.configuration"], [])


def test_what_is_not_secret_stays_as_it_is_and_costs_no_copy() -> None:
    secret = {
        "@type": types.SECRET,
        "name": "s",
        "tls_certificate": {
            "certificate_chain": {"inline_string": r.DEMO_CERT},
            "private_key": {"filename": "/k"},
            "password": {"environment_variable": "PASSWORD"},
        },
    }
    for value in (secret, {"@type": types.EXTENSION_CONFIG, "name": "e", "typed_config": secret}):
        resource = ingest(value)
        assert redacted(resource) is resource
    headers = [{"header": {"key": "k", "value": "[redacted]"}}]
    route = {"@type": types.ROUTE, "name": "r", "request_headers_to_add": headers}
    taken = ingest(route)
    assert ingest_encoded(types.ROUTE, as_any(taken).value).encoded == taken.encoded, "a header may have any value"


def test_what_is_outside_the_message_stays() -> None:
    wrapper = PREFIX + "envoy.service.discovery.v3.Resource"
    inner = {"@type": types.SECRET, "name": "s", "generic_secret": {"secret": {"inline_string": MARK}}}
    resource = ingest({"@type": wrapper, "name": "s", "ttl": "1.5s", "aliases": ["t"], "resource": inner})
    hidden = redacted(resource)
    assert (hidden.ttl_s, hidden.aliases, hidden.heartbeat) == (1.5, ("t",), resource.heartbeat)
    assert not any(MARK.encode() in form for form in forms(hidden))


def test_a_message_of_an_unknown_type_is_hidden_whole_and_an_empty_one_is_nothing() -> None:
    any_class: Any = SCHEMA.message_class("google.protobuf.Any")
    resource = resource_with(any_class(type_url=PREFIX + "acme.v1.Widget", value=MARK.encode()))
    assert MARK.encode() not in redacted(resource).encoded
    empty = resource_with(any_class())
    assert redacted(empty) is empty
    assert to_json(empty)["typed_config"] == {"@type": PREFIX + "google.protobuf.Any", "value": {}}


def test_bytes_as_a_value_are_hidden_and_spelt_as_a_placeholder() -> None:
    provider = {"provider_name": "p", "typed_config": {"@type": PREFIX + "google.protobuf.BytesValue", "value": "aA=="}}
    resource = ingest({"@type": types.SECRET, "name": "s", "tls_certificate": {"private_key_provider": provider}})
    shown = to_json(redacted(resource))["tls_certificate"]["private_key_provider"]
    assert shown == {"provider_name": "p", "typed_config": provider["typed_config"] | {"value": "[redacted]"}}


def test_a_placeholder_beside_a_secret_that_is_there_is_told_with_its_place(rejected: Rejected) -> None:
    pair = {
        "private_key": {"inline_string": r.DEMO_KEY},
        "password": {"inline_string": "[redacted]"},
        "certificate_chain": {"filename": "/c"},
    }
    (problem,) = rejected({"@type": types.SECRET, "name": "s", "tls_certificate": pair})
    assert problem.field == "tls_certificate.password.inline_string"


def test_maps_of_plain_texts_stay() -> None:
    detector = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig"
    config = {"@type": PREFIX + detector, "attributes": {"a": "b"}}
    resource = ingest({"@type": types.EXTENSION_CONFIG, "name": "e", "typed_config": config})
    assert redacted(resource) is resource
