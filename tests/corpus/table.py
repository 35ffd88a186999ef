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
    "bad/clusters/static-with-hostname",
    "bad/clusters/wrong-category",
    "bad/endpoints/hostname",
    "bad/listeners/bogus-log-format",
    "bad/listeners/hostname-as-address",
    "bad/listeners/router-not-last",
    "bad/listeners/two-chains-alike",
    "bad/routes/bad-regex",
    "bad/routes/two-rewrites",
    "bad/routes/two-stars",
    "bad/routes/weights-zero",
    "good/clusters/subsets",
    "good/listeners/http-gateway",
    "good/routes/canary",
}
"""Cases on which the product is being mended: they may differ or not."""
