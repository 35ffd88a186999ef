"""The page in a real Chromium, on a real server with 200 simulated sidecars."""

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect
from support import resources as r
from support.browser import BrowserMissingError, Seen, browser, chromium, seen, violations
from support.page_scene import HOSTILE, Scene
from support.server import XdsServer
from support.toolchains import without
from support.waiting import wait_until

from xds.access.tokens import create_token

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
WAIT_MS = 20_000
NODES = 200
LONG = "batch-" + "x" * 180
RTL = "\u05d0\u05d1\u05d2-\u0639\u0631\u0628\u064a"
PICTURES = os.environ.get("XDS_PAGE_PICTURES", "")
"""Where the pictures of the documentation are written to; nowhere in a test run."""
PAGES = (
    "",
    "groups",
    "group?name=edge",
    "nodes",
    "nodes?state=rejected&sort=state",
    "nodes?search=no-such-node",
    "node?id=edge-000",
    "node-diff?id=edge-000",
    "explain?id=edge-000&type=clusters&name=edge-1",
    "resources?group=web",
    "resources?group=web&prefix=none",
    "resource?group=web&type=clusters&name=web-1",
    "revisions",
    "revision?n=1",
    "revision?n=5",
    "rollback?group=web&to=1",
    "servers",
    "audit",
    "none",
)
expect.set_options(timeout=WAIT_MS)


class Fleet(Scene):
    """Three groups of 200 sidecars: two of edge reject the second change, one of batch does not answer."""

    store: str

    async def settle(self) -> None:
        """Make the changes that the pages show."""
        for group, count in (("web", 150), ("edge", 40), ("batch", 10)):
            clusters = [r.static_cluster(f"{group}-{number}", 8_000 + number) for number in range(12)]
            await self.push(group, *clusters, message=f"the first resources of {group}")
            names = [f"{group}-{number:03}" for number in range(count)]
            names[-2:] = {"edge": ["edge-038", HOSTILE], "batch": [LONG, RTL]}.get(group, names[-2:])
            self.add(names, group, locality={"region": "eu", "zone": "eu-1"})
        await self.wait_served()
        for each in self.sidecars:
            if each.node_id in ("edge-000", HOSTILE):
                each.rejects = f"Error adding/updating cluster(s) edge-1: no such host; {HOSTILE}"
            each.is_silent = each.node_id == LONG
        await self.push("web", r.static_cluster("web-1", 9_001), message="move web-1 to another port")
        await self.push("edge", r.static_cluster("edge-1", 9_001), message=HOSTILE, author="<b>mallory</b>")
        await self.push("batch", r.static_cluster("batch-1", 9_001), message="a port for batches")
        await wait_until(self.rejected, equals=2)

    async def rejected(self) -> int:
        answer = (await self.api.get("/v1/nodes?state=rejected")).json()
        return int(answer["total"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome() -> AsyncIterator[Browser]:
    try:
        chromium()
    except BrowserMissingError as missing:
        without(missing)
    async with browser() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    settings = {"access.audit_file": directory / "audit", "protocol.hold_timeout_s": 600}
    options = ("--workers", "1", "--store", f"sqlite:///{directory}/state.db")
    async with XdsServer(None, *options, settings=settings) as server:
        await server.wait_ready()
        made = Fleet(server)
        await made.settle()
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def look(chrome: Browser, fleet: Fleet) -> AsyncIterator[Seen]:
    """A page of the browser, in which nothing goes wrong."""
    async with seen(chrome, fleet.origin) as opened:
        yield opened
        assert opened.faults == []


async def opened(look: Seen, path: str) -> Page:
    await look.page.goto(f"/page/{path}")
    return look.page


async def mark(page: Page) -> None:
    """Mark the document: a page that is loaded anew loses the mark."""
    await page.evaluate("window.kept = true")


async def is_kept(page: Page) -> bool:
    return bool(await page.evaluate("window.kept === true"))


def overflows(page: Page) -> Any:
    return page.evaluate(
        "[...document.querySelectorAll('main *')].filter(each => each.getBoundingClientRect().right > innerWidth + 1)"
        ".map(each => each.outerHTML.slice(0, 200)).slice(0, 5)"
    )


# --- Every page ------------------------------------------------------------------------------------------------------


async def test_every_page_is_for_everyone_in_light_and_dark_and_at_320_pixels(look: Seen) -> None:
    """Axe finds nothing, no text is cut off, and nothing goes wrong in the browser."""
    wrong: dict[str, Any] = {}
    for path in PAGES:
        page = await opened(look, path)
        await page.emulate_media(color_scheme="light")
        found = await violations(page)
        await page.emulate_media(color_scheme="dark")
        found += await violations(page, "color-contrast")
        if found:
            wrong[path] = found
        await page.set_viewport_size({"width": 320, "height": 640})
        width = await page.evaluate("document.documentElement.scrollWidth")
        if width > 320 or await overflows(page):
            wrong[f"{path} at 320 px"] = [width, await overflows(page)]
        await page.set_viewport_size({"width": 1280, "height": 800})
    look.forgive("404 (Not Found)")
    assert wrong == {}


async def test_hostile_names_and_nacks_are_shown_and_do_nothing(look: Seen) -> None:
    for path in ("", "nodes?state=rejected", "revisions", "revision?n=5", "groups"):
        page = await opened(look, path)
        assert await page.locator("main img, main script, main iframe, main b[class]").count() == 0
        if path != "groups":
            assert "<img src=x onerror=alert(1)>\\u202egpj.evil\\u2066\\u200b" in await page.inner_text("main")
    page = await opened(look, "nodes?state=rejected")
    await page.get_by_role("link", name="<img src=x").click()
    await expect(page.locator("h1")).to_contain_text("<img src=x onerror=alert(1)>")
    await expect(page.get_by_text("no such host").first).to_be_visible()
    for name in (LONG, RTL):
        page = await opened(look, "nodes?group=batch")
        await page.get_by_role("link", name=name).click()
        await expect(page.locator("h1")).to_have_text(name)
    assert await page.locator("h1 bdi").evaluate("each => getComputedStyle(each).unicodeBidi") == "isolate"


async def test_colours_have_a_word_and_a_pattern_beside_them(look: Seen) -> None:
    page = await opened(look, "")
    for state in ("pending", "rejected"):
        bar = page.locator(f"svg.bar rect.{state}").first
        assert await bar.evaluate("each => getComputedStyle(each).fill") == f'url("#p-{state}")'
        await expect(page.locator(".legend").get_by_text(state)).to_be_visible()
    label = await page.locator(".hero svg.bar").get_attribute("aria-label")
    assert label == "Nodes at the newest revision: 197 accepted, 1 pending, 2 rejected"


async def test_times_are_in_the_readers_zone(chrome: Browser, fleet: Fleet) -> None:
    found = []
    for zone in ("UTC", "Asia/Tokyo"):
        async with seen(chrome, fleet.origin, timezone_id=zone) as look:
            page = await opened(look, "revision?n=1")
            time = page.locator("main time").first
            found.append((await time.get_attribute("datetime"), await time.inner_text()))
            assert look.faults == []
    (utc, in_utc), (tokyo, in_tokyo) = found
    assert utc == tokyo
    assert in_utc != in_tokyo


async def test_motion_is_for_those_who_want_it(look: Seen) -> None:
    page = await opened(look, "")
    bar = page.locator("svg.bar rect.accepted").first
    for wanted, duration in (("no-preference", "0.35s, 0.35s"), ("reduce", "0s")):
        await page.emulate_media(reduced_motion=wanted)  # type: ignore[arg-type]
        assert await bar.evaluate("each => getComputedStyle(each).transitionDuration") == duration


async def test_pages_work_without_scripts(chrome: Browser, fleet: Fleet) -> None:
    async with seen(chrome, fleet.origin, java_script_enabled=False) as look:
        page = await opened(look, "")
        await page.get_by_role("link", name="Nodes", exact=True).click()
        await page.get_by_label("Search").fill("edge-01")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator(".totals")).to_have_text("10 nodes")
        assert look.faults == []


# --- Keyboard, addresses ---------------------------------------------------------------------------------------------


async def focused(page: Page) -> str:
    return str(await page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))


async def test_everything_is_reached_by_keyboard_in_the_order_in_which_it_is_read(look: Seen) -> None:
    page = await opened(look, "nodes")
    reached = []
    for _ in range(16):
        await page.keyboard.press("Tab")
        reached.append(await focused(page))
        box: Any = await page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth] })()"
        )
        assert box == ["solid", "3px"], f"{reached[-1]}: the focus is not seen"
    names = ["Overview", "Groups", "Nodes", "Resources", "Revisions", "Servers", "Audit"]
    assert reached[:9] == ["Skip to the content", "xds", *names]
    assert reached[9] == "search"
    assert reached[13] == "Show"
    assert reached[14].startswith("<img src=x")  # the first node by its id
    await page.goto("/page/nodes")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await page.keyboard.press("Tab")
    assert await focused(page) == "search"


async def test_a_search_is_an_address_that_can_be_shared(chrome: Browser, fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "nodes")
    await page.get_by_label("Search").fill("EDGE-00")
    await page.get_by_label("State").select_option("accepted")
    await page.get_by_label("Search").press("Enter")
    await expect(page.locator(".totals")).to_have_text("9 nodes")
    async with seen(chrome, fleet.origin) as other:
        await other.page.goto(page.url)
        await expect(other.page.locator(".totals")).to_have_text("9 nodes")
        assert await other.page.get_by_label("Search").input_value() == "EDGE-00"
        assert await other.page.get_by_label("State").input_value() == "accepted"


async def test_all_nodes_are_found_page_by_page_once(look: Seen) -> None:
    page = await opened(look, "nodes?sort=group")
    found: list[str] = []
    while True:
        found += await page.locator("tbody th a").all_inner_texts()
        following = page.get_by_role("link", name="Next page")
        if not await following.count():
            break
        await following.click()
        await page.wait_for_load_state()
    assert len(found) == len(set(found)) == NODES


# --- Live ------------------------------------------------------------------------------------------------------------


async def test_a_resource_says_who_has_which_version(fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "resource?group=edge&type=clusters&name=edge-1")
    rows = page.get_by_role("table", name="Versions that clients have").get_by_role("row")
    told = [await row.inner_text() for row in (await rows.all())[1:]]
    old, new = sorted(told, key=lambda row: "this one" in row)
    assert "2" in old.split()
    links = await rows.filter(has_not_text="this one").get_by_role("link").all_inner_texts()
    assert {"edge", "edge-000"} < set(links)
    assert len(links) == 3
    assert "38" in new.split()
    assert "…" in new
    nobody = await opened(look, "resource?group=web&type=clusters&name=web-2&at=1")
    assert "150" in await nobody.get_by_role("table", name="Versions that clients have").inner_text()


async def test_the_overview_follows_a_change_and_keeps_what_the_reader_was_doing(fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "")
    await expect(page.locator("#liveness")).to_have_text("live")
    await mark(page)
    link = page.locator(".groups").get_by_role("link", name="edge")
    await link.focus()
    revision = await fleet.push("web", r.static_cluster("web-2", 9_002), message="while somebody looks")
    await expect(page.locator(f'[data-key="r{revision}"]')).to_contain_text("while somebody looks")
    await expect(page.locator(f'[data-key="r{revision}"] .tally')).to_contain_text("accepted")
    await expect(page.locator("#served")).to_have_text(str(revision))
    assert await is_kept(page)
    assert await focused(page) == "edge"


async def test_a_node_that_comes_rejects_and_leaves_is_seen_as_it_does(fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "nodes?search=visitor")
    await expect(page.get_by_text("No node matches")).to_be_visible()
    await mark(page)
    (visitor,) = fleet.add(["visitor"], "edge")
    row = page.locator("tbody tr")
    await expect(row).to_contain_text("accepted")
    visitor.rejects = "not today"
    await fleet.push("edge", r.static_cluster("edge-2", 9_002), message="for the visitor")
    await expect(row).to_contain_text("rejected")
    await visitor.stop()
    fleet.sidecars.remove(visitor)
    await expect(row).to_contain_text("gone")
    assert await is_kept(page)


async def test_what_is_unfolded_stays_so_while_the_page_is_live(fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "revision?n=1")
    await mark(page)
    first = page.locator("details").first
    await first.locator("summary").press("Enter")
    await expect(first).to_have_attribute("open", "")
    revision = await fleet.push("batch", r.static_cluster("batch-3", 9_003), message="elsewhere")
    await expect(page.locator("#served")).to_have_text(str(revision))
    await expect(first).to_have_attribute("open", "")
    assert await is_kept(page)


async def test_a_page_in_the_background_asks_for_nothing(fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "")
    await expect(page.locator("#liveness")).to_have_text("live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.evaluate(
        "Object.defineProperty(document, 'hidden', { get: () => window.away, configurable: true }); window.away = true;"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    revision = await fleet.push("web", r.static_cluster("web-4", 9_004), message="unseen")
    await fleet.wait_accepted(revision)
    assert asked == []
    await page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator("#served")).to_have_text(str(revision))


# --- Acting ----------------------------------------------------------------------------------------------------------


async def test_a_rollback_is_made_by_keyboard_after_it_says_what_it_touches(fleet: Fleet, look: Seen) -> None:
    changed = await fleet.push("web", r.static_cluster("web-1", 9_005), message="a mistake")
    page = await opened(look, f"revision?n={changed}")
    await page.get_by_role("link", name="Return to before it").press("Enter")
    await expect(page.locator("#touches")).to_have_text("This touches 150 connected nodes and changes 1 resource.")
    await expect(page.locator(".fields")).to_contain_text("port_value")
    await page.get_by_label("Why").fill("it was a mistake")
    await page.get_by_role("button", name="Roll back 150 nodes").press("Enter")
    await expect(page.locator("h1")).to_have_text(f"Revision {changed + 1}")
    await expect(page.locator(".lead")).to_have_text("it was a mistake")
    await expect(page.locator("#reach")).to_contain_text("150")
    await expect(page.locator("#reach")).not_to_contain_text("pending")


async def test_a_rollback_that_changes_nothing_says_so(fleet: Fleet, look: Seen) -> None:
    newest = (await fleet.api.get("/v1/groups")).json()["revision"]
    page = await opened(look, f"rollback?group=web&to={newest}")
    await expect(page.locator("#touches")).to_contain_text("nothing to do")
    assert await page.get_by_role("button", name="Roll back").count() == 0


async def test_who_is_asked_to_sign_in_comes_to_the_page_that_was_asked_for(chrome: Browser, tmp_path: Path) -> None:
    """Also from a link of another site, with which browsers keep a strict cookie back."""
    _, token = create_token(tmp_path / "tokens", "ann", ("read",))
    settings = {"access.tokens_file": tmp_path / "tokens"}
    async with XdsServer(None, "--workers", "0", "--store", "memory:", settings=settings) as server:
        await server.wait_ready()
        origin, other = (f"http://{host}:{server.admin_port}" for host in ("localhost", "127.0.0.1"))
        revisions = f"{origin}/page/revisions"
        async with seen(chrome, origin) as look:
            page = await opened(look, "nodes?state=gone")
            await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
            assert await violations(page) == []
            await page.get_by_label("Token").fill("xds_wrong")
            await page.get_by_label("Token").press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("This did not work")
            await page.get_by_label("Token").fill(token)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_text("token:ann")).to_be_visible()
            assert page.url == f"{origin}/page/nodes?state=gone"
            assert await page.evaluate("document.cookie") == ""
            look.origin = "http://"
            await page.goto(f"{other}/page/sign-in")
            await page.evaluate(
                "where => document.querySelector('h1').innerHTML = `<a href=${where}>there</a>`", revisions
            )
            await page.get_by_role("link", name="there").click(no_wait_after=True)  # the next line waits
            await page.wait_for_url(revisions, wait_until="domcontentloaded")
            await expect(page.get_by_text("token:ann")).to_be_visible()
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
            await page.goto("/page/revisions")
            await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
            look.forgive("401 (Unauthorized)")
            assert look.faults == []


async def test_pictures_show_what_the_documentation_says(fleet: Fleet, chrome: Browser) -> None:
    """With ``XDS_PAGE_PICTURES`` they are written to that directory (``make page-pictures``)."""
    for number, why in enumerate(
        ("a canary for the new port", "more room for retries", "the new port for all", "tidy up")
    ):
        await fleet.push("web", r.static_cluster("web-9", 9_100 + number), message=why)
    async with seen(chrome, fleet.origin, viewport={"width": 1_000, "height": 760}) as look:
        for name, path, shown in (
            ("page-overview", "", "Last revisions"),
            ("page-rollback", "rollback?group=web&to=1", "This touches 150 connected nodes"),
        ):
            page = await opened(look, path)
            await expect(page.locator("#liveness")).to_have_text("live")
            await expect(page.get_by_text(shown)).to_be_visible()
            picture = await page.screenshot()
            assert picture.startswith(b"\x89PNG")
            if PICTURES:
                (Path(PICTURES) / f"{name}.png").write_bytes(picture)
        assert look.faults == []


# --- A server that is lost; last, as it is stopped --------------------------------------------------------------------


async def test_a_lost_server_is_said_and_found_again(fleet: Fleet, look: Seen) -> None:
    page = await opened(look, "")
    await expect(page.locator("#liveness")).to_have_text("live")
    await mark(page)
    banner: Locator = page.locator("#lost")
    await expect(banner).to_be_hidden()
    fleet.server.stop()
    await expect(banner).to_be_visible()
    assert re.search(r"What you see is from \d+:\d+:\d+. Trying again…", await banner.inner_text())
    assert await banner.get_attribute("role") == "alert"
    await expect(page.locator("#liveness")).to_have_text("not connected")
    assert await violations(page) == []
    fleet.server.start()
    await fleet.server.wait_ready()
    await expect(banner).to_be_hidden()
    await expect(page.locator("#liveness")).to_have_text("live")
    assert await is_kept(page)
    look.forgive("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "503")
