"""Every known difference between Envoy and the product on the corpus, with its reason.

An entry that no longer differs fails the test.
"""

STRICTER: dict[str, str] = {}
"""Cases that Envoy takes and the product refuses, and why it is right to."""

ONLY_ENVOY: dict[str, str] = {
    "bad/extension_configs/lua-syntax": "code",
}
"""Cases that Envoy refuses and the product alone does not: what a real Envoy has to be asked for, by kind.

``code``: programs in a language that the product does not read.
"""

VALUES: dict[str, dict[str, str]] = {}
"""Cases whose value differs from what Envoy shows: case → place → reason."""

UNDER_REPAIR: set[str] = {
    "good/clusters/both-spellings",
    "bad/clusters/alpn-too-long",
    "bad/clusters/alpn-without-tls",
    "bad/clusters/bind-to-hostname",
    "bad/clusters/certificate-without-key",
    "bad/clusters/cipher-among-curves",
    "bad/clusters/cluster-provided-static",
    "bad/clusters/cluster-type-unknown",
    "bad/clusters/crl-without-ca",
    "bad/clusters/eds-config-on-static",
    "bad/clusters/eds-without-config",
    "bad/clusters/expected-status-reversed",
    "bad/clusters/garbage-ca",
    "bad/clusters/grpc-check-without-http2",
    "bad/clusters/hash-not-hex",
    "bad/clusters/health-payload-not-hex",
    "bad/clusters/logical-dns-two-hosts",
    "bad/clusters/maglev-not-prime",
    "bad/clusters/missing-ca-file",
    "bad/clusters/n-for-text",
    "bad/clusters/options-unknown-name",
    "bad/clusters/original-dst-round-robin",
    "bad/clusters/original-dst-with-hosts",
    "bad/clusters/policies-empty",
    "bad/clusters/policy-unknown",
    "bad/clusters/ring-min-over-max",
    "bad/clusters/san-without-ca",
    "bad/clusters/static-with-hostname",
    "bad/clusters/subset-keys-twice",
    "bad/clusters/subset-with-provided",
    "bad/clusters/tls-without-config",
    "bad/clusters/unknown-cipher",
    "bad/clusters/wrong-category",
    "bad/endpoints/address-with-port",
    "bad/endpoints/hostname",
    "bad/endpoints/ipv6-in-brackets",
    "bad/endpoints/named-port",
    "bad/endpoints/no-address",
    "bad/endpoints/unknown-named-endpoint",
    "bad/extension_configs/lua-syntax",
    "bad/listeners/bogus-log-format",
    "bad/listeners/hostname-as-address",
    "bad/listeners/router-not-last",
    "bad/listeners/two-chains-alike",
    "bad/routes/bad-regex",
    "bad/routes/two-rewrites",
    "bad/routes/two-stars",
    "bad/routes/weights-zero",
    "good/clusters/json-single-quotes",
    "good/clusters/json-trailing-comma",
    "good/clusters/json-unquoted",
    "good/clusters/resources-mapping",
    "good/clusters/subsets",
    "good/listeners/grpc-json",
    "good/listeners/http-gateway",
    "good/listeners/jwt",
    "good/routes/canary",
}
"""Cases on which the product is being mended: they may differ or not."""
