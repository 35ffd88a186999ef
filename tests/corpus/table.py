"""Every known difference between Envoy and the product on the corpus, with its reason.

An entry that no longer differs fails the test.
"""

STRICTER: dict[str, str] = {
    "good/clusters/both-spellings": "Envoy takes one of the two by chance (docs/directory.md#how-values-are-read)",
    "good/clusters/json-duplicate-key": "more likely a mistake (docs/directory.md#how-values-are-read)",
    "good/clusters/yaml-duplicate-key": "more likely a mistake (docs/directory.md#how-values-are-read)",
    "good/listeners/ext-authz-unknown-cluster": "each request would fail: the cluster is nowhere",
    "good/listeners/ratelimit-unknown-cluster": "each request would pass unlimited: the cluster is nowhere",
}
"""Cases that Envoy takes and the product refuses, and why it is right to."""

ONLY_ENVOY: dict[str, str] = {
    "bad/extension_configs/lua-syntax": "code",
    "bad/listeners/lua-no-functions-but-error": "run",
    "bad/listeners/lua-syntax": "code",
    "bad/listeners/transcoder-unknown-service": "code",
    "bad/certificates/missing-file": "file",
    "bad/clusters/missing-ca-file": "file",
    "bad/listeners/access-log-unopenable": "file",
    "bad/listeners/direct-response-file": "file",
    "bad/listeners/lua-missing-file": "file",
    "bad/routes/direct-body-missing-file": "file",
    "bad/clusters/options-unknown-name": "place",
    "bad/extension_configs/cors-policy": "place",
    "bad/extension_configs/per-route-type": "place",
    "bad/certificates/other-kind": "subscriber",
    "bad/extension_configs/type-not-listed": "subscriber",
    "bad/scoped_routes/same-key": "together",
    "bad/validation_contexts/crl-without-ca": "secret",
    "bad/validation_contexts/names-without-ca": "secret",
    "bad/listeners/connection-balance-unknown": "place",
    "bad/listeners/scoped-inline-with-rds": "place",
}
"""Cases that Envoy refuses and the product alone does not, by kind: what a real Envoy has to be asked for.

``code``: programs and compiled descriptors, which the product does not read. ``run``: what scripts do.
``file``: files on the disk of Envoy.
``place``: extensions that stand elsewhere, or that Envoy finds by name. ``subscriber``: what those take that subscribe
to an extension config or a secret, if the group has none. ``together``: what one resource makes of another.
``secret``: what those may add that use a secret.
"""

UNKNOWN_TO_A_JUDGE: dict[str, str] = {
    "file": "files on a node's disk are not those of the judge: xds validate --envoy warns of each",
    "run": "the judge compiles scripts and never runs them",
    "subscriber": "no resource of the group subscribes to it",
    "together": "scoped routes are judged each by itself",
}
"""Kinds of ``ONLY_ENVOY`` that ``xds validate --envoy`` can't tell, with the reason."""

VALUES: dict[str, dict[str, str]] = {
    "good/clusters/yaml-two-documents": {
        "yaml-two-documents-b": "of a second document too; Envoy reads the first alone"
    },
}
"""Cases whose value differs from what Envoy shows: case → place → reason."""

ANY_CATEGORY: dict[str, str] = {
    "envoy.quic.client_packet_writer": "is looked up when the first connection is made",
    "envoy.udp_packet_writer": "is looked up when the listener is bound, and another type means the default",
    "envoy.upstreams": "is looked up when the first request is routed",
}
"""Categories in whose place Envoy takes an extension of any other, with the reason."""
