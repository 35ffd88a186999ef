"""Measure what a token costs when a client connects: taking it out of the headers, verifying it, knowing it again.

``python bench/tokens.py`` prints CPU time per token in µs, the least of five runs, on one thread and without sockets.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpack import Decoder, Encoder
from hpack.struct import NeverIndexedHeaderTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import tokens as t

from xds.identity.keys import read_jwks
from xds.identity.verifier import Verifier
from xds.transport.http2.credentials import take_out_authorization

RUNS, TIMES = 5, 100
KINDS = ("RS256", "RS256/4096", "PS256", "ES256", "EdDSA", "ES384", "ES512")


def least_us(work: Callable[[], object]) -> float:
    """Return the least CPU time of a call, in µs."""
    work()
    best = float("inf")
    for _ in range(RUNS):
        began = time.thread_time()
        for _ in range(TIMES):
            work()
        best = min(best, (time.thread_time() - began) / TIMES)
    return best * 1e6


def main() -> None:
    """Print a line for each algorithm, and one for the headers."""
    fields = [
        (":method", "POST"),
        (":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/x"),
        ("te", "trailers"),
    ]
    for kind in KINDS:
        keys = t.HeldKeys(read_jwks(t.jwks(t.jwk(kind))))
        verifier = Verifier(
            [(t.issuer(algorithms=(kind.partition("/")[0],), kubernetes=True), keys)], leeway_s=0, now=time.time
        )
        token = t.kubernetes_token(kind=kind)
        block = Encoder().encode([*fields, NeverIndexedHeaderTuple("authorization", f"Bearer {token}")])
        verified = least_us(lambda verifier=verifier, token=token: verifier.verify(token))
        taken = least_us(lambda block=block: take_out_authorization(block))
        decoded = least_us(lambda block=block: Decoder().decode(block))
        print(
            f"{kind:11} {len(token):5} bytes: verified in {verified:4.0f} µs, "
            f"taken out of the headers in {taken:3.0f} (decoded by hpack: {decoded:4.0f})"
        )


if __name__ == "__main__":
    main()
