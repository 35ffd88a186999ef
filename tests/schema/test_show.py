"""A shown resource is the one that was pushed, without its secrets."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from support import resources as r

from xds.model import types
from xds.model.problem import Problem
from xds.schema.ingest import ingest
from xds.schema.show import redacted, to_json

Rejected = Callable[..., list[Problem]]

PREFIX = types.TYPE_PREFIX
UNKNOWN = {"@type": PREFIX + "acme.v1.Widget", "value": "aGFsbG8="}
SECRET = {"@type": types.SECRET, "name": "s"}
HIDDEN = "[redacted]"


def test_resource_is_shown_as_it_was_given() -> None:
    value = {
        "@type": types.CLUSTER,
        "name": "web",
        "type": "STRICT_DNS",
        "connect_timeout": "1.500s",
        "max_requests_per_connection": 5,
        "metadata": {"filter_metadata": {"envoy.lb": {"canary": True, "list": [1.0, None, "a"]}}},
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": PREFIX + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "example.org",
            },
        },
        "typed_extension_protocol_options": {
            "a": {"@type": PREFIX + "google.protobuf.Duration", "value": "1s"},
            "b": {"@type": PREFIX + "xds.type.v3.TypedStruct", "type_url": "x", "value": {"k": "v"}},
        },
    }

    assert to_json(ingest(value)) == value
    assert ingest(to_json(ingest(value))).encoded == ingest(value).encoded


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {
                "tls_certificate": {
                    "certificate_chain": {"inline_string": r.DEMO_CERT},
                    "private_key": {"inline_bytes": b64encode(r.DEMO_KEY.encode()).decode()},
                    "password": {"inline_string": "secret"},
                }
            },
            {
                "tls_certificate": {
                    "certificate_chain": {"inline_string": r.DEMO_CERT},
                    "private_key": {"inline_bytes": HIDDEN},
                    "password": {"inline_string": HIDDEN},
                }
            },
        ),
        (
            {"tls_certificate": {"certificate_chain": {"filename": "/c"}, "private_key": {"filename": "/etc/key.pem"}}},
            {"tls_certificate": {"certificate_chain": {"filename": "/c"}, "private_key": {"filename": "/etc/key.pem"}}},
        ),
        (
            {"session_ticket_keys": {"keys": [{"inline_string": "a" * 80}, {"filename": "/etc/k"}]}},
            {"session_ticket_keys": {"keys": [{"inline_string": HIDDEN}, {"filename": "/etc/k"}]}},
        ),
        (
            {"generic_secret": {"secret": {"inline_string": "a"}}},
            {"generic_secret": {"secret": {"inline_string": HIDDEN}}},
        ),
        (
            {"generic_secret": {"secrets": {"k": {"inline_bytes": "YQ=="}}}},
            {"generic_secret": {"secrets": {"k": {"inline_bytes": HIDDEN}}}},
        ),
        (
            {
                "tls_certificate": {
                    "private_key_provider": {
                        "provider_name": "p",
                        "typed_config": {"@type": PREFIX + "google.protobuf.StringValue", "value": "secret"},
                    }
                }
            },
            {
                "tls_certificate": {
                    "private_key_provider": {
                        "provider_name": "p",
                        "typed_config": {"@type": PREFIX + "google.protobuf.StringValue", "value": HIDDEN},
                    }
                }
            },
        ),
    ],
)
def test_secret_is_hidden_unless_asked_for(value: dict[str, Any], shown: dict[str, Any]) -> None:
    resource = ingest(SECRET | value)

    assert to_json(redacted(resource)) == SECRET | shown
    assert to_json(resource) == SECRET | value


def test_secret_inside_a_typed_config_is_hidden() -> None:
    context = {
        "@type": PREFIX + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": "/c"},
                    "private_key": {"inline_string": f"secret\n{r.DEMO_KEY}"},
                }
            ]
        },
    }
    value = {"@type": types.CLUSTER, "name": "a", "transport_socket": {"name": "tls", "typed_config": context}}

    assert "secret" not in str(to_json(redacted(ingest(value))))
    assert to_json(ingest(value)) == value


def test_redacted_secret_is_not_taken_back(rejected: Rejected) -> None:
    shown = to_json(redacted(ingest(SECRET | {"generic_secret": {"secret": {"inline_string": "a"}}})))
    shown_bytes = to_json(redacted(ingest(SECRET | {"generic_secret": {"secret": {"inline_bytes": "YQ=="}}})))

    assert [(problem.field, problem.what) for problem in rejected(shown)] == [
        (
            "generic_secret.secret.inline_string",
            "is [redacted], which stands for a secret that was not shown; give the secret itself",
        ),
    ]
    assert [(problem.field, problem.what) for problem in rejected(shown_bytes)] == [
        ("generic_secret.secret.inline_bytes", "must be base64 text"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        UNKNOWN,
        {"@type": types.EXTENSION_CONFIG, "name": "a", "typed_config": UNKNOWN},
        {
            "@type": types.CLUSTER,
            "name": "a",
            "metadata": {
                "typed_filter_metadata": {"k": {"@type": types.EXTENSION_CONFIG, "name": "b", "typed_config": UNKNOWN}}
            },
        },
    ],
)
def test_message_of_an_unknown_type_is_shown_as_bytes_if_asked_for(value: dict[str, Any]) -> None:
    resource = ingest(value, name="a", allow_unknown_types=True)

    shown = to_json(resource)
    assert shown.get("resource", shown) == value, "a message that is not known can't be known to say its name"
    assert UNKNOWN["value"] not in str(to_json(redacted(resource)))
