"""xDS clients over the channels of any language, and their first request."""

from typing import Any

from support import resources as r
from support.native_clients import Clients, TlsPaths
from support.wire import ADS, DeltaClient, Service, SotwClient, wire
from xds.embed import ControlPlane

DELTA_ADS = f"/{ADS.name}/{ADS.delta}"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"


class _Borrowed:
    """A channel that outlives its client, so that streams can share it or follow each other on it."""

    def __init__(self, channel: Any) -> None:
        self.stream_stream = channel.stream_stream

    async def close(self) -> None:
        """Leave the channel open: the dialer closes it."""


class Dialer:
    """Makes clients of one language and closes them at the end of the test."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.name = clients.name
        self._channels: list[Any] = []

    def channel(
        self, control_plane: ControlPlane, *, tls: TlsPaths | None = None, window: int = 0, keepalive_s: float = 0
    ) -> Any:
        """Return a new channel to a control plane."""
        assert control_plane.address is not None
        made = self.clients.channel(str(control_plane.address), tls=tls, window=window, keepalive_s=keepalive_s)
        self._channels.append(made)
        return made

    def delta(self, channel: Any, *, node_id: str = "n1", service: Service | None = None) -> DeltaClient:
        """Return a delta client over a channel."""
        return self._over(channel, DeltaClient("unused", node_id=node_id, **({"service": service} if service else {})))

    def sotw(self, channel: Any, *, node_id: str = "n1", service: Service | None = None) -> SotwClient:
        """Return a state-of-the-world client over a channel."""
        return self._over(channel, SotwClient("unused", node_id=node_id, **({"service": service} if service else {})))

    def client(self, variant: str, channel: Any, **options: Any) -> Any:
        """Return a client by the name of its variant."""
        return (self.delta if variant == "delta" else self.sotw)(channel, **options)

    @staticmethod
    def _over(channel: Any, client: Any) -> Any:
        client.channel = _Borrowed(channel)
        return client

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels:
            await channel.close()


def first_request(type_url: str = r.CLUSTER, *, node_id: str = "n1", names: tuple[str, ...] = ()) -> bytes:
    """Return the first message of a delta stream."""
    made = wire.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
    made.node.CopyFrom(wire.Node(id=node_id, cluster="c1"))
    return made.SerializeToString()
