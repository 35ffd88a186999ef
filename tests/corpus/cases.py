"""The corpus: files of resources written by hand, each of one type, and where they stand.

``cases/good/TYPE/NAME.yaml`` (or ``.json``) is a file that Envoy takes, ``cases/bad/TYPE/NAME.yaml`` one that it
refuses. Resources refer to what ``common`` gives alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.live import NAMES, common_clusters
from corpus.values import without_ports
from support import resources as r

HERE = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """A file of the corpus."""

    name: str
    """Such as ``good/listeners/gateway``."""
    kind: str
    """Such as ``listeners``."""
    suffix: str
    text: str

    @property
    def is_good(self) -> bool:
        return self.name.startswith("good/")

    @property
    def group(self) -> str:
        """The directory that the file has in a directory of resources."""
        return self.name.replace("/", "-")


def read_cases() -> list[Case]:
    """Return all cases, in order of name."""
    paths = sorted(path for path in HERE.rglob("*") if path.suffix in (".yaml", ".json"))
    return [_case(path) for path in paths]


def _case(path: Path) -> Case:
    kind, text = path.parent.name, path.read_bytes().decode()
    name = str(path.relative_to(HERE).with_suffix(""))
    return Case(name, kind, path.suffix[1:], without_ports(text) if kind == "listeners" else text)


def common() -> list[dict[str, Any]]:
    """Return the resources that those of every case may refer to."""
    return [
        *({"@type": r.CLUSTER, **each} for each in common_clusters()),
        {"@type": r.ROUTE, "name": NAMES["routes"]},
        {"@type": r.ENDPOINTS, "cluster_name": NAMES["endpoints"]},
        {"@type": r.EXTENSION, "name": NAMES["extension_configs"], "typed_config": {"@type": r.ROUTER}},
        {
            "@type": GENERIC_ROUTES,
            "name": "generic",
            "routes": {
                "on_no_match": {
                    "action": {"name": "a", "typed_config": {"@type": GENERIC_ACTION, "cluster": "backend"}}
                }
            },
        },
        {
            "@type": r.TYPE + "envoy.service.discovery.v3.Resource",
            "name": "limit",
            "resource": {"@type": r.TYPE + "envoy.type.v3.TokenBucket", "max_tokens": 1, "fill_interval": "1s"},
        },
        *({"@type": r.SECRET, "name": name, **value} for name, value in SECRETS.items()),
    ]


GENERIC_ROUTES = r.TYPE + "envoy.extensions.filters.network.generic_proxy.v3.RouteConfiguration"
GENERIC_ACTION = r.TYPE + "envoy.extensions.filters.network.generic_proxy.action.v3.RouteAction"
SECRETS: dict[str, dict[str, Any]] = {
    "client-ca": {"validation_context": {"trusted_ca": {"filename": "/etc/envoy/ca.pem"}}},
    "server-cert": {
        "tls_certificate": {
            "certificate_chain": {"filename": "/etc/envoy/cert.pem"},
            "private_key": {"filename": "/etc/envoy/key.pem"},
        }
    },
    "token": {"generic_secret": {"secret": {"inline_string": "secret"}}},
    "hmac": {"generic_secret": {"secret": {"inline_string": "secret"}}},
}
