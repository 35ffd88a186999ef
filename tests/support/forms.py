"""The forms of an Envoy's connection to the product: aggregated or per type, delta or SotW, plaintext or mTLS.

Bootstraps and config sources are those of ``xds bootstrap``.
"""

from dataclasses import dataclass
from typing import Any

from support.pki import Authority, Pair
from support.resources import Json
from xds.address import Address
from xds.bootstrap import BootstrapSpec, ClientTls, config_source, envoy_bootstrap
from xds.model.groups import Node


@dataclass(frozen=True, slots=True)
class Form:
    """The protocol of one kind of client. ``source`` is the config source in its resources' references."""

    name: str
    sotw: bool = False
    per_type: bool = False
    mutual_tls: bool = False
    back_off_max_s: float | None = None
    """The delay before a client reconnects, if it should differ from that of the product's bootstraps."""

    def _spec(self, port: int, node_id: str, cluster: str, tls: ClientTls | None, fetch_timeout_s: float) -> Any:
        return BootstrapSpec(
            node=Node(id=node_id, cluster=cluster),
            server=Address("127.0.0.1", port),
            delta=not self.sotw,
            per_type=self.per_type,
            tls=tls,
            admin_port=0,
            fetch_timeout_s=fetch_timeout_s,
        )

    @property
    def source(self) -> Json:
        """The config source of every reference between resources."""
        source = config_source(self._spec(1, "any", "any", None, 15.0))
        self._hasten(source.get("api_config_source"))
        return source

    def bootstrap(
        self,
        port: int,
        *,
        node_id: str = "n1",
        cluster: str = "c1",
        tls: ClientTls | None = None,
        fetch_timeout_s: float = 15.0,
    ) -> Json:
        """Return the bootstrap of an Envoy of this form."""
        made = envoy_bootstrap(self._spec(port, node_id, cluster, tls, fetch_timeout_s))
        dynamic = made["dynamic_resources"]
        self._hasten(dynamic.get("ads_config"))
        for source in dynamic.values():
            self._hasten(source.get("api_config_source"))
        return made

    def _hasten(self, api_source: Json | None) -> None:
        if api_source is not None and self.back_off_max_s is not None:
            back_off = {"base_interval": f"{self.back_off_max_s / 4}s", "max_interval": f"{self.back_off_max_s}s"}
            api_source["grpc_services"][0]["envoy_grpc"]["retry_policy"]["retry_back_off"] = back_off

    def __str__(self) -> str:
        return self.name


def client_tls(authority: Authority, client: Pair) -> ClientTls:
    """Return an Envoy's mTLS settings for a server with a certificate for 127.0.0.1."""
    return ClientTls(ca=str(authority.cert_path), cert=str(client.cert_path), key=str(client.key_path))


DELTA_ADS = Form("delta-ads")
SOTW_ADS = Form("sotw-ads", sotw=True)
DELTA_PER_TYPE = Form("delta-per-type", per_type=True)
SOTW_PER_TYPE = Form("sotw-per-type", sotw=True, per_type=True)
MUTUAL_TLS = Form("delta-ads-mtls", mutual_tls=True)

EVERY_FORM = (DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE, SOTW_PER_TYPE, MUTUAL_TLS)
ORDERED_FORMS = (DELTA_ADS, SOTW_ADS, DELTA_PER_TYPE, SOTW_PER_TYPE)
