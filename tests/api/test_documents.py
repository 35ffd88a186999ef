"""The OpenAPI document and its page: made once, and not on the event loop, where streams would wait for it."""

import asyncio
import json
import threading
from typing import Any

from fastapi import FastAPI

from xds.api.rest_page import Documents


def described(threads: list[threading.Thread]) -> dict[str, Any]:
    threads.append(threading.current_thread())
    app = FastAPI(title="an API", version="1")

    @app.get("/things")
    def things() -> None:
        """Return things."""

    return app.openapi()


async def test_the_document_is_made_once_on_a_thread_for_all_who_ask_at_the_same_moment() -> None:
    threads: list[threading.Thread] = []
    documents = Documents(lambda: described(threads))
    *texts, page = await asyncio.gather(*(documents.text() for _ in range(5)), documents.page("http://here"))
    assert len(set(texts)) == 1
    assert list(json.loads(texts[0])["paths"]) == ["/things"]
    assert "http://here/things" in page
    assert "http://there/things" in await documents.page("http://there")
    (made_on,) = threads
    assert made_on is not threading.main_thread()


async def test_a_document_that_could_not_be_made_is_made_by_the_next_request() -> None:
    threads: list[threading.Thread] = []
    attempts = iter([OSError("no memory"), None])

    def describe() -> dict[str, Any]:
        if (error := next(attempts)) is not None:
            raise error
        return described(threads)

    documents = Documents(describe)
    results = await asyncio.gather(documents.text(), documents.text(), return_exceptions=True)
    assert isinstance(results[0], OSError)
    assert results[1] == await documents.text()
