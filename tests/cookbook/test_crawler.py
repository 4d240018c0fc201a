"""The recipe of the crawler: pages are fetched as they are found, each once, two at a time from each host."""

import pytest
import trio

httpx2 = pytest.importorskip("httpx2", reason="the recipe needs the httpx2 package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

import crawler  # noqa: E402 - may be missing
from crawler import crawl  # noqa: E402
from servers import Site, open_server  # noqa: E402


def fetching(client):
    async def fetch(url: str) -> str:
        return (await client.get(url)).raise_for_status().text

    return fetch


async def test_each_page_is_fetched_once_and_each_host_is_spared(store):
    first = Site({"/": [f"/{number}" for number in range(10)]} | {f"/{number}": ["/", f"/{(number + 1) % 10}#top"] for number in range(10)}, {})
    second = Site({"/": ["/lost", "/busy", "mailto:nobody@example.com"], "/busy": ["deep"]}, {"/busy": [503, 429], "/deep": [500] * 9})
    with trio.fail_after(20):
        async with open_server(first.app) as here, open_server(second.app) as there:
            first.pages["/3"].append(f"{there}/")
            async with httpx2.AsyncClient(trust_env=False) as client:
                pages, errors = await crawl(fetching(client), f"{here}/", store)

    assert set(pages) == {f"{here}/", *(f"{here}/{number}" for number in range(10)), f"{there}/", f"{there}/busy"}
    assert {url: error.response.status_code for url, error in errors.items()} == {f"{there}/lost": 404, f"{there}/deep": 500}
    assert set(first.asked.values()) == {1}
    assert second.asked == {"/": 1, "/lost": 1, "/busy": 3, "/deep": 3}
    assert 0 < first.most_at_once <= 2
    assert 0 < second.most_at_once <= 2


async def test_a_crawl_that_was_cut_short_goes_on(store):
    site = Site({f"/{number}": [f"/{number + 1}", f"/leaf{number}"] for number in range(20)} | {f"/leaf{number}": [] for number in range(20)}, {})
    with trio.fail_after(20):
        async with open_server(site.app) as here, httpx2.AsyncClient(trust_env=False) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crawl, fetching(client), f"{here}/0", store)
                await site.tenth.wait()
                nursery.cancel_scope.cancel()
            fetched = dict(site.asked)
            pages, errors = await crawl(fetching(client), f"{here}/0", store)

    assert len(pages) == 40
    assert list(errors) == [f"{here}/20"]
    again = [path for path in fetched if site.asked[path] > 1]
    # what was in hand, two at a time, and no more
    assert len(fetched) >= 10
    assert len(again) <= 2


async def test_the_program_shows_what_was_fetched(capsys):
    with trio.fail_after(20):
        await crawler.main()
    counts, most = capsys.readouterr().out.splitlines()
    # pages 1 to 49 link to 2 to 99, and one of them is broken twice
    assert counts == "49 pages and 50 errors, in 101 requests"
    assert most.startswith("2 at once at most; the first error: Client error '404 ")
