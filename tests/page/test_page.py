"""The page over HTTP: who may see and do what, its forms, its headers, its addresses. The server is the real one."""

import asyncio
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support import resources as r
from support.page_scene import HOSTILE, Scene
from support.server import XdsServer
from support.waiting import wait_until

from xds.access.tokens import create_token, revoke_tokens
from xds.page.app import POLICY, VIEWS
from xds.page.live import STREAMS_MAX, stamp_of
from xds.protocol.convergence import Debts

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGES = sorted(page for method, page in VIEWS if method == "GET")
ARGUMENTS = {
    "group": "name=web",
    "node": "id=none",
    "node-diff": "id=none",
    "explain": "id=none",
    "resource": "group=web&type=clusters&name=a",
    "revision": "n=1",
    "rollback": "group=web&to=1",
}


class Guarded(Scene):
    """A server that asks for tokens: ``admin``, ``web`` (write in web) and ``reader`` (read in web)."""

    tokens_file: Path
    audit_file: Path
    tokens: dict[str, str]

    def browser(self, **headers: str) -> httpx.AsyncClient:
        """Return a client that keeps cookies, and says with its forms where they come from."""
        return httpx.AsyncClient(
            base_url=self.origin, headers={"origin": self.origin, "accept": "text/html", **headers}, timeout=30
        )

    @asynccontextmanager
    async def signed_in(self, who: str) -> AsyncIterator[httpx.AsyncClient]:
        """Yield a browser that has signed in."""
        async with self.browser() as made:
            answer = await made.post("/page/sign-in", data={"token": self.tokens[who], "next": "/page/"})
            assert (answer.status_code, answer.headers["location"]) == (303, "/page/"), answer.text
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    tokens = directory / "tokens"
    made = {
        "admin": create_token(tokens, "admin", ("admin",))[1],
        "web": create_token(tokens, "web", ("write",), ("web",))[1],
        "reader": create_token(tokens, "reader", ("read",), ("web",))[1],
        "gone": create_token(tokens, "gone", ("read",))[1],
    }
    settings = {"access.tokens_file": tokens, "access.audit_file": directory / "audit"}
    store = f"sqlite:///{directory}/state.db"
    async with XdsServer(None, "--workers", "0", "--store", store, settings=settings) as server:
        await server.wait_ready()
        guarded = Guarded(server, made["admin"])
        guarded.tokens_file, guarded.tokens = tokens, made
        await guarded.push("web", r.static_cluster("a", 1), r.static_cluster("b", 1), message="first")
        await guarded.push("unseen", r.static_cluster("secret-name", 1), message="unseen words")
        await guarded.push("web", r.static_cluster("a", 2), message="second")
        yield guarded
        await guarded.close()


def path_of(page: str) -> str:
    return f"/page/{page}?{ARGUMENTS.get(page, '')}"


# --- Who may see it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
async def test_every_page_asks_who_is_there(scene: Guarded, page: str) -> None:
    async with scene.browser() as browser:
        answer = await browser.get(path_of(page))
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/page/sign-in?next=%2Fpage%2F")
        asked = await browser.get(answer.headers["location"])
    assert (asked.status_code, "Sign in" in asked.text) == (200, True)


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("node") or page == "nodes"])
async def test_an_administrator_sees_every_page(scene: Guarded, page: str) -> None:
    async with scene.signed_in("admin") as browser:
        answer = await browser.get(path_of(page))
    assert answer.status_code == 200, answer.text
    assert "token:admin" in answer.text


async def test_a_caller_sees_only_its_groups(scene: Guarded) -> None:
    async with scene.signed_in("reader") as browser:
        for page in ("", "groups", "resources", "revisions", "nodes"):
            answer = await browser.get(f"/page/{page}")
            assert (page, answer.status_code, "unseen" in answer.text) == (page, 200, False)
        for path in ("group?name=unseen", "resources?group=unseen", "revision?n=2", "revisions?group=unseen"):
            answer = await browser.get(f"/page/{path}")
            assert (path, answer.status_code, "secret-name" in answer.text) == (path, 403, False)


async def test_the_audit_log_is_for_administrators(scene: Guarded) -> None:
    async with scene.signed_in("reader") as browser:
        assert (await browser.get("/page/audit")).status_code == 403
    async with scene.signed_in("admin") as browser:
        answer = await browser.get("/page/audit?who=token:reader")
    assert answer.status_code == 200
    assert "SignIn" in answer.text


async def test_secrets_are_redacted(scene: Guarded) -> None:
    secret = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "s",
        "generic_secret": {"secret": {"inline_string": "very-secret-value"}},
    }
    revision = await scene.push("web", secret)
    async with scene.signed_in("admin") as browser:
        for path in ("resource?group=web&type=secrets&name=s", f"revision?n={revision}", "rollback?group=web&to=1"):
            answer = await browser.get(f"/page/{path}")
            assert (path, answer.status_code, "very-secret-value" in answer.text) == (path, 200, False)
            assert "redacted" in answer.text


# --- Signing in ------------------------------------------------------------------------------------------------------


async def test_a_sign_in_is_a_strict_cookie_of_the_page_that_scripts_can_not_read(scene: Guarded) -> None:
    async with scene.browser() as browser:
        answer = await browser.post(
            "/page/sign-in", data={"token": scene.tokens["web"], "next": "/page/nodes?state=gone"}
        )
    assert (answer.status_code, answer.headers["location"]) == (303, "/page/nodes?state=gone")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(
        rf"xds_page_{scene.server.admin_port}=[\w-]{{43}}; HttpOnly; Max-Age=43200; Path=/page; SameSite=strict", cookie
    )
    assert scene.tokens["web"] not in cookie


@pytest.mark.parametrize("token", ["", "wrong", "xds_wrong", "gone", "x" * 20_000, HOSTILE])
async def test_a_token_that_is_not_valid_is_refused_with_the_reason(scene: Guarded, token: str) -> None:
    if token == "gone":
        revoke_tokens(scene.tokens_file, "gone")
        token = scene.tokens["gone"]
    async with scene.browser() as browser:
        answer = await browser.post("/page/sign-in", data={"token": token, "next": "/page/"})
    assert answer.status_code == (401 if token else 400)
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text
    assert "<img" not in answer.text


async def test_a_revoked_token_ends_its_sign_ins_at_once(scene: Guarded) -> None:
    scene.tokens["short"] = create_token(scene.tokens_file, "short", ("read",))[1]
    async with scene.signed_in("short") as browser:
        assert (await browser.get("/page/groups")).status_code == 200
        revoke_tokens(scene.tokens_file, "short")
        answer = await browser.get("/page/groups")
    assert answer.status_code == 401
    assert "was revoked" in answer.text


async def test_signing_out_ends_the_sign_in_on_the_server_too(scene: Guarded) -> None:
    async with scene.signed_in("web") as browser:
        kept = dict(browser.cookies)
        answer = await browser.post("/page/sign-out")
        assert (answer.status_code, answer.headers["location"]) == (303, "/page/sign-in")
        assert "Max-Age=0" in answer.headers["set-cookie"]
    async with scene.browser() as browser:
        browser.cookies.update(kept)
        answer = await browser.get("/page/groups")
    assert answer.status_code == 401
    assert "has ended" in answer.text


@pytest.mark.parametrize(
    "after", ["https://evil.example/", "//evil.example", "/page/\\evil", "/v1/nodes", "/page/ü", ""]
)
async def test_a_sign_in_leads_to_the_page_only(scene: Guarded, after: str) -> None:
    async with scene.browser() as browser:
        answer = await browser.post("/page/sign-in", data={"token": scene.tokens["web"], "next": after})
    assert (answer.status_code, answer.headers["location"]) == (303, "/page/")


async def test_a_link_from_another_site_is_opened_again_from_the_page_itself(scene: Guarded) -> None:
    """Browsers keep a strict cookie back with such a link, and send it when the page opens itself."""
    async with scene.browser() as browser:
        answer = await browser.get("/page/nodes?state=gone", headers={"sec-fetch-site": "cross-site"})
        assert (answer.status_code, 'http-equiv="refresh"' in answer.text) == (200, True)
        again = await browser.get("/page/nodes?state=gone", headers={"sec-fetch-site": "same-origin"})
    assert again.status_code == 303


# --- Forms -----------------------------------------------------------------------------------------------------------


async def confirmed(browser: httpx.AsyncClient, group: str, to: int) -> dict[str, str]:
    """Return the fields of the form that a roll-back is confirmed with."""
    answer = await browser.get(f"/page/rollback?group={group}&to={to}")
    assert answer.status_code == 200, answer.text
    return dict(re.findall(r'name="(\w+)" (?:maxlength="\d+" )?value="([^"]*)"', answer.text))


async def test_a_rollback_is_made_once_by_who_confirmed_it(scene: Guarded) -> None:
    await scene.push("web", r.static_cluster("a", 3))
    async with scene.signed_in("web") as browser:
        fields = await confirmed(browser, "web", 1)
        made = [await browser.post("/page/rollback", data=fields | {"message": "back"}) for _ in range(2)]
        assert [each.status_code for each in made] == [303, 303]
        assert len({each.headers["location"] for each in made}) == 1  # sent twice, it is one change
        shown = await browser.get(made[0].headers["location"])
    assert "token:web (page)" in shown.text
    assert "back" in shown.text
    kept = (await scene.api.get("/v1/groups/web/resources/clusters/a")).json()
    assert (
        kept["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"][
            "port_value"
        ]
        == 1
    )


async def test_a_rollback_of_what_has_changed_meanwhile_is_refused(scene: Guarded) -> None:
    await scene.push("web", r.static_cluster("a", 4))
    async with scene.signed_in("web") as browser:
        fields = await confirmed(browser, "web", 1)
        newest = await scene.push("web", r.static_cluster("a", 5))
        answer = await browser.post("/page/rollback", data=fields)
    assert answer.status_code == 409
    assert "changed meanwhile" in answer.text
    assert (await scene.api.get("/v1/groups")).json()["revision"] == newest


async def test_who_may_only_read_is_offered_no_rollback_and_can_not_make_one(scene: Guarded) -> None:
    async with scene.signed_in("web") as browser:
        fields = await confirmed(browser, "web", 1)
    before = (await scene.api.get("/v1/groups")).json()["revision"]
    async with scene.signed_in("reader") as browser:
        assert "rollback" not in (await browser.get("/page/group?name=web")).text
        assert (await browser.get("/page/rollback?group=web&to=1")).status_code == 403
        assert (await browser.post("/page/rollback", data=fields)).status_code == 403
    assert (await scene.api.get("/v1/groups")).json()["revision"] == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
async def test_a_form_of_another_origin_is_refused(scene: Guarded, headers: dict[str, str]) -> None:
    async with scene.signed_in("admin") as browser:
        fields = await confirmed(browser, "web", 1)
        del browser.headers["origin"]
        before = (await scene.api.get("/v1/groups")).json()["revision"]
        for page in ("rollback", "sign-out", "sign-in"):
            answer = await browser.post(f"/page/{page}", data=fields, headers=headers)
            assert (page, answer.status_code) == (page, 403)
        assert (await scene.api.get("/v1/groups")).json()["revision"] == before
        browser.headers["origin"] = scene.origin
        assert (await browser.get("/page/groups")).status_code == 200  # and the sign-in goes on


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"content": b"x" * 70_000, "headers": {"content-type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 400),
        ({"data": {f"k{number}": "" for number in range(200)}}, 400),
        ({"data": {}}, 400),
        ({"data": {"group": "web", "to": "x", "expected": "1", "id": "i"}}, 400),
        ({"data": {"group": "web", "to": "1", "expected": "9" * 30, "id": "i"}}, 400),
        ({"data": {"group": "none", "to": "1", "expected": "1", "id": "i"}}, 404),
        ({"data": {"group": "web", "to": "999999", "expected": "1", "id": "i"}}, 404),
    ],
)
async def test_a_form_that_the_page_did_not_make_is_refused(scene: Guarded, given: dict[str, Any], status: int) -> None:
    async with scene.signed_in("admin") as browser:
        answer = await browser.post("/page/rollback", **given)
    assert answer.status_code == status


# --- Addresses and headers -------------------------------------------------------------------------------------------


async def test_every_answer_forbids_what_is_not_its_own(scene: Guarded) -> None:
    async with scene.browser() as browser:
        answers = [
            await browser.get(path) for path in ("/page/sign-in", "/page/", "/page/none", "/page/assets/page.js")
        ]
        answers.append(await browser.post("/page/sign-in", data={"token": "wrong"}))
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


async def test_assets_are_kept_by_the_browser_and_pages_are_not(scene: Guarded) -> None:
    async with scene.browser() as browser:
        page = await browser.get("/page/sign-in")
        assert page.headers["cache-control"] == "no-store"
        linked = re.findall(r'(?:href|src)="(/page/assets/[^"]+)"', page.text)
        assert len(linked) == 3
        for path in linked:
            asset = await browser.get(path)
            assert (asset.status_code, asset.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        assert (await browser.get(linked[0].partition("?")[0])).headers["cache-control"] == "no-cache"
        assert (await browser.get("/page/assets/..%2Fapp.py")).status_code == 404


async def test_the_host_must_be_this_server(scene: Guarded) -> None:
    async with scene.browser(host="evil.example") as browser:
        assert (await browser.get("/page/sign-in")).status_code == 421


async def test_browsers_are_sent_to_the_page_and_programs_are_not(scene: Guarded) -> None:
    async with scene.browser() as browser:
        sent = await browser.get("/")
        assert (sent.status_code, sent.headers["location"]) == (307, "/page/")
        assert (await browser.get("/page")).headers["location"] == "/page/"
        plain = await browser.get("/", headers={"accept": "*/*"})
    assert plain.status_code == 200
    assert "/page/" in plain.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("none", 404),
        ("group", 400),
        ("group?name=none", 404),
        ("node?id=none", 404),
        ("revision?n=x", 400),
        ("revision?n=99999", 404),
        ("revision?n=-1", 400),
        ("revisions?before=%F0%9F%98%80", 400),
        ("nodes?state=odd", 400),
        ("nodes?sort=odd", 400),
        ("nodes?cursor=odd", 400),
        ("nodes?group=none", 404),
        ("resources?group=web&type=odd", 422),
        ("resources?group=web&page=0", 400),
        ("resource?group=web&type=clusters&name=none", 404),
        ("audit?outcome=odd", 400),
        ("rollback?group=web&to=99999", 404),
        ("nodes?search=" + "x" * 9_000, 400),
    ],
)
async def test_an_address_that_leads_nowhere_says_why(scene: Guarded, path: str, status: int) -> None:
    async with scene.signed_in("admin") as browser:
        answer = await browser.get(f"/page/{path}")
    assert answer.status_code == status, answer.text
    assert '<p id="why">' in answer.text


async def test_what_can_not_be_read_is_not_called_a_change(scene: Guarded) -> None:
    async with scene.signed_in("admin") as browser:
        answer = await browser.get("/page/resource?group=web&type=bogus&name=a")
        assert (answer.status_code, "The change was rejected" in answer.text) == (422, False)
        assert "<h1>This did not work</h1>" in answer.text
        answer = await browser.get("/page/resources?group=web&page=two")
        assert "is not the number of a page" in answer.text
        answer = await browser.get("/page/revision?n=two")
        assert "is not the number of a revision" in answer.text


async def test_a_long_list_of_resources_is_shown_page_by_page(scene: Guarded) -> None:
    await scene.push("long", *(r.static_cluster(f"c{number:03}", 1) for number in range(401)))
    async with scene.signed_in("admin") as browser:
        path, seen = "/page/resources?group=long", []
        while path:
            answer = await browser.get(path)
            assert answer.status_code == 200, answer.text
            seen.append(sorted(set(re.findall(r"\bc\d{3}\b", answer.text))))
            found = re.search(r'rel="next" href="([^"]+)"', answer.text)
            path = html.unescape(found[1]) if found else ""
        assert [len(names) for names in seen] == [200, 200, 1]
        assert len(set().union(*seen)) == 401


async def test_only_what_was_there_is_offered_to_return_to(scene: Guarded) -> None:
    first = await scene.push("brief", r.static_cluster("a", 1))
    second = await scene.push("brief", r.static_cluster("a", 2))
    async with scene.signed_in("admin") as browser:

        async def offered(revision: int) -> list[str]:
            page = (await browser.get(f"/page/revision?n={revision}")).text
            links = re.findall(r'href="(/page/rollback[^"]*)"', page)
            answers = [await browser.get(each.replace("&amp;", "&")) for each in links]
            assert [each.status_code for each in answers] == [200] * len(links)
            return [each.rpartition("to=")[2] for each in links]

        assert await offered(first) == [str(first)], "the change made the group: there is nothing before it"
        assert await offered(second) == [str(first)]
        answer = await browser.get(f"/page/rollback?group=brief&to={first - 1}")
        assert f"revision {first - 1} has no group &#39;brief&#39;" in answer.text
        assert "did you mean" not in answer.text
        assert (await scene.api.delete("/v1/groups/brief")).is_success
        for revision in (first, second):
            assert await offered(revision) == []
        assert "is not there any more" in (await browser.get(f"/page/revision?n={second}")).text


async def test_links_lead_to_what_the_caller_may_see(scene: Guarded) -> None:
    async with scene.signed_in("admin") as browser:
        text = (await browser.get("/page/")).text
        for path in sorted(set(re.findall(r'href="(/[^"]*)"', text))):
            assert (await browser.get(path.replace("&amp;", "&"))).status_code == 200, path


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused(scene: Guarded, method: str) -> None:
    async with scene.browser() as browser:
        assert (await browser.request(method, "/page/groups")).status_code == 405


async def test_an_open_stream_of_events_asks_for_a_sign_in_too(scene: Guarded) -> None:
    async with scene.browser() as browser:
        assert (await browser.get("/page/live")).status_code == 401
        assert (await browser.get("/page/nodes", headers={"x-part": "1"})).status_code == 401


async def test_a_stream_of_events_ends_with_its_sign_in(scene: Guarded) -> None:
    async with scene.signed_in("web") as browser, browser.stream("GET", "/page/live") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: stamp"
        async with scene.browser() as other:
            other.cookies.update(dict(browser.cookies))
            assert (await other.post("/page/sign-out")).status_code == 303
        async with asyncio.timeout(10):
            assert [line async for line in lines if line.startswith("event: end")] == ["event: end"]


async def test_only_get_begins_a_stream_of_events(scene: Guarded) -> None:
    streams = (
        "/page/live",
        "/v1/watch?from=0",
        "/v1/revisions/99999/convergence?wait_s=60",
    )
    async with scene.signed_in("admin") as browser:
        token = {"authorization": f"Bearer {scene.tokens['admin']}", "accept": "text/event-stream"}
        for path in streams:
            for method in ("HEAD", "OPTIONS", "POST", "PUT"):
                answer = await browser.request(method, path, headers=token, timeout=5)
                is_head = (method, path) == ("HEAD", "/page/live")
                assert answer.status_code == (200 if is_head else 405), (method, path)
                assert answer.headers["content-type"].startswith("text/event-stream") == is_head
        # more than there are places: none is taken, and the connection serves the next request
        for _ in range(STREAMS_MAX + 6):
            assert (await browser.head("/page/live")).status_code == 200
        async with browser.stream("GET", "/page/live") as stream:
            assert (stream.status_code, await anext(stream.aiter_lines())) == (200, "event: stamp")


async def test_a_browser_that_closes_frees_its_place(scene: Guarded) -> None:
    async with scene.signed_in("admin") as browser:
        for _ in range(STREAMS_MAX + 6):
            async with browser.stream("GET", "/page/live") as stream:
                assert (stream.status_code, await anext(stream.aiter_lines())) == (200, "event: stamp")


async def test_no_page_without_the_api_or_where_it_is_turned_off(tmp_path: Path) -> None:
    for settings in ({"api.page": "false"}, {"api.rest": "false"}):
        async with XdsServer(None, "--workers", "0", "--store", "memory:", settings=settings) as server:
            await server.wait_ready()
            assert (await server.admin("/page/")).status == 404
            assert "/page" not in (await server.admin("/")).text


async def test_nodes_that_are_gone_are_on_the_overview_and_in_the_stamp() -> None:
    async with XdsServer(None, "--workers", "0", "--store", "memory:") as server:
        await server.wait_ready()
        scene = Scene(server)
        await scene.push("default", r.static_cluster("a", 1))

        async def page() -> tuple[str, str]:
            text = (await scene.api.get("/page/")).text
            stamps = re.findall(r'data-stamp="([^"]*)"', text)
            verdict = re.findall(r'id="verdict">\s*([^<]*?)\s*</p>', text)
            assert 'href="/v1/docs"' in text
            return stamps[0], verdict[0] if verdict else ""

        for ids, verdict in (
            (("n1",), "The one known node is not connected."),
            (("n2", "n3"), "None of the 3 known nodes is connected."),
        ):
            for sidecar in scene.add(ids, "default"):
                await wait_until(lambda sidecar=sidecar: sidecar.had, equals=1)
            for sidecar in scene.sidecars:
                await sidecar.stop()
            await server.wait_metrics(lambda said: said["xds_streams"] == 0)
            await wait_until(page, lambda found, verdict=verdict: found[1] == verdict)
        assert 'aria-label="Nodes at the newest revision: 3 gone"' in (await scene.api.get("/page/")).text
        assert 'aria-label="Revision 1: 3 gone"' in (await scene.api.get("/page/")).text
        assert 'aria-label="Nodes that it concerns: 3 gone"' in (await scene.api.get("/page/revision?n=1")).text
        await scene.push("default", r.static_cluster("a", 2))
        assert "<strong>0 connected nodes</strong>" in (await scene.api.get("/page/rollback?group=default&to=1")).text
        await scene.close()


async def test_the_stamp_has_who_is_gone_and_which_replicas_are_missing() -> None:
    class Told:
        """What a caller sees, as far as the stamp has it."""

        revision, epoch, stale_because = 1, "e", ""

        def __init__(self, gone_changes: dict[str, int] | None = None, **found: Any) -> None:
            self.found, self.gone_changes = Debts(revision=1, by_group={}, **found), gone_changes or {}

        async def debts(self) -> Debts:
            return self.found

    several: tuple[dict[str, Any], ...] = (
        {},
        {"gone": {"web": 1}},
        {"gone": {"web": 2}},
        {"gone": {"web": 1}, "gone_changes": {"web": 3}},
        {"missing_replicas": ("b: silent",)},
    )
    stamps = {await stamp_of(Told(**each)) for each in several}  # type: ignore[arg-type]
    assert len(stamps) == len(several)
