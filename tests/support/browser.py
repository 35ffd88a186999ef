"""A real browser: Debian's Chromium, driven by playwright, and axe-core for what is wrong for people with disabilities.

PyPI's playwright brings its own driver; the browser that it would download is not used. axe-core comes with PyPI's
``axe-playwright-python``.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class BrowserMissingError(Exception):
    """There is no Chromium on this machine."""


def chromium() -> str:
    """Return the path of the browser. Raises BrowserMissingError."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise BrowserMissingError("install Chromium (Debian: apt-get install chromium)")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Run the browser, without a window."""
    path = chromium()
    async with async_playwright() as playwright:
        # A container's /dev/shm is often small, and root may not use the sandbox; only pages of the tests are loaded.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        made = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield made
        finally:
            await made.close()


class Seen:
    """A page of the browser, and what went wrong in it: errors, refused content, requests to elsewhere, dialogs."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda line: self.faults.append(f"console: {line.text}") if line.type == "error" else None)
        page.on("request", lambda request: self._note(request.url))
        page.on("dialog", self._dialog)

    def _note(self, url: str) -> None:
        if not url.startswith((self.origin, "blob:", "data:")):
            self.faults.append(f"request to {url}")

    async def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def forgive(self, *texts: str) -> None:
        """Forget faults that have one of the texts, which the test caused."""
        self.faults = [fault for fault in self.faults if not any(text in fault for text in texts)]


@asynccontextmanager
async def seen(made: Browser, origin: str, **options: Any) -> AsyncIterator[Seen]:
    """Open a page in a browser profile of its own."""
    context: BrowserContext = await made.new_context(**({"base_url": origin, "locale": "en-GB"} | options))
    try:
        yield Seen(await context.new_page(), origin)
    finally:
        await context.close()


@cache
def _axe() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text()


async def violations(page: Page, *rules: str) -> list[str]:
    """Return what axe-core finds wrong with a page by some rules, or by all, each with the elements.

    The page's Content-Security-Policy stays in force.
    """
    # In a world of its own, scripts are not subject to the page's Content-Security-Policy.
    session = await page.context.new_cdp_session(page)
    tree = await session.send("Page.getFrameTree")
    world = await session.send(
        "Page.createIsolatedWorld", {"frameId": tree["frameTree"]["frame"]["id"], "worldName": "axe"}
    )
    where = {"contextId": world["executionContextId"], "returnByValue": True, "awaitPromise": True}
    await session.send("Runtime.evaluate", {"expression": _axe(), **where})
    run_only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": AXE_TAGS}
    options = json.dumps({"runOnly": run_only, "resultTypes": ["violations"]})
    script = f"axe.run(document, {options}).then(found => JSON.stringify(found.violations))"
    async with asyncio.timeout(60):
        answer = await session.send("Runtime.evaluate", {"expression": script, **where})
    await session.detach()
    assert "value" in answer["result"], answer
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {' '.join(node['html'][:160] for node in each['nodes'][:4])}"
        for each in json.loads(answer["result"]["value"])
    ]
