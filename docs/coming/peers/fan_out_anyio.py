import anyio


async def fetch(page):
    await anyio.sleep(page / 10)
    if page == 3:
        raise ConnectionError("page 3 is gone")
    return page * 10


async def main():
    limit = anyio.CapacityLimiter(4)
    results = {}

    async def bounded(page):
        async with limit:
            results[page] = await fetch(page)

    try:
        async with anyio.create_task_group() as group:
            for page in range(8):
                group.start_soon(bounded, page)
    except* ConnectionError as errors:
        print("failed:", *errors.exceptions)
    print("results:", sorted(results.items()))


anyio.run(main)
