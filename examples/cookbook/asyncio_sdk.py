"""Calls of aiohttp, which is asyncio-only, fanned out from Trio, with a time limit that ends the call over there.

Run it: `pip install aiohttp starlette "hypercorn[trio]"`, `python examples/cookbook/asyncio_sdk.py`
"""

import aiohttp
import trio
from asyncio_thread import open_asyncio
from servers import Site, open_server

from trioflow import ParallelConfig, process_parallel


async def main() -> None:
    site = Site({f"/{number}": ["/"] * number for number in range(30)}, slow={"/7": 60})
    async with (
        open_server(site.app) as url,
        open_asyncio() as there,
        there.opened(lambda: aiohttp.ClientSession(url)) as session,
    ):

        async def fetch_there(path: str) -> int:
            async with session.get(path) as response:
                return len(await response.text())

        async def fetch(path: str) -> int:
            return await there.call(fetch_there, path)

        config = ParallelConfig(max_workers=8, fail_fast=False, task_timeout=1, observer="noop")
        result = await process_parallel(site.pages, fetch, config=config)
    print(f"{len(result.results)} pages of {sum(result.results)} characters,", result.errors)


if __name__ == "__main__":
    trio.run(main)
