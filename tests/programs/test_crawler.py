"""A crawler: pages are fetched as they are found, each once, two at a time from each host."""

import re
from collections import Counter, defaultdict
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
import trio

from trioflow import (
    CheckpointConfig,
    ParallelConfig,
    RetryConfig,
    WorkQueue,
    open_parallel,
    with_concurrency_limit,
    with_retry,
)

httpx = pytest.importorskip("httpx", reason="a program with the httpx package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

from servers import open_server  # noqa: E402 - may be missing
from starlette.applications import Starlette  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import HTMLResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402


def worth_another_attempt(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in {408, 429} or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


async def crawl(client, start: str, store: str, *, per_host: int = 2) -> tuple[dict[str, str], dict[str, Exception]]:
    """Return the pages that can be reached from `start`, and what went wrong, by URL.

    A crawl that was cut short goes on: pages that were fetched come from the store, and lead to the others again.
    """
    hosts: dict[str, trio.CapacityLimiter] = defaultdict(lambda: trio.CapacityLimiter(per_host))

    async def fetch(url: str) -> str:
        response = await client.get(url)
        response.raise_for_status()
        return response.text

    polite = with_concurrency_limit(fetch, lambda url: hosts[urlsplit(url).netloc])
    patient = with_retry(polite, RetryConfig(initial_delay=0.01), on=worth_another_attempt)

    pages: dict[str, str] = {}
    errors: dict[str, Exception] = {}
    queue = WorkQueue([start], dedupe=str)
    config = ParallelConfig(
        max_workers=8, fail_fast=False, checkpoint=CheckpointConfig(store=store), observer="noop"
    )
    async with open_parallel(queue, patient, config=config, keep_results=False, run_id="crawl", key=str) as run:
        async for outcome in run:
            if outcome.ok:
                pages[outcome.item] = outcome.unwrap()
                for url in links(outcome.item, pages[outcome.item]):
                    queue.put(url)
            else:
                errors[outcome.item] = outcome.error
    return pages, errors


def links(base: str, page: str) -> list[str]:
    found = (urldefrag(urljoin(base, link)).url for link in re.findall(r'href="([^"]*)"', page))
    return [url for url in found if url.startswith("http://127.0.0.1")]


class Site:
    """Pages that link to others; it counts who asks for what, and how many ask at once."""

    def __init__(self, pages: dict[str, list[str]], broken: dict[str, list[int]]) -> None:
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self.reached = trio.Event()
        self._at_once = 0
        self._pages = pages
        self._broken = broken
        self.app = Starlette(routes=[Route("/{path:path}", self.page)])

    async def page(self, request: Request) -> Response:
        path = request.url.path
        self.asked[path] += 1
        if path == "/10":
            self.reached.set()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.sleep(0.002)
        finally:
            self._at_once -= 1
        if self._broken.get(path):
            return Response(status_code=self._broken[path].pop(0))
        if path not in self._pages:
            return Response(status_code=404)
        return HTMLResponse("".join(f'<a href="{link}">{link}</a>' for link in self._pages[path]))


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


async def test_each_page_is_fetched_once_and_each_host_is_spared(store):
    first = Site({"/": [f"/{number}" for number in range(10)]} | {f"/{number}": ["/", f"/{(number + 1) % 10}#top"] for number in range(10)}, {})
    second = Site({"/": ["/lost", "/busy", "mailto:nobody@example.com"], "/busy": ["deep"]}, {"/busy": [503, 429], "/deep": [500] * 9})
    with trio.fail_after(20):
        async with open_server(first.app) as here, open_server(second.app) as there:
            first._pages["/3"].append(f"{there}/")
            async with httpx.AsyncClient(trust_env=False) as client:
                pages, errors = await crawl(client, f"{here}/", store)

    assert set(pages) == {f"{here}/", *(f"{here}/{number}" for number in range(10)), f"{there}/", f"{there}/busy"}
    assert {url: error.response.status_code for url, error in errors.items()} == {f"{there}/lost": 404, f"{there}/deep": 500}
    assert set(first.asked.values()) == {1}
    assert second.asked == {"/": 1, "/lost": 1, "/busy": 3, "/deep": 3}
    assert 0 < first.most_at_once <= 2
    assert 0 < second.most_at_once <= 2


async def test_a_crawl_that_was_cut_short_goes_on(store):
    site = Site({f"/{number}": [f"/{number + 1}", f"/leaf{number}"] for number in range(20)} | {f"/leaf{number}": [] for number in range(20)}, {})
    with trio.fail_after(20):
        async with open_server(site.app) as here, httpx.AsyncClient(trust_env=False) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crawl, client, f"{here}/0", store)
                await site.reached.wait()
                nursery.cancel_scope.cancel()
            fetched = dict(site.asked)
            pages, errors = await crawl(client, f"{here}/0", store)

    assert len(pages) == 40
    assert list(errors) == [f"{here}/20"]
    again = [path for path in fetched if site.asked[path] > 1]
    # what was in hand, two at a time, and no more
    assert len(fetched) >= 10
    assert len(again) <= 2
