"""A fake etcd client in this process, whose watch events and replies come in an order that the test chooses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from xds._generated import etcd_pb2 as pb


class FakeEtcd:
    """Keys with their modifications, and the methods of ``EtcdClient``. ``before_reply`` runs after a write, before its
    caller gets the reply. Watches receive writes at ``tell``."""

    def __init__(self) -> None:
        self.revision = 1
        self.before_reply: Callable[[], Awaitable[None]] | None = None
        self._keys: dict[bytes, tuple[bytes, int]] = {}
        self._untold: list[pb.Event] = []
        self._watch: asyncio.Queue[pb.WatchResponse] = asyncio.Queue()

    def write(self, **values: bytes) -> None:
        """Make a change as another writer would; ``head`` stands for the key ``x/head``."""
        self._put({f"x/{key.replace('_', '/')}".encode(): value for key, value in values.items()})

    def _put(self, values: dict[bytes, bytes]) -> None:
        self.revision += 1
        for key, value in values.items():
            self._keys[key] = (value, self.revision)
            self._untold.append(pb.Event(type=pb.Event.PUT, kv=self._kv(key)))

    def _kv(self, key: bytes) -> pb.KeyValue:
        value, modified = self._keys[key]
        return pb.KeyValue(key=key, value=value, mod_revision=modified)

    def tell(self) -> None:
        """Send the watch all writes since the last call."""
        response = pb.WatchResponse(events=self._untold)
        response.header.revision = self.revision
        self._untold = []
        self._watch.put_nowait(response)

    def value(self, key: bytes) -> bytes:
        """Return the value of a key."""
        return self._keys[key][0]

    async def range(self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0) -> pb.RangeResponse:
        """Same as ``EtcdClient``."""
        found = [each for each in sorted(self._keys) if each == key or (end and key <= each < end)]
        response = pb.RangeResponse(kvs=[self._kv(each) for each in found])
        response.header.revision = self.revision
        return response

    async def transact(
        self, compare: Sequence[pb.Compare], success: Sequence[pb.RequestOp], failure: Sequence[pb.RequestOp]
    ) -> pb.TxnResponse:
        """Same as ``EtcdClient``."""
        holds = all(self._keys.get(each.key, (b"", 0))[1] == each.mod_revision for each in compare)
        response = pb.TxnResponse(succeeded=holds)
        if holds:
            self._put({op.request_put.key: op.request_put.value for op in success})
        else:
            for op in failure:
                key = op.request_range.key
                response.responses.add().response_range.kvs.extend([self._kv(key)] if key in self._keys else [])
        response.header.revision = self.revision
        if holds and self.before_reply is not None:
            before, self.before_reply = self.before_reply, None
            await before()
        return response

    async def put(self, key: bytes, value: bytes) -> None:
        """Same as ``EtcdClient``."""
        self._put({key: value})

    async def delete(self, key: bytes, end: bytes = b"") -> None:
        """Same as ``EtcdClient``."""
        for each in [each for each in self._keys if each == key or (end and key <= each < end)]:
            del self._keys[each]

    async def watch(self, key: bytes, end: bytes, revision: int) -> AsyncIterator[pb.WatchResponse]:
        """Same as ``EtcdClient``."""
        while True:
            yield await self._watch.get()

    async def close(self) -> None:
        """Same as ``EtcdClient``."""
