"""Thousands of delta ADS streams, some of which misbehave as they are told, in a process of their own.

Run as a ``support.processes.Worker``; it takes the commands of ``support.steady_streams`` and more. Each actor knows
what it was sent: a resource that it is sent again in a version that it has counts as ``again``, one in a version that
it has rejected as ``resent``. Each subscribes to an assignment that does not exist as well: the server's answer to it
shows that it has read the whole of the first requests, also where there is nothing to send to a client that returns.
"""

import asyncio
import gc
import hashlib
import random
import time
from typing import Any

import uvloop

from support import resources as r
from support.steady_streams import OPENING, Commands, Crowd, Sidecar, answer_commands, framed, request
from support.wire import wire

NONE = "there-is-no-such-assignment"
BACK_OFF_S = 0.5
"""A client that lost its stream returns within this time, at random, as Envoy does at first."""
KNOWN_MAX = 4_096

Said = tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...], bytes, tuple[int, ...]]


class Actors(Crowd):
    """The actors of this process."""

    def __init__(self, port: int, names: int) -> None:
        super().__init__(port, names)
        self.said: dict[bytes, Said] = {}
        self.returning = False
        self.reject = ""
        self.again = self.resent = self.nacks = self.losses = 0
        self.lost_at = self.back_at = 0.0
        self.slow_interval_s = 2.0
        self.ports: list[int] = [port]

    def first(self, actor: "Actor") -> bytes:
        """Return the first requests of an actor, with the versions that it has."""
        node = wire.Node(id=actor.node_id, cluster="good")
        has: dict[str, dict[str, str]] = {r.CLUSTER: {}, r.ENDPOINTS: {}}
        for (type_url, name), version in actor.held.items():
            has[type_url][name] = version
        clusters = request(node=node, type_url=r.CLUSTER, initial_resource_versions=has[r.CLUSTER])
        return clusters + request(
            type_url=r.ENDPOINTS,
            resource_names_subscribe=[*self.assignments, NONE],
            initial_resource_versions=has[r.ENDPOINTS],
        )

    def parsed(self, data: bytes) -> Said:
        """Return the type, nonce, resources, removed names, ACK and pushes of a response."""
        found = self.said.get(data)
        if found is None:
            said = wire.DeltaDiscoveryResponse.FromString(data)
            each = [wire.Resource.FromString(one) for one in said.resources]
            ack = framed(request(type_url=said.type_url, response_nonce=said.nonce))
            pushes = self.understood(data)[3]
            pairs = tuple((one.name, one.version) for one in each)
            found = (said.type_url, said.nonce, pairs, tuple(said.removed_resources), ack, pushes)
            if len(self.said) >= KNOWN_MAX:
                self.said.clear()
            self.said[data] = found
        return found


class Actor(Sidecar):
    """One node. It keeps what it has over the streams that it loses, and returns if it is told to."""

    def __init__(self, crowd: Actors, node_id: str) -> None:
        super().__init__(crowd, node_id)
        self.crowd: Actors = crowd
        self.held: dict[tuple[str, str], str] = {}
        self.rejected: set[tuple[str, str]] = set()
        self.mode = "good"
        self.rejects = False
        self.is_measured = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface and the first requests, with the versions of what is there already."""
        self.transport, self.buffer, self.body, self.uncredited = transport, b"", b"", 0
        self.windows = [65_535, 65_535]
        self.unsent = self.crowd.first(self)
        self.transport.write(OPENING + self._allowed())

    def data_received(self, data: bytes) -> None:
        """Read as any other client, but stop reading where that is its part."""
        super().data_received(data)
        if self.mode != "good":
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self.transport.is_closing():
            return
        self.transport.pause_reading()
        if self.mode == "slow":
            asyncio.get_running_loop().call_later(self.crowd.slow_interval_s * random.uniform(0.5, 1.5), self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def act(self, mode: str) -> None:
        """Take a part: ``good``, ``slow`` (reads once in a while), or ``dead`` (reads nothing any more)."""
        if mode == self.mode:
            return
        self.mode = mode
        if mode == "good":
            self._go_on()
        else:
            self._stop_reading()

    def _message(self, payload: bytes, now: float, out: list[bytes]) -> None:
        self.body += payload
        while len(self.body) >= 5 and len(self.body) >= (end := 5 + int.from_bytes(self.body[1:5], "big")):
            whole, self.body = self.body[5:end], self.body[end:]
            type_url, nonce, pairs, removed, ack, pushes = self.crowd.parsed(whole)
            if self.rejects and any(name.startswith(self.crowd.reject) for name, _ in pairs):
                pairs = self._refuse(type_url, nonce, pairs, out)
                ack = b""
            for name, version in pairs:
                self.crowd.again += self.held.get((type_url, name)) == version
                self.held[type_url, name] = version
            for name in removed:
                self.held.pop((type_url, name), None)
            out.append(ack)
            if self.is_measured:
                self._note(pushes, now)
            if NONE in removed and not self.synced.done():
                self.synced.set_result(now)
                self.crowd.back_at = now

    def _refuse(
        self, type_url: str, nonce: str, pairs: tuple[tuple[str, str], ...], out: list[bytes]
    ) -> tuple[tuple[str, str], ...]:
        """Reject a response as Envoy does: name what is bad, and keep the rest. Return the rest."""
        bad = [pair for pair in pairs if pair[0].startswith(self.crowd.reject)]
        for pair in bad:
            self.crowd.resent += pair in self.rejected
            self.rejected.add(pair)
        self.crowd.nacks += 1
        error = wire.Status(code=3, message=f"Error adding/updating cluster(s) {', '.join(name for name, _ in bad)}")
        out.append(framed(request(type_url=type_url, response_nonce=nonce, error_detail=error)))
        return tuple(pair for pair in pairs if pair not in bad)

    def connection_lost(self, error: Exception | None) -> None:
        """Record the loss, and return after a while."""
        super().connection_lost(error)
        if self.leaving:
            return
        self.crowd.losses += 1
        self.crowd.lost_at = time.monotonic()
        if self.crowd.returning:
            loop = asyncio.get_running_loop()
            self.synced = loop.create_future()
            loop.call_later(random.uniform(0, BACK_OFF_S), lambda: loop.create_task(self.connect()))

    async def connect(self) -> None:
        """Connect; try again if the server can't be reached."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", random.choice(self.crowd.ports))
        except OSError:
            if self.crowd.returning:
                loop.call_later(random.uniform(0, BACK_OFF_S), lambda: loop.create_task(self.connect()))


class FaultyCommands(Commands):
    """The commands of this process."""

    crowd: Actors

    async def connect(
        self, port: int, count: int, names: int, ports: list[int] | None = None, unmeasured: int = 0
    ) -> dict[str, Any]:
        """Connect ``count`` actors and wait until all have what there is; receipts of the first ones are not kept."""
        crowd = self.crowd = Actors(port, names)
        crowd.ports = ports or [port]
        for start in range(0, count, 50):
            batch = [Actor(crowd, f"good-{number}") for number in range(start, min(count, start + 50))]
            for number, each in enumerate(batch, start):
                each.is_measured = number >= unmeasured
            await asyncio.gather(*(each.connect() for each in batch))
            await asyncio.gather(*(each.synced for each in batch))
            crowd.sidecars += batch
        gc.collect()
        gc.freeze()
        return {"synced": len(crowd.sidecars)}

    async def act(self, dead: int = 0, slow: int = 0) -> dict[str, Any]:
        """Have the first actors stop reading, the next ones read slowly, and all others read."""
        for number, each in enumerate(self.crowd.sidecars):
            each.act("dead" if number < dead else "slow" if number < dead + slow else "good")
        return {}

    async def come_back(self, wanted: bool) -> dict[str, Any]:
        """Have those who lose their stream return with what they have, or not."""
        self.crowd.returning = wanted
        return {}

    async def reject(self, prefix: str, count: int) -> dict[str, Any]:
        """Have the first ``count`` actors reject every resource whose name begins so."""
        self.crowd.reject = prefix
        for number, each in enumerate(self.crowd.sidecars):
            each.rejects = number < count
        return {}

    async def cut(self, count: int) -> dict[str, Any]:
        """Cut off the connections of ``count`` actors, as their network would."""
        for each in random.sample(self.crowd.sidecars, count):
            each.transport.abort()
        return {}

    async def forget_losses(self) -> dict[str, Any]:
        """Start to count anew."""
        crowd = self.crowd
        crowd.again = crowd.resent = crowd.nacks = crowd.losses = 0
        crowd.dropped.clear()
        return {}

    async def seen(self, skip: int = 0) -> dict[str, Any]:
        """Return what happened since ``forget_losses``; the first ``skip`` actors are counted apart."""
        crowd, actors = self.crowd, self.crowd.sidecars[skip:]
        first = self.crowd.sidecars[:skip]
        return {
            "open": sum(not each.transport.is_closing() for each in actors),
            "synced": sum(each.synced.done() and not each.transport.is_closing() for each in actors),
            "first_open": sum(not each.transport.is_closing() for each in first),
            "losses": crowd.losses,
            "dropped": dict(crowd.dropped),
            "again": crowd.again,
            "resent": crowd.resent,
            "nacks": crowd.nacks,
            "back_after_s": crowd.back_at - crowd.lost_at,
        }

    async def states(self) -> dict[str, Any]:
        """Return how many actors are in each state, by a digest of what they have, how they differ, and one state."""
        found: dict[str, int] = {}
        examples: list[set[tuple[tuple[str, str], str]]] = []
        for each in self.crowd.sidecars:
            text = repr(sorted(each.held.items())).encode()
            digest = hashlib.sha256(text).hexdigest()[:16]
            if digest not in found and len(examples) < 10:
                examples.append(set(each.held.items()))
            found[digest] = found.get(digest, 0) + 1
        differing = sorted(set.union(*examples) - set.intersection(*examples))
        shown = [f"{each.node_id}: {each.mode}" for each in self.crowd.sidecars if not each.synced.done()]
        held = self.crowd.sidecars[0].held
        one = {f"{type_url} {name}": version for (type_url, name), version in held.items()}
        return {"states": found, "differing": differing[:20], "unsynced": shown[:20], "one": one}


if __name__ == "__main__":
    uvloop.run(answer_commands(FaultyCommands()))
