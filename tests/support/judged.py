"""Resources beside a cluster, as a judge's Envoy judges them."""

from typing import Any

from support import resources as r
from support.static_envoy import hcm, listener, static_cluster, typed, virtual_host
from xds.schema.ingest import ingest
from xds.validation.judge import Judge, Judgement

EXTENSIONS = r.TYPE + "envoy.extensions."
HTTP = EXTENSIONS + "filters.http."
ROUTER = typed("router", r.ROUTER)


def judged(judge: Judge, *items: r.Json) -> Judgement:
    """Return what a judge says of resources and of the cluster ``c``."""
    return judge.judge([ingest(each) for each in (static_cluster("c"), *items)], group="g")


def with_filter(type_url: str, **fields: Any) -> r.Json:
    """Return a listener with an HTTP filter."""
    return listener(hcm(typed("filter", HTTP + type_url, **fields), ROUTER))


def with_route(**fields: Any) -> r.Json:
    """Return a route configuration with one route to the cluster ``c``, or with these fields."""
    host = virtual_host(routes=[{"match": {"prefix": "/"}, "route": {"cluster": "c"}} | fields])
    return {"@type": r.ROUTE, "name": "r", "virtual_hosts": [host]}
