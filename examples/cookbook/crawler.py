"""A crawler: pages are fetched as they are found, each once, a few at a time from each host.

Run it: `pip install httpx2 starlette "hypercorn[trio]"`, `python examples/cookbook/crawler.py`
"""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx2
import trio
from servers import Site, open_server

from trioflow import (
    CheckpointConfig,
    ParallelConfig,
    RetryConfig,
    WorkQueue,
    open_parallel,
    with_concurrency_limit,
    with_retry,
)

Crawled = tuple[dict[str, str], dict[str, Exception]]


def worth_another_attempt(error: Exception) -> bool:
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in {408, 429} or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)


async def crawl(
    fetch: Callable[[str], Awaitable[str]], start: str, store: str | None = None, *, per_host: int = 2
) -> Crawled:
    hosts: dict[str, trio.CapacityLimiter] = defaultdict(lambda: trio.CapacityLimiter(per_host))
    polite = with_concurrency_limit(fetch, lambda url: hosts[urlsplit(url).netloc])
    patient = with_retry(polite, RetryConfig(initial_delay=0.01), on=worth_another_attempt)
    pages, errors = {}, {}
    queue = WorkQueue([start], dedupe=str)
    kept = CheckpointConfig(store=store) if store else None
    config = ParallelConfig(max_workers=8, fail_fast=False, checkpoint=kept, observer="noop")
    async with open_parallel(queue, patient, config=config, keep_results=False, run_id="crawl", key=str) as run:
        async for outcome in run:
            url = str(outcome.item)
            if outcome.error is not None:
                errors[url] = outcome.error
                continue
            pages[url] = outcome.unwrap()
            for link in links(url, pages[url]):
                queue.put(link)
    return pages, errors


def links(base: str, page: str) -> list[str]:
    found = (urldefrag(urljoin(base, link)).url for link in re.findall(r'href="([^"]*)"', page))
    return [url for url in found if urlsplit(url).hostname == urlsplit(base).hostname]


async def main() -> None:
    tree = {f"/{number}": [f"/{2 * number}", f"/{2 * number + 1}#top"] for number in range(1, 50)}
    site = Site(tree, broken={"/7": [503, 429]})
    async with open_server(site.app) as url, httpx2.AsyncClient(trust_env=False) as client:

        async def fetch(url: str) -> str:
            return (await client.get(url)).raise_for_status().text

        pages, errors = await crawl(fetch, f"{url}/1")
    print(f"{len(pages)} pages and {len(errors)} errors, in {site.asked.total()} requests")
    print(f"{site.most_at_once} at once at most; the first error: {next(iter(errors.values()))}".splitlines()[0])



if __name__ == "__main__":
    trio.run(main)
