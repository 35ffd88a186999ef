"""Writers of every kind of change, over REST and gRPC, at one or more servers, which record the answers."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import httpx
from immutables import Map

from support import resources as r
from support.server import XdsServer
from support.write_history import Call, Entry, Made, Read, Refused
from support.write_model import CONFLICT, DEFAULT, UNAVAILABLE, UNKNOWN, WRONG, Op, Place, State
from xds.client import About, Client, ConflictError, NotFoundError, OutcomeUnknownError, RejectedError, UnavailableError
from xds.model.types import short_name
from xds.publishing.codec import decode_table
from xds.schema.restore import restore
from xds.schema.show import to_json
from xds.store.entries import Key, Store

GROUPS = (DEFAULT, "g1", "g2", "g3", "g4")
CLUSTERS = ("c1", "c2", "c3")


def resource(type_: str, name: str, content: str) -> r.Json:
    """Return the resource for a content of the model."""
    match type_:
        case "clusters":
            return r.static_cluster(name, int(content))
        case "endpoints":
            return r.assignment(name, int(content))
        case "routes":
            return r.route(name, content)
    raise AssertionError(type_)


def content_of(type_: str, found: r.Json) -> str:
    """Return the model's content for a resource that was read."""
    match type_:
        case "routes":
            return str(found["virtual_hosts"][0]["routes"][0]["route"]["cluster"])
        case "clusters":
            found = found["load_assignment"]
    address = found["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    return str(address["port_value"])


class Operations:
    """Chooses random operations, most of which conflict with each other."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._numbers = itertools.count()
        self.newest = 0
        """The newest revision in any answer."""

    def next(self) -> Op:
        """Return the next random operation."""
        chance = self._chance
        number = next(self._numbers)
        group = chance.choice(GROUPS)
        cluster = ("clusters", chance.choice(CLUSTERS), str(1 + chance.randrange(3)))
        route = ("routes", "route", chance.choice(CLUSTERS))
        kinds: list[tuple[int, Any]] = [
            (6, lambda: Op(kind="apply", group=group, sets=(chance.choice((cluster, cluster, route)),))),
            (2, lambda: Op(kind="apply", group=group, sets=(cluster, route))),
            (3, lambda: Op(kind="apply", group=group, removes=(chance.choice((cluster[:2], route[:2])),))),
            (3, lambda: Op(kind="replace", group=group, sets=chance.choice(((), (cluster,), (cluster, route))))),
            (3, lambda: Op(kind="rollback", group=group, to=max(0, self.newest + chance.randint(-30, 2)))),
            (5, lambda: Op(kind="put_group", group=group, extends=chance.choice((None, *GROUPS)))),
            (4, lambda: Op(kind="delete_group", group=group)),
            (2, lambda: Op(kind="put_rules", **self._rules())),
            (3, lambda: Op(kind="update_rules", **self._parts())),
            (3, lambda: Op(kind="read", group=DEFAULT, of_group=chance.random() < 0.5)),
        ]
        op: Op = chance.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0]()
        expected = max(0, self.newest + chance.choice((0, 0, 0, -1, 1))) if chance.random() < 0.2 else None
        return replace(op, id=f"op-{number}", expected=expected, dry_run=chance.random() < 0.03)

    def _rules(self) -> dict[str, Any]:
        chance = self._chance
        bases = {group: chance.choice((None, *GROUPS)) for group in chance.sample(GROUPS[1:], chance.randrange(3))}
        rules = tuple(chance.choice((*bases, *GROUPS)) for _ in range(chance.randrange(2)))
        external = tuple(sorted(chance.sample(CLUSTERS, chance.randrange(4))))
        return {"extends_all": tuple(bases.items()), "rules": rules, "external": external}

    def _parts(self) -> dict[str, Any]:
        chance = self._chance
        parts = self._rules()
        parts = {key: value for key, value in parts.items() if chance.random() < 0.5}
        if chance.random() < 0.5:
            parts["add_external"] = (chance.choice(CLUSTERS),)
        return parts


def rules_document(op: Op) -> r.Json:
    """Return the body of a change of rules."""
    document: r.Json = {}
    if op.extends_all is not None:
        document["groups"] = {name: {} if base is None else {"extends": base} for name, base in op.extends_all}
    if op.rules is not None:
        document["rules"] = [{"group": group, "match": {}} for group in op.rules]
    if op.external is not None:
        document["external"] = [f"clusters/{name}" for name in op.external]
    if op.add_external:
        document["add_external"] = [f"clusters/{name}" for name in op.add_external]
    return document


def rules_shown(rules: r.Json, groups: Sequence[str]) -> object:
    """Return the result of a read of groups and rules in the form of ``write_model.shown``."""
    extends = {name: str(each["extends"]) for name, each in rules["groups"].items()}
    external = tuple(each.removeprefix("clusters/") for each in rules["external"])
    return frozenset(groups), extends, tuple(each["group"] for each in rules["rules"]), external


class Rest:
    """One connection to a server's REST API."""

    def __init__(self, server: XdsServer) -> None:
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", timeout=60)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, op: Op) -> Made | Refused | Read | None:
        """Make an operation, and return what it was answered with."""
        told = {"dry_run": op.dry_run}
        sets = [resource(*each) for each in op.sets]
        removes = [{"type": type_, "name": name} for type_, name in op.removes]
        group = f"/v1/groups/{op.group}"
        match op.kind:
            case "apply" if len(op.sets) + len(op.removes) == 1 and not op.dry_run:
                type_, name = (op.sets or op.removes)[0][:2]
                return await self._send("PUT" if sets else "DELETE", f"{group}/resources/{type_}/{name}", op, *sets)
            case "apply":
                return await self._send("POST", f"{group}/changesets", op, {"upsert": sets, "remove": removes, **told})
            case "replace":
                return await self._send("PUT", f"{group}/snapshot", op, {"resources": sets, **told})
            case "rollback":
                return await self._send("POST", f"{group}/rollback", op, {"to": op.to, **told})
            case "put_group":
                return await self._send("PUT", group, op, {"extends": op.extends, **told})
            case "delete_group":
                return await self._send("DELETE", group, op)
            case "put_rules" | "update_rules":
                return await self._send(
                    "PUT" if op.kind == "put_rules" else "PATCH", "/v1/groups", op, rules_document(op)
                )
            case "read":
                return await self._read(op)
        raise AssertionError(op.kind)

    async def _send(self, verb: str, path: str, op: Op, body: r.Json | None = None) -> Made | Refused | None:
        headers = {} if op.expected is None else {"if-match": f'"{op.expected}"'}
        try:
            answer = await self._http.request(verb, path, json=body, headers=headers, params={"id": op.id})
        except httpx.TransportError:
            return None
        if answer.status_code == 504:
            return None
        told = answer.json()
        if answer.status_code == 200:
            return Made(told["revision"], told["again"])
        status = CONFLICT if answer.status_code == 412 else answer.status_code
        assert status in (CONFLICT, UNKNOWN, WRONG, UNAVAILABLE), answer.text
        return Refused(status, told.get("revision") if status == CONFLICT else None)

    async def _read(self, op: Op) -> Read:
        if op.of_group:
            told = (await self._http.get(f"/v1/groups/{op.group}/snapshot")).json()
            return Read(told["revision"], places_of(op.group, told["resources"]))
        told = (await self._http.get("/v1/groups")).json()
        return Read(told["revision"], rules_shown(told["rules"], [each["name"] for each in told["groups"]]))


def places_of(group: str, resources: Sequence[r.Json]) -> dict[Place, str]:
    """Return the places and contents of a snapshot."""
    found: dict[Place, str] = {}
    for each in resources:
        type_ = short_name(each["@type"])
        found[group, type_, str(each.get("name") or each["cluster_name"])] = content_of(type_, each)
    return found


class Grpc:
    """One client of a server's gRPC API, which retries by itself if the outcome is unknown."""

    def __init__(self, server: XdsServer) -> None:
        self._client = Client(f"127.0.0.1:{server.api_port}", patience_s=60)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__(None, None, None)

    async def call(self, op: Op) -> Made | Refused | Read | None:
        """Make an operation, and return what it was answered with."""
        try:
            made = await self._call(op)
        except ConflictError as error:
            return Refused(CONFLICT, error.revision)
        except NotFoundError:
            return Refused(UNKNOWN)
        except RejectedError:
            return Refused(WRONG)
        except UnavailableError:
            return Refused(UNAVAILABLE)
        except OutcomeUnknownError:
            return None
        return made if isinstance(made, Read) else Made(made.revision, made.again)

    async def _call(self, op: Op) -> Any:
        client, about = self._client, About(id=op.id, expected_revision=op.expected, dry_run=op.dry_run)
        sets = [resource(*each) for each in op.sets]
        match op.kind:
            case "apply":
                return await client.apply(upsert=sets, remove=op.removes, group=op.group, about=about)
            case "replace":
                return await client.replace(sets, group=op.group, about=about)
            case "rollback":
                return await client.rollback(op.to, group=op.group, about=about)
            case "put_group":
                return await client.put_group(op.group, extends=op.extends, about=about)
            case "delete_group":
                return await client.delete_group(op.group, about=about)
            case "put_rules":
                return await client.put_rules(rules_document(op), about=about)
            case "update_rules":
                return await client.update_rules(rules_document(op), about=about)
            case "read":
                found = await client.snapshot(op.group)
                return Read(found.revision, places_of(op.group, found.resources))
        raise AssertionError(op.kind)


class Writers:
    """Writers at some servers, half of them over REST and half over gRPC, and their history."""

    def __init__(self, servers: Sequence[XdsServer], *, seed: int, count: int, writes: int, pushers: int = 4) -> None:
        self._servers = servers
        self._operations = Operations(seed)
        self._chance = random.Random(seed + 1)
        self._count, self._writes, self._pushers = count, writes, pushers
        self.calls: list[Call] = []

    async def run(self) -> None:
        """Write until each writer has made its number of operations."""
        writing = [self._write(number) for number in range(self._count - self._pushers)]
        await asyncio.gather(*writing, *(self._push(number) for number in range(self._pushers)))

    async def _write(self, number: int) -> None:
        form = (Rest, Grpc)[number % 2]
        async with form(self._servers[0]) as first, form(self._servers[-1]) as last:
            ways = (first, last)
            for _ in range(self._writes):
                op = self._operations.next()
                if op.kind == "read" and form is Grpc:
                    op = replace(op, of_group=True)
                if op.kind in ("delete_group", "put_rules", "update_rules") and form is Rest:
                    op = replace(op, dry_run=False)  # there is no way to say it there
                twice = op.kind != "read" and self._chance.random() < 0.05
                chosen = (0, 1) if twice else (self._chance.randrange(2),)
                await asyncio.gather(*(self._note(op, ways[each].call(op), each) for each in chosen))

    async def _note(self, op: Op, work: Any, way: int) -> None:
        asked = time.monotonic()
        answer = await work
        server = min(way, len(self._servers) - 1)
        if op.kind == "read" and not isinstance(answer, Read):
            return
        self.calls.append(Call(op, server, asked, time.monotonic(), answer))
        if isinstance(answer, Made | Read):
            self._operations.newest = max(self._operations.newest, answer.revision)

    async def _push(self, number: int) -> None:
        """Push endpoints with its own names on one stream, and await each only after the next was sent."""
        server = number % len(self._servers)
        async with Client(f"127.0.0.1:{self._servers[server].api_port}") as client, client.pushing_endpoints() as push:
            waiting: list[asyncio.Task[None]] = []
            for at in range(self._writes):
                name, port = f"p{number}-{at % 3}", str(1 + self._chance.randrange(3))
                op = Op(kind="push", id=f"push-{number}-{at}", sets=(("endpoints", name, port),))

                async def pushed(op: Op = op) -> Made:
                    return Made(await (await push(resource(*op.sets[0]))))

                waiting.append(asyncio.create_task(self._note(op, pushed(), server)))
                if len(waiting) > 1:
                    await waiting.pop(0)
            await asyncio.gather(*waiting)


async def entries_of(store: Store) -> list[Entry]:
    """Return a store's entries, from revision 1, in the model's form."""
    entries: list[Entry] = []
    state = State()
    after = 0
    while page := await store.entries(after, 1_000):
        for stored in page:
            resources = state.resources.mutate()
            for key, encoded in stored.entry.operations.items():
                if encoded is None:
                    resources.pop(_place(key), None)
                else:
                    found = to_json(restore(key.type_url, encoded))
                    resources[_place(key)] = content_of(short_name(key.type_url), found)
            state = replace(state, resources=resources.finish())
            if stored.entry.groups is not None:
                table = decode_table(stored.entry.groups)
                external = tuple(each.removeprefix("clusters/") for each in table.external)
                state = replace(
                    state,
                    groups=frozenset({DEFAULT, *table.names}),
                    extends=Map(table.extends),
                    rules=tuple(rule.group for rule in table.rules),
                    external=external,
                )
            assert stored.revision == len(entries) + 1
            entries.append(Entry(stored.entry.id, state))
        after = page[-1].revision
    return entries


def _place(key: Key) -> Place:
    return key.group, short_name(key.type_url), key.name
