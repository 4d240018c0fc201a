import asyncio
from functools import partial

import aiometer


async def fetch(page):
    await asyncio.sleep(page / 10)
    if page == 3:
        raise ConnectionError("page 3 is gone")
    return page * 10


async def main():
    calls = [partial(fetch, page) for page in range(3)]
    print("results:", await aiometer.run_all(calls, max_at_once=4))
    calls = [partial(fetch, page) for page in range(8)]
    try:
        await aiometer.run_all(calls, max_at_once=4)
    except ConnectionError as error:
        print("failed:", error)


asyncio.run(main())
