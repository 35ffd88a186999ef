"""Every known difference between Envoy and the product on the corpus, with its reason.

An entry that no longer differs fails the test.
"""

from corpus.hosts import HOSTS

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
    "bad/extension_configs/type-not-listed": "place",
    "bad/listeners/connection-balance-unknown": "place",
    "bad/listeners/discovery-default-of-other-type": "place",
    "bad/listeners/filter-without-config": "place",
    "bad/listeners/session-by-another-name": "place",
    "bad/listeners/unknown-filter": "place",
    "bad/listeners/upstream-tls-on-listener": "place",
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
"""

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

UNDER_REPAIR: set[str] = {
    "bad/clusters/abstract-pipe-with-mode",
    "bad/clusters/alpn-without-tls",
    "bad/clusters/certificate-without-key",
    "bad/clusters/cluster-provided-static",
    "bad/clusters/cluster-type-unknown",
    "bad/clusters/crl-without-ca",
    "bad/clusters/eds-config-on-static",
    "bad/clusters/expected-status-reversed",
    "bad/clusters/garbage-ca",
    "bad/clusters/grpc-check-without-http2",
    "bad/clusters/health-checks-without-names",
    "bad/clusters/health-payload-not-hex",
    "bad/clusters/maglev-not-prime",
    "bad/clusters/missing-ca-file",
    "bad/clusters/options-unknown-name",
    "bad/clusters/policies-empty",
    "bad/clusters/policy-unknown",
    "bad/clusters/ring-min-over-max",
    "bad/clusters/san-without-ca",
    "bad/clusters/subset-keys-twice",
    "bad/clusters/subset-with-provided",
    "bad/clusters/tls-without-config",
    "bad/clusters/unknown-cipher",
    "bad/clusters/yaml-merge-key",
    "bad/endpoints/no-address",
    "bad/endpoints/unknown-named-endpoint",
    "bad/extension_configs/cors-policy",
    "bad/extension_configs/lua-syntax",
    "bad/extension_configs/per-route-type",
    "bad/extension_configs/type-not-listed",
    "bad/listeners/access-log-unopenable",
    "bad/listeners/admission-threshold",
    "bad/listeners/aws-bad-arn",
    "bad/listeners/connection-balance-unknown",
    "bad/listeners/direct-response-file",
    "bad/listeners/discovery-default-of-other-type",
    "bad/listeners/ext-authz-v2",
    "bad/listeners/filter-without-config",
    "bad/listeners/header-to-metadata-both",
    "bad/listeners/header-to-metadata-empty",
    "bad/listeners/health-check-cache-no-passthrough",
    "bad/listeners/jwt-garbage-jwks",
    "bad/listeners/local-limit-fast-fill",
    "bad/listeners/lua-missing-file",
    "bad/listeners/lua-no-functions-but-error",
    "bad/listeners/lua-syntax",
    "bad/listeners/net-rbac-header",
    "bad/listeners/no-address",
    "bad/listeners/no-filter-chain",
    "bad/listeners/rds-without-source",
    "bad/listeners/redis-no-upstream",
    "bad/listeners/redis-same-prefix",
    "bad/listeners/scoped-inline-with-rds",
    "bad/listeners/sds-without-source",
    "bad/listeners/session-by-another-name",
    "bad/listeners/thrift-invert-empty",
    "bad/listeners/ticket-keys-short",
    "bad/listeners/transcoder-unknown-service",
    "bad/listeners/udp-with-tcp-filters",
    "bad/listeners/unknown-filter",
    "bad/listeners/upstream-tls-on-listener",
    "bad/listeners/xff-with-detection",
    "bad/routes/direct-body-missing-file",
    "bad/routes/matcher-and-routes",
    "bad/routes/matcher-on-query",
    "bad/routes/per-filter-unknown-type",
    "bad/routes/per-filter-wrong-type",
    "bad/routes/plugin-type-unknown",
    "bad/routes/plugin-unknown",
    "bad/routes/retry-priority-unknown",
    "bad/routes/template-rewrite-without-match",
    "bad/routes/virtual-cluster-empty",
    "good/clusters/both-spellings",
    "good/clusters/json-duplicate-key",
    "good/clusters/json-single-quotes",
    "good/clusters/json-trailing-comma",
    "good/clusters/json-unquoted",
    "good/clusters/resources-mapping",
    "good/clusters/yaml-duplicate-key",
    "good/clusters/yaml-two-documents",
    "good/listeners/ext-authz-unknown-cluster",
    "good/listeners/ratelimit-unknown-cluster",
}
"""Cases on which the product is being mended: they may differ or not."""

ANY_CATEGORY: dict[str, str] = {
    "envoy.quic.client_packet_writer": "is looked up when the first connection is made",
    "envoy.udp_packet_writer": "is looked up when the listener is bound, and another type means the default",
    "envoy.upstreams": "is looked up when the first request is routed",
}
"""Categories in whose place Envoy takes an extension of any other, with the reason."""

CATEGORIES_UNDER_REPAIR: set[str] = set(HOSTS)
"""Categories in whose place the product may yet take an extension of another, though Envoy does not."""
