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
    "bad/listeners/lua-no-functions-but-error": "code",
    "bad/listeners/lua-syntax": "code",
    "bad/listeners/transcoder-unknown-service": "code",
    "bad/clusters/missing-ca-file": "file",
    "bad/listeners/access-log-unopenable": "file",
    "bad/listeners/direct-response-file": "file",
    "bad/listeners/lua-missing-file": "file",
    "bad/routes/direct-body-missing-file": "file",
    "bad/clusters/alpn-without-tls": "certificate",
    "bad/clusters/certificate-without-key": "certificate",
    "bad/clusters/crl-without-ca": "certificate",
    "bad/clusters/garbage-ca": "certificate",
    "bad/clusters/san-without-ca": "certificate",
    "bad/clusters/unknown-cipher": "certificate",
    "bad/listeners/sds-without-source": "certificate",
    "bad/listeners/ticket-keys-short": "certificate",
    "bad/clusters/cluster-type-unknown": "place",
    "bad/clusters/options-unknown-name": "place",
    "bad/clusters/policies-empty": "place",
    "bad/clusters/policy-unknown": "place",
    "bad/clusters/tls-without-config": "place",
    "bad/extension_configs/cors-policy": "place",
    "bad/extension_configs/per-route-type": "place",
    "bad/extension_configs/type-not-listed": "subscriber",
    "bad/listeners/connection-balance-unknown": "place",
    "bad/listeners/discovery-default-of-other-type": "place",
    "bad/listeners/filter-without-config": "place",
    "bad/listeners/session-by-another-name": "place",
    "bad/listeners/unknown-filter": "place",
    "bad/routes/matcher-on-query": "place",
    "bad/routes/per-filter-unknown-type": "place",
    "bad/routes/per-filter-wrong-type": "place",
    "bad/routes/plugin-type-unknown": "place",
    "bad/routes/retry-priority-unknown": "place",
    "bad/clusters/abstract-pipe-with-mode": "cluster",
    "bad/clusters/cluster-provided-static": "cluster",
    "bad/clusters/eds-config-on-static": "cluster",
    "bad/clusters/expected-status-reversed": "cluster",
    "bad/clusters/grpc-check-without-http2": "cluster",
    "bad/clusters/health-checks-without-names": "cluster",
    "bad/clusters/health-payload-not-hex": "cluster",
    "bad/clusters/maglev-not-prime": "cluster",
    "bad/clusters/ring-min-over-max": "cluster",
    "bad/clusters/subset-keys-twice": "cluster",
    "bad/clusters/subset-with-provided": "cluster",
    "bad/endpoints/no-address": "cluster",
    "bad/endpoints/unknown-named-endpoint": "cluster",
    "bad/listeners/no-address": "listener",
    "bad/listeners/no-filter-chain": "listener",
    "bad/listeners/rds-without-source": "listener",
    "bad/listeners/scoped-inline-with-rds": "listener",
    "bad/listeners/udp-with-tcp-filters": "listener",
    "bad/listeners/xff-with-detection": "listener",
    "bad/routes/matcher-and-routes": "route",
    "bad/routes/plugin-unknown": "route",
    "bad/routes/template-rewrite-without-match": "route",
    "bad/routes/virtual-cluster-empty": "route",
    "bad/listeners/admission-threshold": "filter",
    "bad/listeners/aws-bad-arn": "filter",
    "bad/listeners/ext-authz-v2": "filter",
    "bad/listeners/header-to-metadata-both": "filter",
    "bad/listeners/header-to-metadata-empty": "filter",
    "bad/listeners/health-check-cache-no-passthrough": "filter",
    "bad/listeners/jwt-garbage-jwks": "filter",
    "bad/listeners/local-limit-fast-fill": "filter",
    "bad/listeners/net-rbac-header": "filter",
    "bad/listeners/redis-no-upstream": "filter",
    "bad/listeners/redis-same-prefix": "filter",
    "bad/listeners/thrift-invert-empty": "filter",
}
"""Cases that Envoy refuses and the product alone does not, by kind: what a real Envoy has to be asked for.

``code``: programs and compiled descriptors, which the product does not read. ``file``: files on Envoy's disk.
``certificate``: what BoringSSL says of keys, certificates and ciphers. ``place``: which extensions may stand where.
``cluster``, ``listener``, ``route``, ``filter``: what their code asks of fields beyond the rules of the API.
``subscriber``: what the listener that subscribes to an extension config takes, if the group has none.
"""

UNKNOWN_TO_A_JUDGE: dict[str, str] = {
    "file": "files on a node's disk are not those of the judge: xds validate --envoy warns of each",
    "subscriber": "no listener of the group subscribes to it",
}
"""Kinds of ``ONLY_ENVOY`` that ``xds validate --envoy`` can't tell, with the reason."""

LOOSER: dict[str, str] = {
    "bad/clusters/yaml-merge-key": "its meaning is plain, and served resources have none (docs/directory.md)",
}
"""Cases that Envoy refuses and the product takes on purpose, since what it serves is right."""

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

_OF_MATCHERS = "one field holds those of all matchers; which may stand there is known to the code that has the matcher"
UNCHECKED_CATEGORIES: dict[str, str] = {
    "envoy.http.custom_response": _OF_MATCHERS,
    "envoy.http.forward_client_cert_details": _OF_MATCHERS,
    "envoy.matching.action": _OF_MATCHERS,
    "envoy.matching.common_inputs": _OF_MATCHERS,
    "envoy.matching.generic_proxy_request_input.input": _OF_MATCHERS,
    "envoy.matching.http.custom_matchers": _OF_MATCHERS,
    "envoy.matching.http.input": _OF_MATCHERS,
    "envoy.matching.input_matchers": _OF_MATCHERS,
    "envoy.matching.network.custom_matchers": _OF_MATCHERS,
    "envoy.matching.network.input": _OF_MATCHERS,
    "envoy.matching.transport_socket.input": _OF_MATCHERS,
}
"""Categories in whose place the product takes an extension of another, though Envoy does not, with the reason."""
